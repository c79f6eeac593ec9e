"""Where a checkpoint lies: a folder, or a name on the hub."""

import os

_PATTERNS = ["*.json", "*.safetensors", "pytorch_model*.bin", "merges.txt", "vocab.txt", "tokenizer*"]


def folder(source, revision=None, local_files_only=False):
    """The folder of a checkpoint, fetched from the hub when `source` is a name there.

    Raises
    ------
    FileNotFoundError
        When there is no such folder, and the hub has no such name or cannot be reached.
    """
    source = os.fspath(source)
    if os.path.isdir(source):
        return source
    if os.path.exists(source):
        return os.path.dirname(source) or "."
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(source, revision=revision, local_files_only=local_files_only, allow_patterns=_PATTERNS)
    except Exception as error:
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise FileNotFoundError(
            f"{source}: there is no such folder, and the hub gave none ({type(error).__name__}: {reason})"
        ) from error
