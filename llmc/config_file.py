"""The JSON files of a configuration: found, read with suspicion, written whole."""

import json
import os
import re
import secrets

from llmc.errors import CheckpointError, ConfigError

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
    if os.path.isfile(source):
        return source, None
    if os.path.isdir(source):
        path, beside = (os.path.join(source, name) for name in ("config.json", "generation_config.json"))
        if not os.path.isfile(path):
            raise FileNotFoundError(f"{path}: there is no such file; a checkpoint's folder holds a config.json")
        return path, beside if os.path.isfile(beside) else None
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", source):
        raise FileNotFoundError(f"{source}: there is no such folder or file")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    def fetch(name):
        return hf_hub_download(source, name, revision=revision, local_files_only=local_files_only)

    try:
        path = fetch("config.json")
    except Exception as error:
        raise FileNotFoundError(
            f"{source}: there is no such folder or file, and the hub gave no config.json of that name "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'})"
        ) from error
    try:
        return path, fetch("generation_config.json")
    except (EntryNotFoundError, LocalEntryNotFoundError):
        return path, None


def read_json(path):
    """The object in a JSON file, or CheckpointError saying what the file is instead."""
    with open(path, "rb") as file:
        data = file.read(_LARGEST_FILE + 1)
    if len(data) > _LARGEST_FILE:
        raise CheckpointError(f"{path}: more than {_LARGEST_FILE} bytes is no configuration; is it the right file?")
    for start, what in (
        (b"version https://git-lfs", "a git-LFS pointer; fetch the file itself with `git lfs pull`"),
        (b"<", "an HTML page, not JSON; download the file itself"),
        (b"GGUF", "a GGUF model, not JSON; take the checkpoint it was made from"),
    ):
        if data.lstrip()[: len(start)] == start:
            raise CheckpointError(f"{path}: this is {what}")
    try:
        fields = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: this is not JSON ({error}); download or write it again") from None
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path}: this is JSON, but a {type(fields).__name__} and not an object of fields")
    return fields


def as_json(file, fields):
    """The text of a JSON file, or ConfigError naming the field that cannot be written."""
    for name, value in fields.items():
        try:
            json.dumps({name: value})
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError(f"{name} {value!r} cannot be written to {file} ({error}); take it out") from None
    return json.dumps(fields, indent=2) + "\n"


def write_whole(path, text):
    """Beside, to the disk, then under its name: a crash leaves the old file or the new one."""
    beside = f"{path}.{secrets.token_hex(4)}.part"
    try:
        with open(beside, "x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        if os.path.exists(beside):
            os.unlink(beside)
        raise
    folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
