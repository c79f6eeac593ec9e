"""Matrix entropy (figures 5 and 11): how many directions the representations of a sequence fill, layer by layer."""

import math

import numpy as np

from llmc.analysis.lime.given import require_model, texts, word
from llmc.analysis.lime.representations import OF, looked_at
from llmc.calls import public
from llmc.checks import number
from llmc.errors import DataError, ShapeError
from llmc.inputs import as_array
from llmc.show import picture
from llmc.show.curves import Panel, Series, draw

NOTHING = 1e-15  # a share of the eigenvalues below which it is rounding
TINY = 1e-5  # beside a deviation, which may be zero
CLOSE = 1e-3  # of alpha to 1: from here on the two terms of the formula cancel


@public
def renyi_entropy(z, alpha=0.5):
    """Rényi's entropy of a matrix: of the eigenvalues of z zᵀ, divided by their sum.

    Parameters
    ----------
    z : (tokens, features)
    alpha : float
        Above 0; 1 is Shannon's entropy.

    Returns
    -------
    float
        ln(Σ q^alpha) / (1 - alpha), in nats: from 0 of one direction to ln(min(tokens, features)) of equal ones.

    Raises
    ------
    DataError
        For a matrix of zeros, or numbers that are not finite.
    ShapeError, TypeError, ConfigError
        For what is no matrix of numbers, or an alpha outside of its range.
    """
    alpha = _order(alpha)
    z = as_array(z, "z")
    if z.dtype.kind not in "fiu":
        raise TypeError(f"z is a matrix of numbers, not of {z.dtype}")
    if z.ndim != 2 or not z.size:
        raise ShapeError(f"z has shape {z.shape}; (tokens, features) is needed")
    z = z.astype(np.float64)
    if not np.isfinite(z).all():
        raise DataError("z holds numbers that are not finite")
    return _entropy(z, alpha, "z")


@public
def matrix_entropy(model, ids, attention_mask=None, of="values", alpha=0.5, plot=None):
    """Rényi's entropy of the representations of every sequence, layer by layer.

    Every feature is standardised over all tokens (less its mean, divided by its unbiased deviation + 1e-5). The texts
    are read twice, once for the means and deviations, and nothing but one pass is held.

    Parameters
    ----------
    model, ids, attention_mask, of
        As `representations` takes them. A sequence is a row of `ids`, without its padding.
    alpha : float
        Above 0; 1 is Shannon's entropy.
    plot : path, optional
        The means with their deviations, as a .png, .pdf or .svg.

    Returns
    -------
    dict
        "mean", "std" : (L,) float64, over the sequences; the deviation is the population's.
        "sequences" : int

    Raises
    ------
    DataError
        For a text of one token, or a sequence of which every feature is at its mean.
    UnknownNameError, ConfigError, ShapeError, TypeError, ImportError
        As elsewhere.

    Notes
    -----
    The authors' code has alpha 0.5; which one drew the figures is not said.
    """
    require_model(model, "matrix_entropy")
    word(of, "of", OF)
    alpha = _order(alpha)
    if plot is not None:
        picture.ending(plot)
    given = texts(model, ids, attention_mask)
    scales = _Scales()
    for chosen, layers in looked_at(model, given, of):
        scales.add([layer[chosen].astype(np.float64) for layer in layers])
    means, deviations = scales.found()
    entropies = np.array([
        [_entropy((layer - mean) / (deviation + TINY), alpha, f"sequence {row}, layer {at}")
         for at, (layer, mean, deviation) in enumerate(zip(sequence, means, deviations))]
        for row, sequence in enumerate(_sequences(model, given, of))
    ])  # fmt: skip
    found = {"mean": entropies.mean(axis=0), "std": entropies.std(axis=0), "sequences": len(entropies)}
    if plot is not None:
        draw([entropy_panel({"": found}, of, alpha)], plot)
    return found


def entropy_panel(found, of, alpha=0.5):
    """The curves of {name of a model: what `matrix_entropy` returns}."""
    series = [Series(np.arange(len(each["mean"])), each["mean"], name, spread=np.asarray(each["std"], float))
              for name, each in found.items()]  # fmt: skip
    return Panel(f"Matrix entropy of {of.replace('_', ' ')}", "layer", f"Rényi entropy, α = {alpha:g} (nats)", series)


def _order(alpha):
    return number(alpha, "alpha", 0, open_low=True)


def _entropy(z, alpha, where):
    gram = z @ z.T if len(z) <= z.shape[1] else z.T @ z  # the same eigenvalues but for zeros
    sizes = np.maximum(np.linalg.eigvalsh(gram), 0)
    total = sizes.sum()
    if not total > 0:
        raise DataError(f"{where}: a matrix of zeros has no entropy")
    shares = sizes / total
    return _of_shares(shares[shares >= NOTHING], alpha)


def _of_shares(shares, alpha):
    logs = np.log(shares)
    if alpha == 1:
        return float(-(shares * logs).sum())
    if abs(alpha - 1) < CLOSE:
        return math.log1p(float((shares * np.expm1((alpha - 1) * logs)).sum())) / (1 - alpha)
    return float(np.logaddexp.reduce(alpha * logs)) / (1 - alpha)


def _sequences(model, given, of):
    """The representations of one row after the other, in float64: a list over layers of (n, width)."""
    counts = [int(count) for text in given for count in text.chosen.sum(axis=1) if count]
    waiting, row = [], 0  # the pieces of a row that is not whole
    for chosen, layers in looked_at(model, given, of):
        for line in np.flatnonzero(chosen.any(axis=1)):
            waiting.append([layer[line][chosen[line]].astype(np.float64) for layer in layers])
            if sum(len(piece[0]) for piece in waiting) == counts[row]:
                yield [np.concatenate(pieces) for pieces in zip(*waiting)]
                waiting, row = [], row + 1


class _Scales:
    """Means and deviations of every layer's features, gathered piece by piece (Chan et al., 1983)."""

    def __init__(self):
        self._count, self._means, self._squares = 0, None, None

    def add(self, layers):
        count = len(layers[0])
        if not count:
            return
        means = np.array([layer.mean(axis=0) for layer in layers])
        squares = np.array([((layer - mean) ** 2).sum(axis=0) for layer, mean in zip(layers, means)])
        if self._count == 0:
            self._count, self._means, self._squares = count, means, squares
            return
        total, apart = self._count + count, means - self._means
        self._squares += squares + apart**2 * (self._count * count / total)
        self._means += apart * (count / total)
        self._count = total

    def found(self):
        if self._count < 2:
            raise DataError("the text has one token: a deviation needs two")
        return self._means, np.sqrt(self._squares / (self._count - 1))
