"""What tokenizer_config.json says about a tokenizer, applied as transformers does."""

import tokenizers

from llmc.errors import CheckpointError
from llmc.tokenizer_files import SPECIAL_NAMES

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
    """Give a tokenizer of the library the added tokens and the template that its configuration speaks of.

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
    _add_declared(backend, config.get("added_tokens_decoder") or {}, where)
    special = {name: _ensure(backend, config[name], f"{where}: {name}") for name in SPECIAL_NAMES if config.get(name)}
    for name in ("extra_special_tokens", "additional_special_tokens"):
        extra = config.get(name) or []
        if not isinstance(extra, (list, dict)):
            raise CheckpointError(f"{where}: {name} is {extra!r:.60}, which is not a list")
        for entry in extra.values() if isinstance(extra, dict) else extra:
            _ensure(backend, entry, f"{where}: {name}")
    if not special:
        special = habitual([token.content for token in _added(backend) if token.special])
    if "add_bos_token" in config or "add_eos_token" in config:
        bos = [special["bos_token"]] if "bos_token" in special and config.get("add_bos_token") else []
        eos = [special["eos_token"]] if "eos_token" in special and config.get("add_eos_token") else []
        single = [*bos, "$A", *eos]
        backend.post_processor = tokenizers.processors.TemplateProcessing(
            single=single, pair=single + [f"{piece}:1" for piece in (*bos, "$B", *eos)],
            special_tokens=[(token, backend.token_to_id(token)) for token in {*bos, *eos}],
        )
    return special


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
        raise CheckpointError(f"{where}: added_tokens_decoder is {declared!r:.60}, which is not an object of ids")
    for key in sorted(declared, key=int):
        token = _token(declared[key], f"{where}: added_tokens_decoder[{key}]", special=False)
        if repr(token) != repr(backend.get_added_tokens_decoder().get(int(key))):
            backend.add_tokens([token])
        number = backend.token_to_id(token.content)
        if number != int(key):
            raise CheckpointError(f"{where}: added_tokens_decoder: {token.content!r} declares the id {key}, but with this "
                                  f"vocabulary it can only have {number}")


def _ensure(backend, entry, where):
    """The content of a token that the configuration calls special, added if need be."""
    token = _token(entry, where, special=True)
    if token.content not in {known.content for known in _added(backend)}:
        backend.add_tokens([token])
    return token.content


def _added(backend):
    return backend.get_added_tokens_decoder().values()


def _token(entry, where, special):
    """A token of the library, from a string or from the object that transformers writes."""
    fields = {"content": entry} if isinstance(entry, str) else entry
    if not isinstance(fields, dict) or not isinstance(fields.get("content"), str) or not fields["content"]:
        raise CheckpointError(f"{where} is {entry!r:.60}, which is no token: a string, or an object with its content")
    flags = {name: fields[name] for name in _FLAGS if isinstance(fields.get(name), bool)}
    return tokenizers.AddedToken(fields["content"], special=special or fields.get("special") is True, **flags)
