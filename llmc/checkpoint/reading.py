"""Checkpoint: the tensors of a folder or a file by name, read when asked."""

import os
import re
from collections.abc import Mapping

import numpy as np

from llmc.calls import public
from llmc.checkpoint.formats import magic
from llmc.checkpoint.formats import strict_json
from llmc.checkpoint.formats.regular_file import RegularFile
from llmc.checkpoint.roles import layer, part, role
from llmc.checkpoint.formats.safetensors_file import read_safetensors
from llmc.checkpoint.formats.torch_file import read_torch
from llmc.errors import CheckpointError, ShapeError, UnknownNameError, hint, quoted


def _read_gguf(file):
    """Of a format that few programs read, imported when it is."""
    from llmc.checkpoint.formats.gguf_file import read_gguf

    return read_gguf(file)


# In the order in which Hugging Face looks.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
INDEX_SUFFIX = ".index.json"
SUFFIXES = {".safetensors": read_safetensors, ".bin": read_torch, ".pt": read_torch, ".pth": read_torch,
            ".ckpt": read_torch, ".gguf": _read_gguf}
MAX_INDEX = 256 << 20
_PIECE = 1 << 20  # bytes of a matrix that is compared


class Checkpoint(Mapping):
    """A mapping from tensor name to array.

    Every access reads the tensor anew, into an array of its own in the file's dtype (bfloat16 is `ml_dtypes.bfloat16`):
    what happens to the file, or to another such array, does not change it. Also a context manager.

    Attributes
    ----------
    path : str
        What was opened.
    files : list of str
        The files that hold tensors.
    metadata : dict of str to str
        What the files say about themselves (`{"format": "pt"}`), and plain values that stood among the tensors.
    """

    def __init__(self, path, files, index=None):
        self.path = path
        self.files = files
        self.metadata = {}
        self._open = {}
        self._entries = {}
        self._file_of = {}
        try:
            for file in files:
                self._add(file, None if index is None else index[file])
        except BaseException:
            self.close()
            raise

    def _add(self, path, expected):
        opened = self._open[path] = RegularFile(path)
        entries, metadata = _reader(opened)(opened)
        if expected is not None:
            for name in expected - entries.keys():
                raise CheckpointError(
                    f"{path}: no tensor {quoted(name)} in it, though {self.path} says so{hint(name, entries)}"
                )
            for name in entries.keys() - expected:
                raise CheckpointError(
                    f"{path}: tensor {quoted(name)} is in it, though {self.path} does not place it there"
                )
        self.metadata.update(metadata)
        self._entries.update(entries)
        self._file_of.update(dict.fromkeys(entries, path))

    def __getitem__(self, name):
        entry = self._entry(name)
        array = np.empty(entry.shape, entry.dtype)
        entry.read_into(self._open_file(name), array)
        return array

    def __iter__(self):
        return iter(self._entries)

    def __len__(self):
        return len(self._entries)

    def __contains__(self, name):
        return name in self._entries

    def __repr__(self):
        return f"Checkpoint({self.path!r}: {len(self)} tensors in {len(self.files)} files)"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _entry(self, name):
        try:
            return self._entries[name]
        except KeyError:
            raise UnknownNameError(
                f"{self.path}: no tensor {quoted(name)} among its {len(self)}{hint(str(name), self._entries)}"
            ) from None

    def _open_file(self, name):
        opened = self._open[self._file_of[name]]
        if opened.closed:
            raise CheckpointError(f"{self.path}: the checkpoint is closed")
        return opened

    def read_into(self, name, out):
        """Read a tensor into `out`, without taking memory besides.

        Parameters
        ----------
        name : str
        out : numpy.ndarray
            Writable, of the tensor's shape. Where it is C-contiguous and of the file's dtype the numbers are read
            straight into place; otherwise they are converted, as an assignment would.

        Raises
        ------
        ShapeError
            If `out` has another shape.
        CheckpointError
            If the file was cut short since it was opened.
        """
        entry = self._entry(name)
        if out.shape != entry.shape:
            raise ShapeError(f"{self.file(name)}: {name} has shape {entry.shape}, the array to fill has {out.shape}")
        entry.read_into(self._open_file(name), out)

    def equal(self, name, other):
        """Whether two matrices have one shape and the same numbers; a piece of each is read at a time."""
        one, two = self._entry(name), self._entry(other)
        if one == two and self.file(name) == self.file(other):
            return True
        if one.shape != two.shape:
            return False
        step = max(1, _PIECE * one.shape[0] // max(1, one.nbytes))
        return all(np.array_equal(self.read_rows(name, row, row + step), self.read_rows(other, row, row + step))
                   for row in range(0, one.shape[0], step))

    def read_rows(self, name, first, last):
        """Some of the tensor's rows (places along its first axis) as an array of their own; there may be fewer."""
        entry = self._entry(name)
        entry = entry.rows(first, min(last, entry.shape[0]))
        array = np.empty(entry.shape, entry.dtype)
        entry.read_into(self._open_file(name), array)
        return array

    def names(self):
        """The names of all tensors."""
        return list(self._entries)

    def shape(self, name):
        """The tensor's shape, a tuple."""
        return self._entry(name).shape

    def dtype(self, name):
        """The tensor's `numpy.dtype`, as stored; of a GGUF file, whose numbers are read as float32, a word ("q4_1")."""
        return self._entry(name).stored

    def reads_as(self, name):
        """The `numpy.dtype` of the tensor's array."""
        return self._entry(name).dtype

    def nbytes(self, name):
        """The bytes of the tensor's elements."""
        return self._entry(name).nbytes

    def role(self, name):
        """What the tensor is for, told by its name: "attention", "norm", …, "other"; see `llmc.checkpoint.role`."""
        self._entry(name)
        return role(name)

    def layer(self, name):
        """The number of the layer that the tensor stands in, or None; see `llmc.checkpoint.layer`."""
        self._entry(name)
        return layer(name)

    def part(self, name):
        """The tensor's module within its block; see `llmc.checkpoint.part`."""
        self._entry(name)
        return part(name)

    def file(self, name):
        """The path of the file that holds the tensor."""
        self._entry(name)
        return self._file_of[name]

    def close(self):
        """Let go of the files."""
        for opened in self._open.values():
            opened.close()


@public
def open_checkpoint(path):
    """Open a checkpoint: its names, shapes and dtypes now, its numbers when asked.

    Parameters
    ----------
    path : str or PathLike
        A folder (model.safetensors, model.safetensors.index.json, pytorch_model.bin or pytorch_model.bin.index.json,
        in this order), one such file, or any .safetensors, .bin, .pt, .pth or .gguf file.

    Returns
    -------
    Checkpoint

    Raises
    ------
    FileNotFoundError
        If there is no such file, or no weights in the folder.
    CheckpointError
        If a file is damaged, hostile, incomplete or in another format.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        path = find_weights(path)
    if path.endswith(INDEX_SUFFIX):
        index = read_index(path)
        return Checkpoint(path, list(index), index)
    return Checkpoint(path, [path])


def find_weights(folder):
    """The path of the weights in `folder`, the first of `WEIGHTS` that is there."""
    for name in WEIGHTS:
        path = os.path.join(folder, name)
        if os.path.exists(path):
            return path
        if os.path.islink(path):
            raise FileNotFoundError(f"{path}: a link to {os.readlink(path)}, which is not there; fetch the file again")
    found = sorted(os.listdir(folder))
    listing = ", ".join(found[:12]) + (f" and {len(found) - 12} more" if len(found) > 12 else "")
    raise FileNotFoundError(
        f"{folder}: none of {', '.join(WEIGHTS)} is there; the folder holds {listing or 'nothing'}"
        + ("; open that file by its own name" if any(name.startswith("adapter_model.") for name in found) else "")
    )


def read_index(path):
    """{path of a shard: the set of tensor names it must hold} of an index file, in the index's order.

    Raises
    ------
    CheckpointError
        If the index is damaged or points anywhere but to weights in its own folder.
    FileNotFoundError
        If a shard is not there.
    """
    with RegularFile(path) as opened:
        if opened.size > MAX_INDEX:
            opened.fail(f"an index of {opened.size} bytes; at most {MAX_INDEX} are read")
        _, words = magic.identify(opened.head())
        if words and "JSON" not in words:
            opened.fail(f"not an index: the file is {words}")
        index = strict_json.parse(opened.read(0, opened.size), path, opened.budget)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path}: no weight_map in it that says which file holds which tensor")
    suffix = os.path.splitext(path.removesuffix(INDEX_SUFFIX))[1]
    folder = os.path.dirname(path)
    shards = {}
    for name, file in weight_map.items():
        if not isinstance(file, str):
            raise CheckpointError(
                f"{path}: tensor {quoted(name)} is placed in a {type(file).__name__}, not in a file"
            )
        if file not in shards:
            _check_shard_name(path, name, file, suffix)
            shards[file] = set()
        shards[file].add(name)
    for file in shards:
        if not os.path.exists(os.path.join(folder, file)):
            raise FileNotFoundError(
                f"{os.path.join(folder, file)}: this shard is not there; {path} places {len(shards[file])} tensors in "
                f"it, {quoted(min(shards[file]))} among them"
            )
    return {os.path.join(folder, file): names for file, names in shards.items()}


def _check_shard_name(path, name, file, suffix):
    parts = re.split(r"[/\\]", file)
    where = f"{path}: tensor {quoted(name)} is placed in {quoted(file)}"
    if ".." in parts or "" in parts or "\\" in file or re.match(r"[A-Za-z]:", file) or not file.isprintable():
        raise CheckpointError(f"{where}, which is no place inside the folder of the index")
    if not file.endswith(suffix):
        raise CheckpointError(f"{where}, which is not a {suffix} file")


def _reader(opened):
    """The reader for a file: by its suffix, and where that says nothing by its first bytes."""
    reader = SUFFIXES.get(os.path.splitext(opened.path)[1].lower())
    if reader:
        return reader
    kind, words = magic.identify(opened.head())
    if kind is None:
        opened.fail(f"not a checkpoint: the file is {words or 'in no format that is known here'}")
    return {"safetensors": read_safetensors, "gguf": _read_gguf}.get(kind, read_torch)
