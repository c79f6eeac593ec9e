"""Movement: how far every hook point of a tuned model is from the base's, summed up batch by batch."""

import math

import numpy as np

from llmc.analysis.own_change import own_change, squared
from llmc.core import _core

_IN_CORE = [2, 0, 1]  # where the core puts them
APART, BEFORE, AFTER = range(3)  # columns of sums: |y' - y|^2, |y|^2, |y'|^2 of a token


class Movement:
    """Grows with every batch.

    Parameters
    ----------
    modules : list of Module
    """

    def __init__(self, modules):
        self._modules = modules
        self._sums = {module.name: _Sums() for module in modules}

    def observe(self, batch, gave, given, before, after):
        """Take in what the base gave on a batch, and what the tuned model gave.

        Parameters
        ----------
        batch : Batch
        gave, given : Pass
        before, after : ComputedWeights
        """
        sight = _Sight(batch)
        for module in self._modules:
            name, sums = module.name, self._sums[module.name]
            if name in gave.inputs:
                sums.read += sight.sums(gave.inputs[name], given.inputs[name])[0].sum(axis=0)
            apart, cosine = sight.sums(gave.outputs[name], given.outputs[name])
            sums.gave += apart.sum(axis=0)
            sums.cosine += cosine[~np.isnan(cosine)].sum()
            sums.tokens += np.count_nonzero(~np.isnan(cosine))
            read = batch.rows(gave.inputs[name]) if name in gave.inputs else None
            own = own_change(module, batch, read, before, after)
            sums.own = None if own is None else sums.own + own

    @property
    def rows(self):
        """A dict for every module."""
        return [self._row(module) for module in self._modules]

    def _row(self, module):
        sums = self._sums[module.name]
        reads = module.kind not in ("embedding", "model")
        return {
            "name": module.name, "kind": module.kind, "layer": module.layer, "part": module.part,
            "input_change": ratio(*sums.read) if reads else None, "output_change": ratio(*sums.gave),
            "cosine": finite(sums.cosine / sums.tokens) if sums.tokens else None,
            "own_change": None if sums.own is None else ratio(sums.own, sums.gave[BEFORE]),
        }  # fmt: skip


class _Sums:
    """Of one module, over the tokens seen."""

    def __init__(self):
        self.read, self.gave, self.cosine, self.tokens, self.own = np.zeros(2), np.zeros(2), 0.0, 0, 0.0


class _Sight:
    """The sums of each pair of buffers of a batch once: what one module gives another one reads."""

    def __init__(self, batch):
        self._batch, self._seen = batch, {}

    def sums(self, before, after):
        """((N, 2), (N,)) of `token_sums` of two (B, T, C)."""
        key = _address(before), _address(after)
        if key not in self._seen:
            self._seen[key] = token_sums(self._batch.rows(before), self._batch.rows(after))
        return self._seen[key]


def token_sums(before, after):
    """How far two arrays are apart, token by token.

    Parameters
    ----------
    before, after : (N, C) float32
        Of widths that differ the common leading features count.

    Returns
    -------
    ((N, 2) float64, (N,) float64)
        The squares |after - before|^2 and |before|^2, and the cosine of the two, NaN where one of them is zero.
    """
    width = min(before.shape[1], after.shape[1])
    before, after = before[:, :width], after[:, :width]
    sums = _sums(before, after)
    if not np.isfinite(sums).all():  # a difference too large for float32, or numbers that are not finite themselves
        sums = _sums_in_double(before, after)
    with np.errstate(invalid="ignore", over="ignore"):
        return sums[:, :2], _cosine(sums[:, APART], np.sqrt(sums[:, BEFORE]), np.sqrt(sums[:, AFTER]))


def _sums(before, after):
    """(N, 3): |after - before|^2, |before|^2 and |after|^2 of every token: subtracted in float32, which is exact where
    the two are close, squared and added in float64."""
    found, changed = np.empty((len(before), 6)), np.empty(len(before), np.int64)
    _core.compare(*map(np.ascontiguousarray, (before, after)), False, 1.0, found, changed, None, None)
    return found[:, _IN_CORE]


def _sums_in_double(before, after):
    """The same, subtracted in float64."""
    sums = np.empty((len(before), 3))
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is not a value
        for row, (a, b) in enumerate(zip(before, after)):
            a, b = a.astype(np.float64), b.astype(np.float64)
            sums[row] = [squared(each) for each in (b - a, a, b)]
    return sums


def _cosine(apart, before, after):
    """The cosine, from how far two are apart: where they are close nothing is lost, where they are one it is 1."""
    product = before * after
    cosine = 1 - (apart - (before - after) ** 2) / (2 * np.where(product > 0, product, np.nan))
    return np.clip(cosine, -1.0, 1.0)


def ratio(apart, whole):
    """sqrt(apart / whole); 0.0 where nothing is apart, None where the whole is zero or a number is not finite."""
    if apart == 0:
        return 0.0
    return finite(math.sqrt(apart / whole)) if whole > 0 else None


def finite(value):
    """A number as a float; None where it is not finite."""
    return float(value) if math.isfinite(value) else None


def _address(array):
    return array.__array_interface__["data"][0], array.shape, array.strides
