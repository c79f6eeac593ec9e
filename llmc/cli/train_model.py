"""The model and the tokenizer of llmc train: those that were named, or new ones."""

from llmc.cli.outcome import Usage
from llmc.cli.parser import between, whole
from llmc.cli.sources import located, tokenizer_of

CONFIG = {  # fields of config.json that are flags: type, what it is, default
    "model_type": (str, "the family: llama, gpt2, mistral, openai-gpt or lime", "llama"),
    "hidden_size": (whole(1), "the width of the stream", 256),
    "num_hidden_layers": (whole(1), "blocks, one above the other", 4),
    "num_attention_heads": (whole(1), "heads of queries", "one for 64 of hidden_size"),
    "num_key_value_heads": (whole(1), "heads of keys and values, which queries share", "num_attention_heads"),
    "head_dim": (whole(1), "the width of a head", "hidden_size / num_attention_heads"),
    "intermediate_size": (whole(1), "the width of the feed-forward", "8/3 of hidden_size, or 4 times it for GPT"),
    "max_position_embeddings": (whole(2), "the context, in tokens", "512, or the block size if that is more"),
    "sliding_window": (whole(1), "how many tokens a token sees, itself included", "the family's"),
    "initializer_range": (between(0, 1, open_low=True), "the deviation that weights start with", "the family's"),
    "tie_word_embeddings": (bool, "let the head be the embedding", "the family's"),
}


def tokenizer_for(args, source, texts, vocab_size=None):
    """The tokenizer that was named, or the model's, or one trained on the texts; None with tokens alone."""
    from llmc import Tokenizer

    if args.tokenizer:
        return Tokenizer.from_pretrained(located(args.tokenizer))
    found = tokenizer_of(source) if source else None
    if found is not None or texts is None:
        return found
    if source:
        raise FileNotFoundError(f"{source}: no tokenizer in it; name one with --tokenizer DIR")
    return Tokenizer.train(texts, vocab_size=args.vocab_size or vocab_size or 4096)


def _sizes(args):
    return {name: getattr(args, name) for name in CONFIG if getattr(args, name) is not None}


def config_file(args):
    """What --config names, with the sizes that were given; None without."""
    from llmc import Config

    if not args.config:
        return None
    config, given = Config.from_pretrained(args.config), _sizes(args)
    if given.pop("model_type", config.model_type) != config.model_type:
        raise Usage(f"train: {args.config} is a {config.model_type}, --model-type says {args.model_type}")
    for name, value in given.items():
        setattr(config, name, value)
    config.validate()
    return config


def new_config(args, tokenizer, data):
    """The configuration of a new model of the sizes that were given."""
    from llmc import Config, ConfigError
    from llmc.families import row_of

    shown = ("model_type", "hidden_size", "num_hidden_layers")
    sizes = {name: CONFIG[name][2] for name in shown} | {"max_position_embeddings": max(512, args.block_size or 0)}
    given = sizes | _sizes(args)
    width = given["hidden_size"]
    given.setdefault("num_attention_heads", max(1, width // 64))
    if tokenizer is None:
        from llmc.data import TokenBlockDataset

        ends = dict(vocab_size=TokenBlockDataset(data[0], 2).vocab_size, bos_token_id=None, eos_token_id=None)
    else:
        ends = dict(vocab_size=max(tokenizer.get_vocab().values()) + 1, bos_token_id=tokenizer.bos_token_id,
                    eos_token_id=tokenizer.eos_token_id)
    try:
        return Config(**_habits(row_of(given["model_type"]), given), **ends)
    except ConfigError as error:
        raise Usage(f"train: {error}") from None


def _habits(family, given):
    """`given`, with the sizes that its family usually has where they are not given."""
    sizes = {}
    if "num_key_value_heads" in family.defaults:
        sizes["num_key_value_heads"] = given["num_attention_heads"]
    if family.feed_forward == "gated":
        sizes["intermediate_size"] = 8 * -(-given["hidden_size"] // 3)
    return sizes | given
