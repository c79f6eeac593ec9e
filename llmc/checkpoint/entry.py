"""Entry: where one tensor lies in a file."""

from dataclasses import dataclass

import numpy as np

from llmc.errors import CheckpointError

MAX_RANK = 32
MAX_BYTES = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor's shape, dtype, and the bytes it is made of.

    `start` is the byte offset of its first element in the file; `strides` are in bytes, None for row-major; `swapped`
    says that the file's byte order is not this machine's.
    """

    dtype: np.dtype
    shape: tuple
    start: int
    strides: tuple | None = None
    swapped: bool = False

    @property
    def nbytes(self):
        """Bytes of the elements, as an array of its own would hold them."""
        return count(self.shape) * self.dtype.itemsize

    def array(self, buffer):
        """A read-only view of `buffer`; a copy only where the byte order is foreign."""
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)
        view = np.ndarray(self.shape, self.dtype, buffer, self.start, self.strides)
        return view.byteswap() if self.swapped else view


def count(shape):
    """Number of elements of `shape`, exact."""
    total = 1
    for size in shape:
        total *= size
    return total


def check_shape(shape, dtype, where):
    """Raise `CheckpointError` unless an array of `shape` and `dtype` can exist; return its bytes."""
    if len(shape) > MAX_RANK:
        raise CheckpointError(f"{where}: {len(shape)} dimensions; at most {MAX_RANK} are possible")
    total = dtype.itemsize
    for size in shape:
        total *= size or 1  # NumPy too multiplies around the zeros
        if total > MAX_BYTES:
            raise CheckpointError(f"{where}: shape {list(shape)} is larger than any memory")
    return 0 if 0 in shape else total
