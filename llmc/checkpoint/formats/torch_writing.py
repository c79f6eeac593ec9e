"""The writer of torch's zip files: what `torch.save` makes of a dict of tensors, without torch."""

import math
import os
import struct
import sys
import zipfile

import numpy as np

from llmc.system.atomic import atomic_write, require_space
from llmc.checkpoint.formats.dtypes import TORCH_STORAGE
from llmc.errors import CheckpointError

_STORAGE_NAME = {dtype: f"{name}Storage" for name, dtype in TORCH_STORAGE.items()}
_ALIGNMENT = 64  # of a storage's first byte in the file, as torch has it
_LOCAL_HEADER = 30  # bytes before an entry's name
_PADDING = 0x4246  # "FB", the extra field that torch pads with
_SPACE_OF_ENTRY = 1024  # bytes an entry may take beside its numbers


def write_torch(path, tensors):
    """Write a file that `torch.load(path, weights_only=True)` opens as a dict of tensors.

    It is written beside, flushed to the disk and renamed: after an exception or a crash `path` is what it was.

    Parameters
    ----------
    path : str or PathLike
    tensors : dict of str to numpy.ndarray

    Raises
    ------
    CheckpointError
        If torch has no storage for the dtype of an array.
    OSError
        If the place cannot be written, or the disk is full.
    """
    arrays = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in tensors.items()}
    for name, array in arrays.items():
        if array.dtype not in _STORAGE_NAME:
            raise CheckpointError(f"{path}: tensor {name!r} is {array.dtype}, for which torch has no storage")
    folder, file_name = os.path.split(os.path.abspath(path))
    require_space(folder, sum(array.nbytes + _SPACE_OF_ENTRY for array in arrays.values()) + _SPACE_OF_ENTRY)
    top = file_name.rpartition(".")[0] or file_name
    with atomic_write(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, f"{top}/data.pkl", _pickled(arrays))
        _add(archive, f"{top}/byteorder", sys.byteorder.encode())
        for key, array in enumerate(arrays.values()):
            _add(archive, f"{top}/data/{key}", array.reshape(-1).view(np.uint8).data)
        _add(archive, f"{top}/version", b"3\n")


def _add(archive, name, data):
    """An entry whose data begins at a multiple of the alignment."""
    entry = zipfile.ZipInfo(name)
    begin = archive.fp.tell() + _LOCAL_HEADER + len(name.encode()) + 4
    padding = -begin % _ALIGNMENT
    entry.extra = struct.pack("<2H", _PADDING, padding) + b"Z" * padding
    archive.writestr(entry, data)


def _pickled(arrays):
    """The dict as a pickle of protocol 2, each tensor on a storage of its own."""
    items = b"".join(_text(name) + _tensor(key, array) for key, (name, array) in enumerate(arrays.items()))
    return b"\x80\x02" + b"}" + _marked(items, b"u") + b"."


def _tensor(key, array):
    """torch._utils._rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, hooks)"""
    storage = (_text("storage"), _global("torch", _STORAGE_NAME[array.dtype]), _text(str(key)), _text("cpu"),
               _whole(array.size))
    strides = [math.prod(array.shape[axis + 1:]) for axis in range(array.ndim)]
    no_hooks = _global("collections", "OrderedDict") + b")R"
    arguments = (_tuple(storage) + b"Q", _whole(0), _tuple(map(_whole, array.shape)), _tuple(map(_whole, strides)),
                 b"\x89", no_hooks)
    return _global("torch._utils", "_rebuild_tensor_v2") + _tuple(arguments) + b"R"


def _marked(content, end):
    return b"(" + content + end


def _tuple(values):
    return _marked(b"".join(values), b"t")


def _global(module, name):
    return f"c{module}\n{name}\n".encode()


def _text(value):
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def _whole(value):
    """An integer: four bytes signed, or as many as it takes."""
    if value < 2**31:
        return b"J" + struct.pack("<i", value)
    length = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([length]) + value.to_bytes(length, "little", signed=True)
