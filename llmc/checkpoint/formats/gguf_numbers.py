"""The numbers of a GGUF file: rows read as float32, in the order and the layout that Hugging Face's files have."""

from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar

import numpy as np

from llmc.errors import CheckpointError

_BLOCK = 1 << 18  # numbers that are widened at a time
_PLAIN = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}


def library():
    """The library `gguf`.

    Raises
    ------
    ImportError
        That says what to install.
    """
    try:
        import gguf
    except ImportError as error:
        raise ImportError("GGUF files are read with the library gguf, which is not there: pip install 'llmc[gguf]'"
                          ) from error  # fmt: skip
    return gguf


@dataclass(frozen=True, slots=True)
class GgufEntry:
    """Where a tensor lies in a GGUF file, and what makes of it the array that Hugging Face's files hold.

    Attributes
    ----------
    kind : int
        ggml's number of its type.
    shape : tuple
        Of the array.
    start : int
        Byte of the file where it begins.
    row : int
        Numbers of a row of the file; 1 of a vector.
    head : int
        Rows of a head that lie as neighbouring pairs, where the array has two halves; 1: as they are.
    transposed : bool
        Rows of the file are columns of the array.
    first, last : int
        The rows of the file that the array has, or where it is transposed its rows; None: to the end.
    """

    kind: int
    shape: tuple
    start: int
    row: int
    head: int = 1
    transposed: bool = False
    first: int = 0
    last: int | None = None

    dtype: ClassVar = np.dtype(np.float32)

    @property
    def stored(self):
        """The stored word: "q4_1", or "float32", "float16", "bfloat16"."""
        word = library().GGMLQuantizationType(self.kind).name.lower()
        return _PLAIN.get(word, word)

    @property
    def nbytes(self):
        """Bytes of these numbers in the file."""
        return self._bytes(prod(self.shape)) if prod(self.shape) else 0

    def rows(self, first, last):
        """The entry of some rows of the array: places along its first axis."""
        lines = 1 if self.transposed or len(self.shape) == 1 else prod(self.shape[1:]) // self.row
        return replace(self, shape=(last - first, *self.shape[1:]), first=self.first + first * lines,
                       last=self.first + last * lines)

    def read_into(self, file, out):
        """Read the numbers from a `RegularFile` into `out`, converted to its dtype, a block of rows at a time."""
        if self.transposed:
            for first, block in self._blocks(file, 0, self.shape[1]):
                out[:, first : first + len(block)] = block[:, self.first : self.last].T
            return
        target = out.reshape(-1, self.row)
        for first, block in self._blocks(file, self.first, self.first + len(target)):
            target[first - self.first : first - self.first + len(block)] = block

    def _blocks(self, file, begin, end):
        """(first row, float32 rows) from row `begin` of the file to `end`, heads being read whole."""
        step = max(1, _BLOCK // (self.row * self.head)) * self.head
        for first in range(begin - begin % self.head, end, step):
            last = min(first + step, -(-end // self.head) * self.head)
            rows = self._halves(self._numbers(file, first, last - first))
            yield max(first, begin), rows[max(begin - first, 0) : end - first]

    def _halves(self, rows):
        if self.head == 1:
            return rows
        pairs = rows.reshape(-1, self.head // 2, 2, self.row)
        return pairs.swapaxes(1, 2).reshape(rows.shape)

    def _bytes(self, numbers):
        group, size = library().GGML_QUANT_SIZES[self.kind]
        return numbers // group * size

    def _numbers(self, file, first, count):
        raw = np.empty(self._bytes(count * self.row), np.uint8)
        file.read_into(self.start + self._bytes(first * self.row), memoryview(raw))
        gguf = library()
        try:
            numbers = gguf.quants.dequantize(raw.reshape(count, -1), gguf.GGMLQuantizationType(self.kind))
        except NotImplementedError:
            raise CheckpointError(f"{file.path}: numbers of type {self.stored} are not read by the library gguf; fetch "
                                  "the model in another quantisation") from None
        return numbers.reshape(count, self.row)
