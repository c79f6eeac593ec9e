"""The JSON files of a configuration: found, read with suspicion, and made sure to be writable."""

import json
import os

from llmc.system import hub
from llmc.system.small_file import is_there, read_small
from llmc.checkpoint.formats import magic
from llmc.checkpoint.formats import strict_json
from llmc.checkpoint.formats.budget import Budget
from llmc.errors import CheckpointError, ConfigError, shown

FILES = ("config.json", "generation_config.json")
_LARGEST_FILE = 1 << 24  # bytes; a config.json has a few thousand


def locate(source, revision, local_files_only):
    """Where a configuration lies: the paths of its config.json, and of its generation_config.json or None.

    Parameters
    ----------
    source : str
        A folder, a file, or the name of a repository on the hub.
    revision : str or None
        Branch, tag or commit on the hub.
    local_files_only : bool
        Take a hub name from the cache.

    Raises
    ------
    FileNotFoundError
        When there is none, or the hub cannot be reached.
    """
    if is_there(source) and not os.path.isdir(source):
        return source, None
    return locate_in(hub.folder(source, revision, local_files_only, patterns=FILES))


def locate_in(folder):
    """The same of a folder that is here."""
    path, beside = (os.path.join(folder, name) for name in FILES)
    if not is_there(path):
        raise FileNotFoundError(f"{path}: there is no such file; a checkpoint's folder holds a config.json")
    return path, beside if is_there(beside) else None


def read_json(path):
    """The object in a JSON file.

    Raises
    ------
    OSError
        When there is no such file, or it may not be read.
    CheckpointError
        Saying what the file is instead.
    """
    data = read_small(path, _LARGEST_FILE, "a configuration")
    _, words = magic.identify(data[:512])
    if words and not data.lstrip().startswith(b"{"):
        raise CheckpointError(f"{path}: the file is {words}")
    fields = strict_json.parse(data, path, Budget(path, len(data)))
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path}: this is JSON, but a {type(fields).__name__} and not an object of fields")
    return fields


def check_writable(file, fields):
    """Raise ConfigError, naming the field, unless all of `fields` can stand in a JSON file."""
    for name, value in fields.items():
        try:
            json.dumps({name: value}, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError(f"{name} {shown(value)} cannot be written to {file} ({error}); take it out") from None
