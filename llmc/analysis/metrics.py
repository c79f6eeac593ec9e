"""What a module does to its input, as numbers: each metric of a batch from the sums of its tokens.

The sums of a token (columns of `observe`), over the features c that input x and output y both have:
    0 sum x*y   1 sum x^2   2 sum y^2   3 sum (y-x)^2
and over all features:
    4 sum (y - mean(x))^2   5 sum x^2
"""

import numpy as np

from llmc.analysis.shapes import FEATURE_MEAN
from llmc.errors import ConfigError, UnknownNameError, nearest

DOT, INPUT, OUTPUT, APART, FROM_MEAN, WHOLE_INPUT = range(6)

OBSERVED = ("lim", "negative_cosine", "block_influence", "angular_distance", "relative_contribution", "lim_per_token")
PER_TOKEN = OBSERVED[1:]
OF_COSINE = OBSERVED[1:4]
METRICS = (*OBSERVED, "cka", "ablation")


def checked(metrics):
    """The metrics asked for, each once; "all" is every one of them.

    Raises
    ------
    UnknownNameError
        For one there is not; the message lists the nearest names.
    ConfigError
        For none.
    """
    asked = [metrics] if isinstance(metrics, str) else list(metrics)
    asked = list(dict.fromkeys(each for metric in asked for each in (METRICS if metric == "all" else [metric])))
    for metric in asked:
        if metric not in METRICS:
            near = nearest(str(metric), METRICS) or f"there are all, {', '.join(METRICS)}"
            raise UnknownNameError(f"there is no metric {metric!r}; {near}")
    if not asked:
        raise ConfigError(f"metrics is empty; there are {', '.join(METRICS)}")
    return tuple(asked)


def sums_of(x, y):
    """The sums (N, 6) of x (N, I) and y (N, O), in float64."""
    width = min(x.shape[-1], y.shape[-1])
    a, b = x[:, :width], y[:, :width]
    from_mean = y - x.mean(axis=-1, keepdims=True)
    return np.stack([(p * q).sum(axis=-1) for p, q in (
        (a, b), (a, a), (b, b), (b - a, b - a), (from_mean, from_mean), (x, x))], axis=-1)  # fmt: skip


def tokens(metrics, sums, stream, case):
    """Metrics of every token, and `lim` of all tokens together.

    Parameters
    ----------
    metrics : sequence of str
        Of `OBSERVED`.
    sums : (N, 6) float64
        Of the tokens that count, output against input.
    stream : (N, 6) float64 or None
        For a branch: its output against the stream it joins.
    case : str
        The shape case.

    Returns
    -------
    dict
        {metric: (N,) float64, (1,) for `lim`}. Where both input and output are zero it is 0; where only one of them is,
        and the value does not exist, nan.
    """
    apart, whole = (FROM_MEAN, WHOLE_INPUT) if case == FEATURE_MEAN else (APART, INPUT)
    found = {}
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is not a value, and is reported
        if "lim" in metrics:
            found["lim"] = _ratio(sums[:, apart].sum(keepdims=True), sums[:, whole].sum(keepdims=True))
        if "lim_per_token" in metrics:
            found["lim_per_token"] = _ratio(sums[:, apart], sums[:, whole])
        if "relative_contribution" in metrics:
            of, to, by = (sums, apart, whole) if stream is None else (stream, OUTPUT, INPUT)
            found["relative_contribution"] = _ratio(of[:, to], of[:, by])
        if any(metric in metrics for metric in OF_COSINE):
            below, above = _about_cosine(sums)
            found["negative_cosine"] = np.where(below < 1, below - 1, 1 - above)
            found["block_influence"] = below
            found["angular_distance"] = 2 * np.arctan2(np.sqrt(below), np.sqrt(above)) / np.pi
            nothing = (sums[:, INPUT] == 0) & (sums[:, OUTPUT] == 0)
            if nothing.any():
                found |= {metric: np.where(nothing, 0.0, found[metric]) for metric in OF_COSINE}
    return {metric: found[metric] for metric in metrics}


def _ratio(apart, whole):
    """sqrt(apart / whole); 0 / 0 is 0, anything else by 0 is nan."""
    exists = whole > 0
    ratio = np.sqrt(np.divide(apart, whole, out=np.full_like(apart, np.nan), where=exists))
    return np.where(~exists & (apart == 0), 0.0, ratio)


def _about_cosine(sums):
    """1 - cos and 1 + cos of input and output, nan where one of them is zero.

    Where the two are close, 1 - cos comes from their difference: 1 minus the quotient would leave only rounding.
    """
    dot, apart = sums[:, DOT], sums[:, APART]
    product = np.sqrt(sums[:, INPUT]) * np.sqrt(sums[:, OUTPUT])
    exists = product > 0
    safe = np.where(exists, product, np.nan)
    lengths_apart = (np.sqrt(sums[:, INPUT]) - np.sqrt(sums[:, OUTPUT])) ** 2
    cosine = np.clip(dot / safe, -1.0, 1.0)
    by_difference = np.clip((apart - lengths_apart) / (2 * safe), 0.0, 2.0)
    below = np.where(apart < product, by_difference, 1 - cosine)
    return below, np.where(apart < product, 2 - by_difference, 1 + cosine)


class Course:
    """The weighted mean and the spread of a stream of numbers, in one pass (West, 1979).

    Attributes
    ----------
    mean : float or None
        None before the first number.
    count : int
    weight : float
    """

    def __init__(self):
        self.count, self.weight, self._mean, self._squares = 0, 0.0, 0.0, 0.0

    def add(self, value, weight):
        """Take in `value`, which counts `weight` times."""
        self.count += 1
        self.weight += weight
        step = value - self._mean
        self._mean += step * weight / self.weight
        self._squares += weight * step * (value - self._mean)

    @property
    def mean(self):
        return self._mean if self.count else None

    @property
    def spread(self):
        """The standard deviation over the numbers; None before the first."""
        return float(np.sqrt(max(self._squares, 0.0) / self.weight)) if self.count else None
