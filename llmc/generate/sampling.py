"""Sampling: from logits to the next token, by transformers' rules in transformers' order."""

import numpy as np

from llmc.checks import whole


class Sampler:
    """How the next token is chosen; every row has a generator of its own, so its company changes nothing."""

    def __init__(self, rows, do_sample, temperature, top_k, top_p, min_p, repetition_penalty, seed):
        self.do_sample, self.temperature, self.penalty = do_sample, temperature, repetition_penalty
        self.top_k, self.top_p, self.min_p = top_k, top_p, min_p
        seed = np.random.SeedSequence().entropy if seed is None else whole(seed, "seed", most=None)
        self.generators = [_generator(seed, row) for row in range(rows)]
        self.looks_back = self.penalty != 1
        self.takes_the_likeliest = not self.do_sample and not self.looks_back

    def next(self, logits, seen):
        """The next token of every row.

        Parameters
        ----------
        logits : (B, V)
            Overwritten where the sampler looks back.
        seen : list of B integer arrays
            The tokens of each row so far, padding left out.

        Returns
        -------
        (B,) int64
        """
        if self.looks_back:
            for row, tokens in zip(logits, seen):
                tokens = np.unique(tokens)
                row[tokens] = np.where(row[tokens] < 0, row[tokens] * self.penalty, row[tokens] / self.penalty)
        if not self.do_sample:
            return logits.argmax(axis=1).astype(np.int64)
        return np.array([self._draw(row, rng) for row, rng in zip(logits, self.generators)], dtype=np.int64)

    def _draw(self, row, rng):
        p = self.probabilities(row)
        edges = np.cumsum(p)
        token = int(np.searchsorted(edges, rng.random() * edges[-1], side="right"))
        return min(token, int(np.flatnonzero(p)[-1]))

    def probabilities(self, row):
        """What a row of logits (V,) leaves to draw from: (V,) float64, 0 for what the filters take out."""
        row = row.astype(np.float64) / self.temperature
        if self.top_k is not None and self.top_k < len(row):
            row[row < np.partition(row, -self.top_k)[-self.top_k]] = -np.inf
        if self.top_p is not None and self.top_p < 1:
            row = _nucleus(row, self.top_p)
        p = _softmax(row)
        if self.min_p is not None:
            p = np.where(p >= self.min_p * p.max(), p, 0.0)
        return p / p.sum()


def _generator(seed, row):
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, row])))


def _softmax(row):
    p = np.exp(row - row.max())
    return p / p.sum()


def _nucleus(row, top_p):
    """The smallest set of best tokens whose probabilities reach top_p, the one that crosses it included."""
    p = _softmax(row)
    likely = np.flatnonzero(p > (1 - top_p) / len(p))  # all others together are too few to reach beyond top_p
    for tokens in (likely, np.arange(len(p))):  # all of them, should rounding have it otherwise
        order = tokens[np.argsort(-row[tokens], kind="stable")]
        reached = np.cumsum(p[order])
        if len(order) and reached[-1] >= top_p:
            break
    kept = order[reached - p[order] < top_p]
    nucleus = np.full_like(row, -np.inf)
    nucleus[kept] = row[kept]
    return nucleus
