"""llmc train: a model on text files or token files, from scratch, from a checkpoint, or on from where it stopped."""

import os

from llmc.cli import train_flags
from llmc.cli.outcome import Usage, say
from llmc.cli.parser import between, threads, whole
from llmc.cli.sources import ends_in_bin, tokenizer_of
from llmc.cli.train_data import datasets, read_texts
from llmc.table import Table, count

EXAMPLE = ("llmc train corpus.txt --hidden-size 256 --num-hidden-layers 4 --max-steps 500 --eval-steps 100 --output-dir out\n"
           "  llmc train --resume --output-dir out")
SETTINGS = "train.json"  # in the output folder: what --resume need not be told again
SCRATCH = {"learning_rate": 1e-3, "lr_scheduler_type": "cosine", "warmup_steps": 0.05, "weight_decay": 0.1}
LONGEST = 512  # tokens of a block, unless more are asked for
CONFIG = {  # fields of config.json: type and default
    "model_type": (str, "llama"),
    "hidden_size": (whole(1), 256),
    "num_hidden_layers": (whole(1), 4),
    "num_attention_heads": (whole(1), "one for 64 of hidden_size"),
    "num_key_value_heads": (whole(1), "num_attention_heads"),
    "head_dim": (whole(1), "hidden_size / num_attention_heads"),
    "intermediate_size": (whole(1), "8/3 of hidden_size, or 4 times it for GPT"),
    "max_position_embeddings": (whole(2), 512),
    "sliding_window": (whole(1), "the family's"),
    "tie_word_embeddings": (bool, "the family's"),
}


def arguments(parser):
    """Its words."""
    parser.add_argument("data", nargs="*", metavar="FILE",
                        help="UTF-8 text, each file a document; or one .bin of llmc tokenize, which may exceed memory")
    parser.add_argument("--eval-data", nargs="+", metavar="FILE", help="the same, to evaluate with")
    parser.add_argument("--held-out", type=between(0, 0.9), metavar="SHARE",
                        help="without --eval-data, evaluate with this last share of the data [0.05]; 0: none")
    parser.add_argument("--block-size", type=whole(2), metavar="T",
                        help=f"tokens of a training item [the model's context, at most {LONGEST}]")
    parser.add_argument("--tokenizer", metavar="DIR", help="[the model's; for a new model one trained on the text]")
    parser.add_argument("--vocab-size", type=whole(257), metavar="V", help="of a tokenizer that is trained [4096]")
    parser.add_argument("--resume", action="store_true",
                        help="go on from the newest checkpoint in --output-dir, with its settings, to the same bits")
    parser.add_argument("--dry-run", action="store_true", help="say what it would take, and stop")
    model = parser.add_argument_group("model: one of the two, or a new one of these sizes")
    model.add_argument("--model", metavar="DIR", help="a checkpoint's folder, or a hub name")
    model.add_argument("--config", metavar="FILE", help="a config.json; the flags below change it")
    for name, (kind, default) in CONFIG.items():
        flag, text = f"--{name.replace('_', '-')}", f"[{default}]"
        if kind is bool:
            model.add_argument(flag, action="store_true", default=None, help=text)
        else:
            model.add_argument(flag, type=kind, metavar="N" if kind is not str else "NAME", help=text)
    train_flags.add(parser, SCRATCH)
    threads(parser)


def run(args):
    """Train, and print what it came to."""
    import llmc

    checkpoint, settings = _settings(args)
    training = _training_arguments(settings["training"])
    source = checkpoint or args.model
    tokens = ends_in_bin(settings["data"])
    texts = None if tokens else read_texts(settings["data"])
    tokenizer = _tokenizer(args, source, texts)
    if source:
        model = llmc.Model.from_pretrained(source)
    else:
        model = llmc.Model(_config(args, tokenizer, settings["data"]), seed=training.seed)
    settings["block_size"] = settings["block_size"] or min(model.config.max_position_embeddings, LONGEST)
    data, held_out = datasets(settings, texts, tokenizer, model.config.vocab_size)
    if args.dry_run:
        return print(_forecast(model, training, data, settings["block_size"]))
    say(f"{count(model.num_parameters()).strip()} parameters, {len(data):,} blocks of up to {settings['block_size']} "
        f"tokens{'' if held_out is None else f', {len(held_out):,} held out'}; everything goes to {training.output_dir}")
    trainer = llmc.Trainer(model, training, train_dataset=data, eval_dataset=held_out, tokenizer=tokenizer)
    if not checkpoint:
        _remember(training.output_dir, settings)
    try:
        result = trainer.train(resume_from_checkpoint=checkpoint)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped; go on with: llmc train --resume --output-dir {training.output_dir}") from None
    print(Table(["step", "epoch", "loss", "eval_loss", "perplexity", "tokens", "seconds", "tokens/s"], [
        {"step": result.step, "epoch": result.epoch, "loss": result.loss, "eval_loss": result.eval_loss,
         "perplexity": result.perplexity, "tokens": result.tokens, "seconds": result.seconds,
         "tokens/s": round(result.tokens / result.seconds) if result.seconds else None}],
        f"the model is in {training.output_dir}, its losses in {os.path.join(training.output_dir, 'loss.png')}"))


