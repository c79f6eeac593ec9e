"""Sides: what a diff compares, whatever it is, as names, shapes, dtypes and rows that are read when asked."""

import functools
import os
from collections.abc import Mapping

import numpy as np

from llmc import checkpoint
from llmc.checkpoint.formats.dtypes import BFLOAT16, FLOATING, SAFETENSORS_NAME
from llmc.config import Config
from llmc.config.json_files import read_json
from llmc.errors import ConfigError, DataError, shown
from llmc.families.row import rows as families
from llmc.lora.adapter_files import holds_adapter
from llmc.system.hub import is_gguf
from llmc.system.small_file import is_there
from llmc.weights.assign import as_array

FLOAT32 = np.dtype(np.float32)
KINDS = "a folder or file, an open Checkpoint, a Model, a mapping {name: array}, or a pair (any of these, adapter)"


class Side:
    """One side of a diff.

    Attributes
    ----------
    label : str
        What was given, as text.
    folder : str or None
        Where its config.json and its tokenizer may be.
    config : dict
        Its configuration, empty where there is none.
    tensors : mapping of str to array
        With `shape`, `dtype` and `read_rows` of a name, where it is a Checkpoint.
    """

    def __init__(self, label, tensors, folder=None, config=None):
        self.label, self.tensors, self.folder = label, tensors, folder
        self.config = _config(folder) if config is None else config

    def names(self):
        """The names of all tensors, in their order."""
        return list(self.tensors)

    def shape(self, name):
        """A tensor's shape, as it is stored."""
        return tuple(self.tensors.shape(name))

    def dtype(self, name):
        """The dtype it counts as."""
        return self.tensors.reads_as(name)

    def precision(self, name):
        """The dtype whose spacing its numbers have; None where they are quantised."""
        return None if isinstance(self.tensors.dtype(name), str) else self.dtype(name)

    def read_rows(self, name, first, last):
        """Places [first, last) along its first axis."""
        return self.tensors.read_rows(name, first, last)

    def read(self, name):
        """All of it."""
        return self.tensors[name]

    def change(self, name):
        """The `Change` that an adapter makes of a base's tensor; None where there is no adapter, or it makes none."""
        return None

    def lies_in_out(self, name):
        """Is a matrix stored as (inputs, outputs), as GPT-2's Conv1D is?"""
        stem = name.rpartition(".")[0]
        if not stem.endswith(("c_attn", "c_proj", "c_fc")) or not name.endswith(".weight"):
            return False
        return self._is_in_out

    @functools.cached_property
    def _is_in_out(self):
        """What the family says, or the shapes of `c_attn`: three times as many outputs as inputs."""
        if self.config.get("model_type") in families():
            return families()[self.config["model_type"]].in_out
        fused = [self.shape(name) for name in self.names() if name.endswith("c_attn.weight")]
        return all(len(shape) == 2 and shape[0] < shape[1] for shape in fused)

    def close(self):
        """Let go of what this side opened itself."""


class Opened(Side):
    """A folder or file that the diff opens, and closes."""

    def __init__(self, path):
        if is_gguf(path):  # its configuration and its tokenizer are inside
            super().__init__(path, checkpoint.open(path), path, _inside(path))
            return
        folder = path if os.path.isdir(path) else os.path.dirname(path)
        super().__init__(path, checkpoint.open(path), folder or ".")

    def close(self):
        """Let go of the files."""
        self.tensors.close()


class Arrays(Side):
    """A mapping of arrays."""

    def __init__(self, label, arrays, folder=None, config=None):
        for name, array in arrays.items():
            if not isinstance(name, str):
                raise DataError(f"{label}: a tensor is called {shown(name)}; names are texts")
            if not hasattr(array, "shape") or not hasattr(array, "ndim") or not hasattr(array, "dtype"):
                raise DataError(f"{label}: {name} is a {type(array).__name__}, not an array")
            _numbers(label, name, array[:0] if array.ndim else array)
        super().__init__(label, arrays, folder, config or {})

    def shape(self, name):
        """As of a Side."""
        return tuple(self.tensors[name].shape)

    def dtype(self, name):
        """As of a Side."""
        tensor = self.tensors[name]
        return _numbers(self.label, name, tensor[:0] if tensor.ndim else tensor).dtype

    def precision(self, name):
        """As of a Side."""
        return self.dtype(name)

    def read_rows(self, name, first, last):
        """As of a Side."""
        return _numbers(self.label, name, self.tensors[name][first:last])

    def read(self, name):
        """As of a Side."""
        return _numbers(self.label, name, self.tensors[name])


