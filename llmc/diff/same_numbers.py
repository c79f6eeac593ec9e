"""Counterparts of which no name tells: tensors that hold nearly the same numbers, taken together over all layers."""

import math
from dataclasses import replace

import numpy as np

from llmc.diff.view import View, steps

MOST = 0.1  # relative change of a counterpart
CLEAR = 0.5  # times that of the next candidate


def match_by_numbers(base, left, tuned, right):
    """Pairs of names, of what is left over on both sides.

    Names that differ only in the numbers between their dots are one group; two groups fit where the numbers agree and
    all shapes are equal or transposed. Of the groups that fit, the one whose first tensor has the least relative change
    to the base's is the counterpart, where that is at most `MOST` and at most `CLEAR` times the next one's.

    Parameters
    ----------
    base, tuned : Side
    left, right : list of str

    Yields
    ------
    (str, str)
    """
    groups, others = _groups(left), _groups(right)
    for group in groups.values():
        fitting = [key for key, other in others.items() if _fits(base, group, tuned, other)]
        first = next(iter(group))
        changes = {key: _relative_change(View(base, group[first]), View(tuned, others[key][first])) for key in fitting}
        ranked = sorted(fitting, key=changes.get)  # stable: of those that are equal the first of the file
        if not ranked or not changes[ranked[0]] <= MOST:
            continue
        best, second = changes[ranked[0]], changes[ranked[1]] if len(ranked) > 1 else math.inf
        if best and best > CLEAR * second:
            continue
        other = others.pop(ranked[0])
        yield from ((name, other[numbers]) for numbers, name in group.items())


def _groups(names):
    """{name without its numbers: {its numbers: name}}"""
    groups = {}
    for name in names:
        parts = name.split(".")
        numbers = tuple(int(each) for each in parts if each.isdecimal())
        groups.setdefault(".".join("#" if each.isdecimal() else each for each in parts), {})[numbers] = name
    return groups


def _fits(base, group, tuned, other):
    return group.keys() == other.keys() and all(
        base.shape(name) in (tuned.shape(other[numbers]), tuned.shape(other[numbers])[::-1])
        and base.dtype(name).kind not in "c" for numbers, name in group.items())


def _relative_change(base, tuned):
    """‖tuned − base‖ / ‖base‖; of a square matrix the lesser of that and of its transpose's."""
    ways = [tuned] if base.shape == tuned.shape else []
    if len(base.shape) == 2 and base.shape == tuned.shape[::-1]:
        ways.append(replace(tuned, transposed=True))
    return min(_one_way(base, way) for way in ways)


def _one_way(base, tuned):
    squares = np.zeros(2)
    reader, other = base.reader(), tuned.reader()
    with np.errstate(all="ignore"):
        for first, last in steps(base.shape):
            b, t = (each(first, last).astype(np.float64) for each in (reader, other))
            squares += np.sum(b * b), np.sum(np.square(t - b))
    if not squares[0]:
        return 0.0 if squares[1] == 0 else math.inf
    return math.sqrt(squares[1] / squares[0]) if np.isfinite(squares).all() else math.inf
