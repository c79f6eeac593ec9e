"""Spearman's rank correlation: how well the order of one metric tells the order of another."""

import numpy as np

FEWEST = 3  # pairs; with two, any order is perfect


def rank_correlation(a, b):
    """Spearman's correlation of two equally long lists; ties share their mean rank.

    Parameters
    ----------
    a, b : sequences of float or None
        Pairs with a None do not take part.

    Returns
    -------
    float or None
        None for fewer than three pairs, or when one side is constant.
    """
    pairs = [(x, y) for x, y in zip(a, b) if x is not None and y is not None]
    if len(pairs) < FEWEST:
        return None
    x, y = (_ranks(side) for side in zip(*pairs))
    x, y = x - x.mean(), y - y.mean()
    both = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / both) if both > 0 else None


def _ranks(values):
    _, inverse, counts = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]
