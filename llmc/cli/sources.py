"""What commands open: a model with its tokenizer, and files of text or of tokens."""

import os

from llmc.cli.outcome import Usage


def model_and_tokenizer(name, needs_tokenizer=True):
    """A checkpoint's model and tokenizer; None for a tokenizer that is not there and not needed.

    Raises
    ------
    FileNotFoundError
        When there is no such checkpoint, or no tokenizer in it though one is needed.
    """
    from llmc import Model

    tokenizer = tokenizer_of(name) if needs_tokenizer or os.path.isdir(name) else None
    if tokenizer is None and needs_tokenizer and os.path.isdir(name) and os.path.exists(os.path.join(name, "config.json")):
        raise FileNotFoundError(f"{name}: no tokenizer.json (nor vocab.json with merges.txt) in it; put one there")
    return Model.from_pretrained(name), tokenizer


def tokenizer_of(name):
    """The tokenizer of a folder or hub name; None when it has none."""
    from llmc import Tokenizer

    try:
        return Tokenizer.from_pretrained(name)
    except FileNotFoundError:
        return None


def ends_in_bin(files):
    """Whether `files` is one file of tokens (.bin) and not text.

    Raises
    ------
    Usage
        When it is both, or several files of tokens.
    """
    tokens = [name for name in files if name.endswith(".bin")]
    if tokens and len(files) > 1:
        raise Usage(f"{tokens[0]} holds tokens: it is given alone, not with {len(files) - 1} other files")
    return bool(tokens)
