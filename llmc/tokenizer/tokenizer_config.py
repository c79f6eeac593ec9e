"""What tokenizer_config.json says about a tokenizer, applied as transformers does."""

import tokenizers

from llmc.errors import CheckpointError
from llmc.tokenizer.tokenizer_files import SPECIAL_NAMES, short

# What special tokens are called by habit, where nobody says.
HABITS = {
    "bos_token": ("<s>", "<bos>", "[BOS]", "<|begin_of_text|>"),
    "eos_token": ("<|endoftext|>", "</s>", "<eos>", "[EOS]", "<|end_of_text|>"),
    "unk_token": ("<unk>", "[UNK]"),
    "pad_token": ("<pad>", "[PAD]", "<|pad|>"),
}
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")


def habitual(tokens):
    """The special tokens by name, as far as the usual ones are among `tokens`."""
    found = {name: next((token for token in habits if token in tokens), None) for name, habits in HABITS.items()}
    return {name: token for name, token in found.items() if token is not None}


def configure(backend, config, path):
    """Give a tokenizer of the library what its configuration speaks of: added tokens, the template, whether special
    tokens in a text are text.

    Returns
    -------
    dict
        The special tokens by name.

    Raises
    ------
    CheckpointError
        For an entry of the wrong kind, or an id that the vocabulary does not allow.
    """
    where = path.parent / "tokenizer_config.json"
    _check_words(config, where)
    backend.encode_special_tokens = config.get("split_special_tokens", False)
    _add_declared(backend, config.get("added_tokens_decoder") or {}, where)
    given = [name for name in SPECIAL_NAMES if config.get(name)]
    tokens = {name: _token(config[name], f"{where}: {name}", special=True) for name in given}
    special = {name: token.content for name, token in tokens.items()}
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    backend.add_tokens([token for token in (*tokens.values(), *_extra(config, where)) if token.content not in known])
    if not special:
        added = backend.get_added_tokens_decoder().values()
        special = habitual([token.content for token in added if token.special])
    if path.name == "vocab.json" and ("add_bos_token" in config or "add_eos_token" in config):
        bos = [special["bos_token"]] if "bos_token" in special and config.get("add_bos_token") else []
        eos = [special["eos_token"]] if "eos_token" in special and config.get("add_eos_token") else []
        single = [*bos, "$A", *eos]
        backend.post_processor = tokenizers.processors.TemplateProcessing(
            single=single, pair=single + [f"{piece}:1" for piece in (*bos, "$B", *eos)],
            special_tokens=[(token, backend.token_to_id(token)) for token in {*bos, *eos}],
        )
    return special


def _check_words(config, where):
    """CheckpointError for sides that there are not, and a flag that is none."""
    for name in ("truncation_side", "padding_side"):
        if config.get(name, "right") not in ("left", "right"):
            raise CheckpointError(f"{where}: {name} is {short(config[name])}; it is 'left' or 'right'")
    if not isinstance(config.get("split_special_tokens", False), bool):
        raise CheckpointError(f"{where}: split_special_tokens is {short(config['split_special_tokens'])}; it is true "
                              f"or false")


def check_added_ids(backend, entries, path):
    """CheckpointError unless every added token of tokenizer.json has the id it declares; the library renumbers them."""
    for entry in entries:
        number = backend.token_to_id(entry["content"])
        if number != entry["id"]:
            raise CheckpointError(f"{path}: added_tokens: {entry['content']!r} declares the id {entry['id']}, but with "
                                  f"this vocabulary it can only have {number}")


def _add_declared(backend, declared, where):
    """Add the tokens of added_tokens_decoder, whose keys are their ids."""
    if not isinstance(declared, dict) or not all(key.isdecimal() and len(key) < 10 for key in declared):
        raise CheckpointError(f"{where}: added_tokens_decoder is {short(declared)}, which is not an object of ids")
    known = {number: repr(token) for number, token in backend.get_added_tokens_decoder().items()}
    tokens = [(int(key), _token(declared[key], f"{where}: added_tokens_decoder[{key}]", special=False))
              for key in sorted(declared, key=int)]
    backend.add_tokens([token for number, token in tokens if known.get(number) != repr(token)])
    for number, token in tokens:
        found = backend.token_to_id(token.content)
        if found != number:
            raise CheckpointError(f"{where}: added_tokens_decoder: {token.content!r} has the id {number}, but with "
                                  f"this vocabulary it can only have {found}")


def _extra(config, where):
    """The special tokens without a name of their own."""
    for name in ("extra_special_tokens", "additional_special_tokens"):
        extra = config.get(name) or []
        if not isinstance(extra, (list, dict)):
            raise CheckpointError(f"{where}: {name} is {short(extra)}, which is not a list")
        for entry in extra.values() if isinstance(extra, dict) else extra:
            yield _token(entry, f"{where}: {name}", special=isinstance(entry, str))


def _token(entry, where, special):
    """A token of the library, from a string or from the object that transformers writes."""
    fields = {"content": entry} if isinstance(entry, str) else entry
    if not isinstance(fields, dict) or not isinstance(fields.get("content"), str) or not fields["content"]:
        raise CheckpointError(f"{where} is {short(entry)}, which is no token: a string, or an object with its content")
    flags = {name: fields[name] for name in _FLAGS if isinstance(fields.get(name), bool)}
    return tokenizers.AddedToken(fields["content"], special=special or fields.get("special") is True, **flags)