def _settings(args):
    """(checkpoint to resume from or None, settings): what was given, and in a resumed training what was given then."""
    from llmc import TrainingArguments

    given = {name: getattr(args, name) for name in ("data", "eval_data", "held_out", "block_size")}
    training = train_flags.given(args)
    output_dir = training.get("output_dir", TrainingArguments.output_dir)
    if not args.resume:
        if not args.data:
            raise Usage("train: which FILE to train on? (or --resume a training; see llmc train --help)")
        if args.model and (args.config or any(getattr(args, name) is not None for name in CONFIG)):
            raise Usage("train: --model is a model with its own sizes; leave --config and the sizes out")
        scratch = {} if args.model else SCRATCH
        return None, {**given, "training": {**scratch, "output_dir": output_dir, **training}}
    from llmc.training_checkpoint import newest

    for name in ("model", "config", "tokenizer", "vocab_size", *CONFIG):
        if getattr(args, name) is not None:
            raise Usage(f"train: --resume goes on with the checkpoint's model and tokenizer; "
                        f"leave --{name.replace('_', '-')} out")
    checkpoint = newest(output_dir)
    saved = _saved(output_dir)
    settings = {name: value or saved.get(name) for name, value in given.items()}
    if not settings["data"]:
        raise Usage(f"train: {os.path.join(output_dir, SETTINGS)} is not there to say what it was trained on; give FILE")
    return checkpoint, {**settings, "training": {**saved.get("training", {}), **training, "output_dir": output_dir}}


def _saved(output_dir):
    from llmc.config_file import read_json

    path = os.path.join(output_dir, SETTINGS)
    return read_json(path) if os.path.exists(path) else {}


def _remember(output_dir, settings):
    from llmc.checkpoint.atomic import write_json

    paths = {name: settings[name] and [os.path.abspath(path) for path in settings[name]] for name in ("data", "eval_data")}
    os.makedirs(output_dir, exist_ok=True)
    write_json(os.path.join(output_dir, SETTINGS), {**settings, **paths})


def _training_arguments(values):
    from llmc import ConfigError, TrainingArguments

    try:
        return TrainingArguments(**values)
    except (ConfigError, TypeError) as error:
        raise Usage(f"train: {error}") from None


def _tokenizer(args, source, texts):
    """The tokenizer that was named, or the model's, or one trained on the texts; None with tokens alone."""
    from llmc import Tokenizer

    if args.tokenizer:
        return Tokenizer.from_pretrained(args.tokenizer)
    found = tokenizer_of(source) if source else None
    if found is not None or texts is None:
        return found
    if source:
        raise FileNotFoundError(f"{source}: no tokenizer in it; name one with --tokenizer DIR")
    return Tokenizer.train(texts, vocab_size=args.vocab_size or 4096)


def _config(args, tokenizer, data):
    """The configuration of a new model."""
    from llmc import Config, ConfigError

    given = {name: getattr(args, name) for name in CONFIG if getattr(args, name) is not None}
    if args.config:
        config = Config.from_pretrained(args.config)
        if given.pop("model_type", config.model_type) != config.model_type:
            raise Usage(f"train: {args.config} is a {config.model_type}, --model-type says {args.model_type}")
        for name, value in given.items():
            setattr(config, name, value)
        config.validate()
        return config
    given = {"model_type": "llama", "hidden_size": 256, "num_hidden_layers": 4, "max_position_embeddings": 512} | given
    width = given["hidden_size"]
    given.setdefault("num_attention_heads", max(1, width // 64))
    if given["model_type"] not in ("gpt2", "openai-gpt"):
        given.setdefault("num_key_value_heads", given["num_attention_heads"])
        given.setdefault("intermediate_size", 8 * -(-width // 3))
    if tokenizer is None:
        from llmc.data import TokenBlockDataset

        ends = dict(vocab_size=TokenBlockDataset(data[0], 2).vocab_size, bos_token_id=None, eos_token_id=None)
    else:
        ends = dict(vocab_size=max(tokenizer.get_vocab().values()) + 1, bos_token_id=tokenizer.bos_token_id,
                    eos_token_id=tokenizer.eos_token_id)
    try:
        return Config(**given, **ends)
    except ConfigError as error:
        raise Usage(f"train: {error}") from None


def _forecast(model, training, data, length):
    """A table of what a training takes."""
    batch = training.per_device_train_batch_size
    estimate = model.estimate(batch=batch, length=length, train=True)
    per_epoch = -(-len(data) // (batch * training.gradient_accumulation_steps))
    steps = training.max_steps if training.max_steps > 0 else round(training.num_train_epochs * per_epoch)
    flops = estimate["flops"] * training.gradient_accumulation_steps
    rows = {"parameters": f"{model.num_parameters():,}", "blocks": f"{len(data):,}", "steps": f"{steps:,}",
            "steps of an epoch": f"{per_epoch:,}", "FLOPs of a step": count(flops), "FLOPs": count(steps * flops),
            "memory": count(estimate["memory"], "B"),
            "a checkpoint on disk": count(3 * estimate["parameters"], "B")}
    return Table(["what", "value"], [{"what": what, "value": value} for what, value in rows.items()])
