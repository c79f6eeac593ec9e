"""Entry: where one tensor lies in a file."""

from dataclasses import dataclass, replace

import numpy as np

from llmc.errors import CheckpointError

BLOCK = 1 << 18  # bytes read at a time where they are converted
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
    def stored(self):
        """What is stored: the dtype."""
        return self.dtype

    @property
    def nbytes(self):
        """Bytes of the elements, as an array of its own would hold them."""
        return count(self.shape) * self.dtype.itemsize

    def rows(self, first, last):
        """The Entry of some rows of it: places along the first axis."""
        step = self.strides[0] if self.strides else count(self.shape[1:]) * self.dtype.itemsize
        return replace(self, shape=(last - first, *self.shape[1:]), start=self.start + first * step)

    def read_into(self, file, out):
        """Read the elements from a `RegularFile` into `out`, converted to its dtype.

        They go straight into place where `out` holds them as the file does, and otherwise through a small block.
        """
        if 0 in self.shape:
            return
        shape, strides = self.shape, self.strides
        if strides is None and out.flags.c_contiguous:
            out = out.reshape(-1)
            if out.dtype == self.dtype and not self.swapped:
                file.read_into(self.start, memoryview(out.view(np.uint8)))
                return
            shape = out.shape
        if strides is None:
            strides = tuple(count(shape[axis + 1 :]) * self.dtype.itemsize for axis in range(len(shape)))
        for rows, first, shape in _blocks(shape, strides):
            last = sum((size - 1) * stride for size, stride in zip(shape, strides))
            block = np.empty(last + self.dtype.itemsize, np.uint8)
            file.read_into(self.start + first, memoryview(block))
            block = np.ndarray(shape, self.dtype, block, 0, strides)
            out[rows] = block.byteswap() if self.swapped else block


def _blocks(shape, strides):
    """(index, first byte, shape) of pieces of about `BLOCK` bytes, cut along the axis that spans most of them."""
    axis = max(range(len(shape)), key=lambda axis: (shape[axis] - 1) * strides[axis])
    rows = max(1, BLOCK // max(1, strides[axis]))
    for row in range(0, shape[axis], rows):
        size = min(rows, shape[axis] - row)
        index = (slice(None),) * axis + (slice(row, row + size),)
        yield index, row * strides[axis], (*shape[:axis], size, *shape[axis + 1 :])


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
