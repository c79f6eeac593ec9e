"""Stored weights: matrices that lie narrower than float32, read and written like arrays."""

from collections.abc import Mapping

import ml_dtypes
import numpy as np

GROUP = 64  # inputs of an output that share a scale
_BLOCK = 1 << 18  # numbers rounded at a time: what is made on the way stays in the cache


class Int8:
    """A matrix of int8 numbers, each times a scale: of GROUP inputs of an output, the absolute maximum / 127.

    It reads as float32 (`numpy.asarray`); what is assigned is rounded to the nearest. Where rows are inputs, an
    assignment of some begins at a multiple of GROUP. A group with a number that is not finite becomes NaN.

    Parameters
    ----------
    numbers : (O, I) int8, or (I, O)
    scales : (O, ceil(I / GROUP)) float32, or (ceil(I / GROUP), O)
    """

    ndim, dtype = 2, np.dtype(np.float32)

    def __init__(self, numbers, scales):
        self.numbers, self.scales = numbers, scales
        self.shape, self.size, self.nbytes = numbers.shape, numbers.size, numbers.nbytes + scales.nbytes
        inputs_first = len(scales) != len(numbers) or (len(numbers) == 1 and scales.shape == numbers.shape)
        self._axis = 0 if inputs_first else 1

    def __len__(self):
        return len(self.numbers)

    def __array__(self, dtype=None, copy=None):
        array = np.empty(self.shape, dtype or np.float32)
        for rows in self._blocks(0, len(self)):
            numbers = self.numbers[rows]
            scales = np.repeat(self.scales[self._scale_rows(rows)], GROUP, axis=self._axis)
            with np.errstate(invalid="ignore"):
                np.multiply(numbers, scales[: numbers.shape[0], : numbers.shape[1]], out=array[rows])
        array.flags.writeable = False
        return array

    def __setitem__(self, rows, values):
        first, last = (0, len(self)) if rows is ... else rows.indices(len(self))[:2]
        values = np.broadcast_to(values, (last - first, self.shape[1]))
        for rows in self._blocks(first, last):
            block = np.asarray(values[rows.start - first : rows.stop - first], dtype=np.float32)
            groups = np.arange(0, block.shape[self._axis], GROUP)
            scales = np.maximum.reduceat(np.abs(block), groups, axis=self._axis) / np.float32(127)
            self.scales[self._scale_rows(rows)] = scales
            scales = np.repeat(scales, GROUP, axis=self._axis)[: block.shape[0], : block.shape[1]]
            with np.errstate(invalid="ignore", divide="ignore"):
                block = np.rint(block / scales)
            self.numbers[rows] = np.where(np.isfinite(block), block, 0)

    def _scale_rows(self, rows):
        return rows if self._axis else slice(rows.start // GROUP, -(-rows.stop // GROUP))

    def _blocks(self, first, last):
        step = max(_BLOCK // self.shape[1] // GROUP, 1) * GROUP
        for start in range(first, last, step):
            yield slice(start, min(start + step, last))


class Readable(Mapping):
    """{name: array} of stored weights; int8 is read when asked."""

    def __init__(self, stored):
        self._stored = stored

    def __getitem__(self, name):
        return np.asarray(self._stored[name])

    def __iter__(self):
        return iter(self._stored)

    def __len__(self):
        return len(self._stored)


def read_into(files, name, out):
    """Read tensor `name` of a checkpoint into a stored weight; int8 takes the tensor's memory while it is rounded."""
    if not isinstance(out, Int8):
        files.read_into(name, out)
        return
    array = np.empty(out.shape, files.dtype(name))
    files.read_into(name, array)
    out[...] = array


def stored(parameters):
    """What `_core.Model.parameters` gives, as arrays of their dtypes: writable views, or `Int8`."""

    def one(given):
        if isinstance(given, tuple):
            return Int8(*given)
        return given.view(ml_dtypes.bfloat16) if given.dtype == np.uint16 else given

    return {name: one(given) for name, given in parameters.items()}
