"""Two predictions of the same next tokens: how far apart they are, and which tokens rose and fell."""

from dataclasses import dataclass

import numpy as np

from llmc.analysis.in_parallel import in_pieces

_AT_ONCE = 1 << 16  # logits in double at a time: they stay in the cache


@dataclass
class Predictions:
    """What a comparison of two rows of logits a token found, N tokens, the V leading ids that both have.

    Attributes
    ----------
    kl : (N,) float64
        KL(after || before) of the next-token distributions, in nats.
    before_top, after_top : (N,) int
        The likeliest ids.
    before_logprob, after_logprob : (N,) float64
        Of the token that follows; NaN where none does.
    risen : (V,) float64
        The probability of every id after minus before, summed over the tokens.
    """

    kl: np.ndarray
    before_top: np.ndarray
    after_top: np.ndarray
    before_logprob: np.ndarray
    after_logprob: np.ndarray
    risen: np.ndarray

    @property
    def agreement(self):
        """The share of tokens with the same likeliest next one."""
        return float(np.mean(self.before_top == self.after_top))


def compare_predictions(before, after, following=None):
    """Compare the logits of two models on the same tokens.

    Parameters
    ----------
    before, after : (N, V) float32
        Of widths that differ the common leading ids are compared, as if there were no others.
    following : (N,) int, optional
        The id that follows each token; below 0 where none does.

    Returns
    -------
    Predictions
    """
    count, width = len(before), min(before.shape[1], after.shape[1])
    before, after = before[:, :width], after[:, :width]
    following = np.full(count, -1) if following is None else np.asarray(following)
    found = Predictions(*(np.empty(count, kind) for kind in (float, int, int, float, float)), np.zeros(width))
    found.risen = sum(in_pieces(lambda *rows: _compare_all(found, rows, before, after, following), count))
    return found


def _compare_all(found, rows, before, after, following):
    """Fill in what was found of some rows; gives what they add to `risen`."""
    first, last = rows
    width = before.shape[1]
    step = min(max(_AT_ONCE // width, 1), last - first)
    risen, room = np.zeros(width), np.empty((4, step, width))
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is not a value
        for start in range(first, last, step):
            risen += _compare(found, slice(start, min(start + step, last)), before, after, following, room)
    return risen


def _compare(found, rows, before, after, following, room):
    old, new, target = before[rows], after[rows], following[rows]
    z, e, z_new, e_new = room[:, : len(target)]
    found.before_top[rows], found.after_top[rows] = old.argmax(axis=1), new.argmax(axis=1)
    (total, lse), (total_new, lse_new) = _exponentials(old, z, e), _exponentials(new, z_new, e_new)
    risen = np.einsum("n,nv->v", 1 / total_new, e_new) - np.einsum("n,nv->v", 1 / total, e)
    each, there = np.arange(len(target)), target >= 0
    for name, logits, logsumexp in (("before_logprob", z, lse), ("after_logprob", z_new, lse_new)):
        getattr(found, name)[rows] = np.where(there, logits[each, np.where(there, target, 0)] - logsumexp, np.nan)
    z_new -= z
    apart = np.einsum("nv,nv->n", e_new, z_new) / total_new  # the expected difference of the logits
    found.kl[rows] = np.maximum(apart - (lse_new - lse), 0.0)
    return risen


def _exponentials(logits, z, e):
    """Fills z with the logits and e with exp(z - their largest); gives the sums of e, and logsumexp."""
    z[...] = logits
    most = z.max(axis=1, keepdims=True)
    np.subtract(z, most, out=e)
    np.exp(e, out=e)
    total = e.sum(axis=1)
    return total, most[:, 0] + np.log(total)
