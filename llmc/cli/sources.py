"""What commands open: a model with its tokenizer, and files of text or of tokens."""

import os

from llmc.cli.outcome import Usage, say
from llmc.system.hub import is_gguf


def located(name):
    """`name` as it is; when it is nothing here, so that only the hub may know it, that is said: it may take a while."""
    if not os.path.exists(name):
        from huggingface_hub.utils import logging

        logging.set_verbosity_error()
        say(f"{name}: nothing here has that name; asking the hub")
    return name


def located_model(name):
    """The same for a model, which is a folder, or a .gguf file.

    Raises
    ------
    NotADirectoryError
        When it is another file.
    """
    if os.path.exists(name) and not os.path.isdir(name) and not is_gguf(name):
        raise NotADirectoryError(f"{name}: a file; give the folder of a checkpoint, with its config.json, or a .gguf "
                                 "file")
    return located(name)


def model_and_tokenizer(name, needs_tokenizer=True, dtype=None, precision=None):
    """A checkpoint's model and tokenizer; None for a tokenizer that is not there and not needed.

    Parameters
    ----------
    name : str
        A folder, or a name on the hub.
    needs_tokenizer : bool
    dtype, precision : str or None
        What `llmc.cli.parser.storage` adds; None: a model's own default.

    Raises
    ------
    FileNotFoundError
        When there is no such checkpoint, or no tokenizer in it though one is needed.
    """
    from llmc import Model

    model = Model.from_pretrained(located_model(name), dtype=dtype or "float32", precision=precision)
    tokenizer = tokenizer_of(name)
    if tokenizer is None and needs_tokenizer:
        raise FileNotFoundError(f"{name}: no tokenizer.json (nor vocab.json with merges.txt) in it; put one there")
    return model, tokenizer


def tokenizer_of(name):
    """The tokenizer of a folder or hub name; None when it has none."""
    from llmc import Tokenizer
    from llmc.tokenizer.tokenizer_files import holds_tokenizer

    if os.path.isdir(name) or is_gguf(name):
        return Tokenizer.from_pretrained(name) if holds_tokenizer(name) else None
    try:
        return Tokenizer.from_pretrained(name)
    except FileNotFoundError:
        return None


def are_row_files(files):
    """Whether `files` are rows (.jsonl, .ndjson, .json, .csv, .parquet) and not text.

    Raises
    ------
    Usage
        When some are and others are not.
    """
    from llmc.data.row_files import is_row_file

    rows = [name for name in files if is_row_file(name)]
    if rows and len(rows) < len(files):
        raise Usage(f"{rows[0]} holds rows, and the other files do not; give one kind")
    return bool(rows)


def are_scenes(files):
    """Whether `files` are scenes (.yaml, .yml, folders and globs of them) and not text.

    Raises
    ------
    Usage
        When some are and others are not.
    """
    from llmc.data.scene_files import files_below, is_scene_file

    scenes = [name for name in files if is_scene_file(name) or os.path.isdir(name) and files_below(name)]
    if scenes and len(scenes) < len(files):
        raise Usage(f"{scenes[0]} holds scenes, and the other files do not; give one kind")
    return bool(scenes)


def are_rows(files):
    """Whether `files` are rows or scenes, which say what is learnt of them, and not text."""
    return are_scenes(files) or are_row_files(files)


def rows_of(files, tokenizer, block_size):
    """The dataset of such files."""
    from llmc.data import JsonlDataset, SceneDataset

    return (SceneDataset if are_scenes(files) else JsonlDataset)(files, tokenizer, block_size)


def require_files(files, why):
    """Raise Usage when one of `files`, which are read twice for the reason `why`, is a pipe: it never ends again."""
    for name in files:
        if os.path.exists(name) and not os.path.isfile(name):
            raise Usage(f"{name}: a pipe can be read once, and {why} twice; write it to a file")


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
