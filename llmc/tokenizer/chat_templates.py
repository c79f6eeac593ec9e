"""Chat templates that stand in files of their own beside a tokenizer: read, and written back as they were."""

import os

from llmc.system.atomic import atomic_write
from llmc.errors import CheckpointError
from llmc.system.small_file import is_there, read_small

DEFAULT = "chat_template.jinja"
OTHERS = "additional_chat_templates"  # a folder of NAME.jinja
_MOST = 1 << 22  # bytes; the largest in use have a hundredth


def read_chat_templates(folder):
    """The chat templates of a tokenizer's folder.

    Parameters
    ----------
    folder : path

    Returns
    -------
    dict
        {file, relative to the folder: text}; empty where there is none.

    Raises
    ------
    CheckpointError
        For a file that is too large, no regular file, or not UTF-8.
    """
    files = [DEFAULT] if is_there(os.path.join(folder, DEFAULT)) else []
    others = os.path.join(folder, OTHERS)
    if is_there(others):
        files += [f"{OTHERS}/{name}" for name in sorted(os.listdir(others)) if name.endswith(".jinja")]
    return {file: _text(os.path.join(folder, file)) for file in files}


def write_chat_templates(folder, templates):
    """Write what `read_chat_templates` read; each file appears whole or not at all."""
    for file, text in templates.items():
        path = os.path.join(folder, file)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with atomic_write(path, "w") as out:
            out.write(text)


def _text(path):
    try:
        return read_small(path, _MOST, "a chat template").decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: byte {error.start} (0x{error.object[error.start]:02x}) is not UTF-8") from None
