"""manifest.json: the length and SHA-256 of every file of a folder, which show that it is whole."""

import hashlib
import os

from llmc.checkpoint.formats import strict_json
from llmc.system.atomic import write_json
from llmc.errors import CheckpointError, quoted
from llmc.system.small_file import is_there, open_regular

MANIFEST = "manifest.json"
_MOST = 1 << 24  # bytes: a hundred for each file of a folder


def write_manifest(folder):
    """Write `folder/manifest.json` over all files that are there now; call it when everything else is written."""
    files = {}
    for name in _files(folder):
        if name != MANIFEST:
            path = os.path.join(folder, name)
            files[name] = {"bytes": os.path.getsize(path), "sha256": _digest(path)}
    write_json(os.path.join(folder, MANIFEST), {"files": files})


def verify(folder):
    """Return None if every file of `folder/manifest.json` is there with the length and the SHA-256 it should have.

    Raises
    ------
    CheckpointError
        If the manifest or a file is missing, cut short or changed; the message names it.
    """
    path = os.path.join(folder, MANIFEST)
    if not is_there(path):
        raise CheckpointError(f"{folder}: no {MANIFEST}, so its writing was not finished")
    manifest = strict_json.read(path, _MOST, "a manifest")
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict):
        raise CheckpointError(f"{path}: no list of files in it")
    there = set(_files(folder))
    for name, expected in files.items():
        file = os.path.join(folder, name)
        if name not in there:
            raise CheckpointError(f"{file}: the file is missing; {path} lists it")
        if not isinstance(expected, dict) or expected.keys() != {"bytes", "sha256"}:
            raise CheckpointError(f"{path}: {quoted(name)} is not described by bytes and sha256")
        size = os.path.getsize(file)
        if size != expected["bytes"]:
            raise CheckpointError(f"{file}: {size} bytes, {path} says {expected['bytes']}")
    for name, expected in files.items():
        if _digest(os.path.join(folder, name)) != expected["sha256"]:
            raise CheckpointError(f"{os.path.join(folder, name)}: its SHA-256 is not the one in {path}; it was changed")


def _files(folder):
    """All files below `folder`, as relative names with slashes, sorted."""
    names = []
    for root, _, files in os.walk(folder):
        names += [os.path.relpath(os.path.join(root, name), folder).replace(os.sep, "/") for name in files]
    return sorted(names)


def _digest(path):
    digest = hashlib.sha256()
    with os.fdopen(open_regular(path), "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
