"""View: a tensor of a side as a diff reads it: a piece of it, turned, cut, in another shape, block by block."""

import math
from dataclasses import dataclass, replace

import numpy as np

from llmc.diff.sides import Side

BLOCK = 1 << 24  # bytes of float32 that are compared at a time


@dataclass(frozen=True)
class View:
    """Some of a tensor's numbers.

    Attributes
    ----------
    side : Side
    name : str
    piece : (axis, first, last) or None
        Places along one axis of what is stored: one part of a fused tensor.
    transposed : bool
        Axes of the (piece of the) stored matrix are swapped.
    cut : (axis, size) or None
        Only the leading places of an axis, in the view's own order of axes.
    form : tuple of int or None
        Another shape for the same numbers, taken last.
    """

    side: Side
    name: str
    piece: tuple | None = None
    transposed: bool = False
    cut: tuple | None = None
    form: tuple | None = None

    @property
    def stored_shape(self):
        """The shape of the piece as it is stored."""
        shape = list(self.side.shape(self.name))
        if self.piece:
            axis, first, last = self.piece
            shape[axis] = last - first
        return tuple(shape)

    @property
    def shape(self):
        """The shape that is read."""
        shape = list(self.stored_shape[::-1] if self.transposed else self.stored_shape)
        if self.cut:
            shape[self.cut[0]] = self.cut[1]
        return self.form or tuple(shape)

    @property
    def dtype(self):
        """The dtype it counts as."""
        return self.side.dtype(self.name)

    @property
    def label(self):
        """Its name; of a piece, with the rows of (out, in) that it is."""
        return f"{self.name}[{self.piece[1]}:{self.piece[2]}]" if self.piece else self.name

    def turned(self):
        """The same with its axes swapped."""
        return replace(self, transposed=not self.transposed)

    def read(self):
        """All of it, in its own dtype."""
        whole = self.side.read(self.name) if self.piece is None else self._piece(0, None)
        return self._shaped(whole.reshape(self.stored_shape))

    def reader(self):
        """A function (first, last) -> rows of the view, as (rows, all the rest of the shape).

        What is turned, in another form or without axes is read whole and kept as long as the function is.
        """
        if self.transposed or self.form or not self.shape or self.cut and self.cut[0] != 0 and len(self.shape) != 2:
            whole = self.read()
            whole = whole.reshape(whole.shape[0], -1) if whole.ndim else whole.reshape(1, 1)
            return lambda first, last: np.ascontiguousarray(whole[first:last])
        columns = None if not self.cut or self.cut[0] == 0 else self.cut[1]

        def rows(first, last):
            found = self._piece(first, last)
            found = found.reshape(len(found), -1)
            return found if columns is None else np.ascontiguousarray(found[:, :columns])

        return rows

    def _piece(self, first, last):
        axis, low, high = self.piece or (0, 0, self.side.shape(self.name)[0])
        if axis == 0:
            return self.side.read_rows(self.name, low + first, high if last is None else min(low + last, high))
        last = self.side.shape(self.name)[0] if last is None else last
        return np.ascontiguousarray(self.side.read_rows(self.name, first, last)[:, low:high])

    def _shaped(self, whole):
        whole = whole.T if self.transposed else whole
        if self.cut:
            whole = whole[(slice(None),) * self.cut[0] + (slice(self.cut[1]),)]
        return whole.reshape(self.form) if self.form else whole


def steps(shape):
    """(first, last) of the rows that are compared at a time, of a view of this shape."""
    rows, width = (shape[0], math.prod(shape[1:])) if shape else (1, 1)
    step = max(1, BLOCK // 4 // max(width, 1))
    return [(first, min(first + step, rows)) for first in range(0, rows, step)]