def sides(base, tuned):
    """The two sides of a diff.

    Returns
    -------
    (Side, Side)
        To be closed.

    Raises
    ------
    TypeError
        For anything that is no side.
    ConfigError
        Where an adapter's folder alone is given as the base.
    FileNotFoundError, CheckpointError, ConfigError
        As opening them does; nothing stays open.
    """
    from llmc.diff.adapter_side import Adapted

    if is_adapter(base):
        raise ConfigError(f"base {os.fspath(base)}: the folder of an adapter alone, which is no base; give its base, "
                          f"or the pair (base, {os.fspath(base)!r})")
    first = side(base, "base")
    try:
        if is_adapter(tuned):
            return first, Adapted(first, tuned)
        if isinstance(tuned, tuple) and len(tuned) == 2 and _same(base, tuned[0]):
            return first, Adapted(first, tuned[1])
        return first, side(tuned, "tuned")
    except BaseException:
        first.close()
        raise


def side(given, which):
    """What was given as a Side; `which` one it is goes into the message of a TypeError."""
    from llmc.diff.adapter_side import Adapted
    from llmc.diff.model_side import ModelSide
    from llmc.model import Model

    if isinstance(given, (str, os.PathLike)):
        if is_adapter(given):
            raise ConfigError(f"{which} {os.fspath(given)}: the folder of an adapter alone stands here for a base")
        return Opened(os.fspath(given))
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], (str, os.PathLike)):
        inner = side(given[0], which)
        try:
            return Adapted(inner, given[1], owns=True)
        except BaseException:
            inner.close()
            raise
    if isinstance(given, checkpoint.Checkpoint):
        path = os.fspath(given.path)
        return Side(path, given, path if os.path.isdir(path) else os.path.dirname(path) or ".")
    if isinstance(given, Model):
        return ModelSide(given)
    if isinstance(given, Mapping):
        return Arrays(f"a mapping of {len(given)} arrays", given)
    raise TypeError(f"{which} is {type(given).__name__}, not {KINDS}")


def is_adapter(given):
    """Is it the folder of an adapter, with no weights of a base beside it?"""
    return (isinstance(given, (str, os.PathLike)) and os.path.isdir(given) and holds_adapter(given)
            and not any(os.path.lexists(os.path.join(given, name)) for name in checkpoint.WEIGHTS))


def is_float(dtype):
    """Is it a dtype of floats?"""
    return np.dtype(dtype) in FLOATING


def _same(base, other):
    """Are the two one thing, so that an adapter of one changes the other by what its factors say?"""
    if base is other:
        return True
    paths = [os.fspath(each) for each in (base, other) if isinstance(each, (str, os.PathLike))]
    return len(paths) == 2 and all(map(os.path.exists, paths)) and os.path.samefile(*paths)


def _numbers(label, name, tensor):
    """An array, or a tensor of torch, as NumPy has it; bfloat16 stays bfloat16."""
    found = as_array(name, tensor)
    if not isinstance(tensor, np.ndarray) and str(tensor.dtype) == "torch.bfloat16":
        found = found.astype(BFLOAT16)
    if found.dtype not in SAFETENSORS_NAME and found.dtype != np.complex128:
        raise DataError(f"{label}: {name} holds {found.dtype}, not numbers")
    return found


def _inside(path):
    """The configuration in a GGUF file as a dict; empty where it is of no family that is here."""
    try:
        return Config.from_pretrained(path).to_dict()
    except ConfigError:
        return {}


def _config(folder):
    """The config.json of a folder as a dict; empty where there is none that can be read."""
    path = None if folder is None else os.path.join(folder, "config.json")
    return read_json(path) if path and is_there(path) else {}
