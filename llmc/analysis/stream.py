"""Stream: how far the residual stream of a tuned model is from the base's, token by token, and what that says."""

import numpy as np

from llmc.analysis.movement import APART, BEFORE, finite, ratio, token_sums
from llmc.analysis.own_change import normed
from llmc.functional import linear


class Stream:
    """Grows with every batch.

    Parameters
    ----------
    modules : list of Module
    width : int
        Of one stream; where there are several (Hyper-Connections) their sum counts, which the final norm reads.

    Attributes
    ----------
    tokens : list of (L + 1, B, T) float32
        One for each batch: |h' - h| / |h| of every token, NaN for padding.
    """

    def __init__(self, modules, width):
        self._width = width
        self._blocks = [module.name for module in modules if module.kind == "block"]
        self._norm = next((m.name for m in modules if m.kind == "norm" and m.layer is None), None)
        self._head = next(module.name for module in modules if module.kind == "head")
        self.tokens, self._count = [], 0
        self._sums, self._cosines, self._cosine_tokens = 0.0, 0.0, 0
        self._risen, self._says = 0.0, None

    def observe(self, batch, gave, given, after):
        """Take in what the base gave on a batch, and what the tuned model gave with the weights `after`."""
        real = batch.real
        rows = [tuple(sum_of_streams(batch.rows(self._place(side, place)), self._width) for side in (gave, given))
                for place in self._places()]
        seen = [token_sums(*pair) for pair in rows]
        change = np.full((len(rows), *real.shape), np.nan, np.float32)
        for place, (sums, _) in enumerate(seen):
            change[place][real] = _ratios(sums)
        self.tokens.append(change)
        self._sums = self._sums + np.array([sums.sum(axis=0) for sums, _ in seen])
        cosines = np.array([cosine for _, cosine in seen])
        self._cosines = self._cosines + np.nansum(cosines, axis=1)
        self._cosine_tokens = self._cosine_tokens + np.count_nonzero(~np.isnan(cosines), axis=1)
        self._risen = self._risen + np.array([np.subtract(new, old, dtype=np.float64).sum(axis=0) for old, new in rows])
        self._count += np.count_nonzero(real)
        self._after = after

    def rows(self, top, words, width):
        """A dict for every place of the stream: 0 the embeddings, l the output of block l.

        Parameters
        ----------
        top : int
            How many tokens each says.
        words : Words
        width : int
            How many leading ids count.
        """
        mean = (self._risen / self._count).astype(np.float32)
        scores = self._scores(mean)[:, :width]
        return [
            {
                "layer": place, "change": ratio(*self._sums[place]),
                "cosine": finite(self._cosines[place] / tokens) if (tokens := self._cosine_tokens[place]) else None,
                "says": words.largest(scores[place], top, "score") if self._speaks(place, scores) else None,
            }
            for place in self._places()
        ]  # fmt: skip

    def _speaks(self, place, scores):
        return self._sums[place][APART] != 0 and bool(np.isfinite(scores[place]).all())

    def _places(self):
        return range(len(self._blocks) + 1)

    def _place(self, seen, place):
        return seen.inputs[self._blocks[0]] if place == 0 else seen.outputs[self._blocks[place - 1]]

    def _scores(self, mean):
        """The tuned final norm and head at vectors (L + 1, C): (L + 1, V)."""
        x = mean if self._norm is None else normed(self._after, mean, self._norm)
        scores = linear(x, self._after.array(f"{self._head}.weight"))
        for A, B in self._after.branches(self._head):
            scores += x @ A.T @ B.T
        return scores


def sum_of_streams(values, width):
    """(…, S·width) -> (…, width): the sum of S streams that lie side by side; of one the values themselves."""
    if values.shape[-1] == width:
        return values
    return values.reshape(*values.shape[:-1], -1, width).sum(axis=-2)


def _ratios(sums):
    """|h' - h| / |h| of every token; 0 where nothing is apart, NaN where the base's is zero."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(sums[:, APART] == 0, 0.0, np.sqrt(sums[:, APART] / sums[:, BEFORE]))
