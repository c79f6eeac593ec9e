"""The Hugging Face hub: where the files of a name lie that is no path here."""

import os
import re

_PATTERNS = ("*.json", "*.safetensors", "pytorch_model*.bin", "merges.txt", "vocab.txt", "tokenizer*", "*.jinja")
_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_PATIENCE = 5  # seconds for the hub to answer at all


def is_gguf(path):
    """Whether a path is that of a GGUF file, by its ending."""
    return os.fspath(path).lower().endswith(".gguf")


def located(source, revision=None, local_files_only=False, patterns=_PATTERNS):
    """What a checkpoint is read from: a .gguf file as it is; else its folder, as `folder` finds it."""
    source = os.fspath(source)
    return source if is_gguf(source) else folder(source, revision, local_files_only, patterns)


def folder(source, revision=None, local_files_only=False, patterns=_PATTERNS):
    """The folder of a checkpoint, fetched from the hub when `source` is a name there.

    Parameters
    ----------
    source : path or str
    revision : str, optional
        Branch, tag or commit on the hub.
    local_files_only : bool
        Take a hub name from the cache and ask no network. So it is done, too, when the hub does not answer.
    patterns : sequence of str
        Globs of the files to fetch.

    Raises
    ------
    FileNotFoundError
        When there is no such folder, and the hub has no such name, or cannot be reached and left none in its cache.
    """
    source = os.fspath(source)
    if os.path.isdir(source):
        return source
    if os.path.exists(source):
        return os.path.dirname(source) or "."
    if not _NAME.fullmatch(source):
        raise FileNotFoundError(f"{source}: no such folder or file")
    from huggingface_hub import snapshot_download

    # Without an answer the hub's client tries again for half a minute, also after a slip of the pen.
    silence = None if local_files_only else _silence()
    try:
        return snapshot_download(source, revision=revision, local_files_only=local_files_only or bool(silence),
                                 allow_patterns=list(patterns))
    except Exception as error:
        why = f"it cannot be reached ({silence}), nor is the name in its cache" if silence else _words(error)
        raise FileNotFoundError(f"{source}: no such folder or file here, and the hub gives none: {why}") from error


def _silence():
    """Why the hub does not answer; None when it does."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=_PATIENCE)
    except Exception as error:
        return _words(error)
    return None


def _words(error):
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no reason given'])[0]}"
