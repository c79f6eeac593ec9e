"""Stored weights: matrices that lie narrower than float32, read and written like arrays."""

import contextlib
from collections.abc import Mapping

import ml_dtypes
import numpy as np

from llmc.core import _core

GROUP = _core.GROUP  # inputs of an output that share a scale
_BLOCK = 1 << 18  # numbers rounded at a time: what is made on the way stays in the cache


class Int8:
    """A matrix of int8 numbers, each times a scale: of GROUP inputs of an output, the absolute maximum / 127.

    It reads as float32 (`numpy.asarray`); what is assigned is rounded to the nearest. Where rows are inputs, an
    assignment of some begins at a multiple of GROUP. A group with a number that is not finite becomes NaN.

    Parameters
    ----------
    numbers : (O, I) int8
    scales : (O, ceil(I / GROUP)) float32
    transposed : bool
        The matrix is (I, O).
    """

    ndim, dtype = 2, np.dtype(np.float32)

    def __init__(self, numbers, scales, transposed=False):
        self.numbers, self.scales, self._transposed = numbers, scales, transposed
        self.shape, self.size = numbers.shape[:: -1 if transposed else 1], numbers.size
        self.nbytes = numbers.nbytes + scales.nbytes

    def __len__(self):
        return self.shape[0]

    def __array__(self, dtype=None, copy=None):
        array = np.empty(self.shape, dtype or np.float32)
        lying = array.T if self._transposed else array
        for outputs in _blocks(self.numbers.shape):
            numbers = self.numbers[outputs]
            with np.errstate(invalid="ignore"):
                np.multiply(numbers, _spread(self.scales[outputs], numbers.shape[1]), out=lying[outputs])
        array.flags.writeable = False
        return array

    def __setitem__(self, rows, values):
        first, last = (0, len(self)) if rows is ... else rows.indices(len(self))[:2]
        values = np.broadcast_to(values, (last - first, self.shape[1]))
        if self._transposed:
            groups = slice(first // GROUP, -(-last // GROUP))
            _round(values.T, self.numbers[:, first:last], self.scales[:, groups])
        else:
            _round(values, self.numbers[first:last], self.scales[first:last])


def _blocks(shape):
    step = max(_BLOCK // shape[1], 1)
    for start in range(0, shape[0], step):
        yield slice(start, start + step)


def _spread(scales, inputs):
    """The scale of every number."""
    return np.repeat(scales, GROUP, axis=1)[:, :inputs]


def _round(values, numbers, scales):
    """Write (outputs, inputs) values as numbers and scales."""
    for outputs in _blocks(values.shape):
        block = np.array(values[outputs], dtype=np.float32, order="C")
        groups = np.arange(0, block.shape[1], GROUP)
        scales[outputs] = np.maximum.reduceat(np.abs(block), groups, axis=1) / np.float32(127)
        with np.errstate(invalid="ignore", divide="ignore"):
            block = np.rint(block / _spread(scales[outputs], block.shape[1]))
        numbers[outputs] = np.where(np.isfinite(block), block, 0)


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


def read_into(files, name, out, cut=None):
    """Read tensor `name` of a checkpoint, or what `cut` makes of it, into a stored weight.

    Int8 and what is cut take the tensor's memory meanwhile.
    """
    if not isinstance(out, Int8) and cut is None:
        files.read_into(name, out)
        return
    array = files[name]
    out[...] = cut(array) if cut else array


def stored(parameters):
    """What `_core.Model.parameters` gives, as arrays of their dtypes: writable views, or `Int8`."""

    def one(given):
        if isinstance(given, tuple):
            return Int8(*given)
        return given.view(ml_dtypes.bfloat16) if given.dtype == np.uint16 else given

    return {name: one(given) for name, given in parameters.items()}


@contextlib.contextmanager
def writing(core):
    """Keeps readers of a `_core.Model` out while its parameters change."""
    core.begin_write()
    try:
        yield
    finally:
        core.end_write()
