"""Sums: all that one pass over two tensors adds up, row by row, in float64 and in an order that shapes alone decide."""

import math
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from llmc.checkpoint.formats.dtypes import BFLOAT16
from llmc.core import _core
from llmc.diff.sides import is_float

# Columns of what is added up for every row: Σb², Σt², ΣΔ², Σbt, ΣΔ, Σulp(b)²; and of what is added up for every column.
BASE, TUNED, DELTA, DOT, TOTAL, ULPS = range(6)
WIDTH = 6
FLAT = 1 << 14  # a vector is added up in rows of so many
_CORE_READS = (np.dtype(np.float32), BFLOAT16, np.dtype(np.float16))


@dataclass
class Sums:
    """What one pass found.

    Attributes
    ----------
    rows : (R, 6) float64
        Of each row of the base's layout; a vector has rows of `FLAT` numbers.
    columns : (C, 3) float64 or None
        Σb², Σt², ΣΔ² of each column.
    changed : (R,) int64
    nonfinite : int
        NaNs and infinities, both sides together.
    max_abs : float
    max_at : int
        Its place in the flattened layout.
    overflow : bool
        A difference of finite numbers was too large for its dtype.
    only_rounded : bool
        Rounding the wider side to the narrower dtype gives the narrower side.
    """

    rows: np.ndarray
    columns: np.ndarray | None
    changed: np.ndarray
    nonfinite: int
    max_abs: float
    max_at: int
    overflow: bool
    only_rounded: bool

    def norms(self, rows=slice(None)):
        """{"base_norm", "tuned_norm", "delta_norm", "relative_change", "cosine"} of some rows, as a diff's row has."""
        return norms(self.rows[rows].sum(axis=0))


def norms(sums):
    """The norms that six sums give, and their ratios, each None where it does not exist."""
    if not np.isfinite(sums).all():
        return dict.fromkeys(("base_norm", "tuned_norm", "delta_norm", "relative_change", "cosine"))
    base, tuned, delta = (math.sqrt(float(sums[which])) for which in (BASE, TUNED, DELTA))
    relative = delta / base if base else 0.0 if not delta else None
    cosine = min(1.0, max(-1.0, float(sums[DOT]) / (base * tuned))) if base and tuned else None
    return {"base_norm": base, "tuned_norm": tuned, "delta_norm": delta, "relative_change": relative, "cosine": cosine}


def add_up(pair, wide, columns=False, pieces=None, delta=None):
    """One pass over a pair.

    Parameters
    ----------
    pair : Pair
    wide : dtype
        In which the two are subtracted.
    columns : bool
        Whether each column is added up, too.
    pieces : list of (int, int), optional
        Ranges of columns that are added up apart; together they are all of them.
    delta : (R, C) array of `wide`, optional
        Δ is written there.

    Returns
    -------
    list of Sums
        One a piece.
    """
    spacing, rounds, width = spacing_of(pair), _rounding(pair), math.prod(pair.shape[1:])
    pieces = pieces or [(0, width)]
    found = [[] for _ in pieces]
    for first, base, other, is_delta in pair.blocks():
        rounded = rounds is not None and _is_rounded(base, other, *rounds)
        for (low, high), into in zip(pieces, found):
            b, t = (each if high - low == width else np.ascontiguousarray(each[:, low:high]) for each in (base, other))
            out = None if delta is None else delta[first : first + len(b), low:high]
            if len(pair.shape) < 2:
                b, t = _folded(b.reshape(-1)), _folded(t.reshape(-1))
            block = core_sums if _is_for_core(b, t, wide) else block_sums
            sums = block(b, t, is_delta, wide, spacing, columns, out)
            row, column = divmod(sums[5], high - low)
            into.append((*sums[:5], (first + row) * width + low + column, *sums[6:], rounded))
    return [_gathered(blocks, columns, high - low) for blocks, (low, high) in zip(found, pieces)]


def _gathered(blocks, columns, width):
    if not blocks:  # no number at all
        return Sums(np.zeros((0, WIDTH)), np.zeros((width, 3)) if columns else None, np.zeros(0, np.int64), 0, 0.0, 0,
                    False, False)  # fmt: skip
    rows, down, changed, nonfinite, most, places, overflows, rounded = zip(*blocks)
    top = most.index(max(most))
    return Sums(np.concatenate(rows), np.add.reduce(down) if columns else None, np.concatenate(changed),
                sum(nonfinite), most[top], places[top], any(overflows), all(rounded))  # fmt: skip


def joined(parts, pieces):
    """The Sums of a whole, of those of ranges of its columns."""
    if len(parts) == 1:
        return parts[0]
    most = max(part.max_abs for part in parts)
    return Sums(np.add.reduce([part.rows for part in parts]),
                None if parts[0].columns is None else np.concatenate([part.columns for part in parts]),
                np.add.reduce([part.changed for part in parts]), sum(part.nonfinite for part in parts), most,
                min(part.max_at for part in parts if part.max_abs == most), any(part.overflow for part in parts),
                all(part.only_rounded for part in parts))  # fmt: skip


def block_sums(base, other, is_delta, wide, spacing, columns, out=None):
    """(rows, columns, changed, nonfinite, max_abs, its place, overflow) of a block, by NumPy: the truth.

    Parameters
    ----------
    base, other : (R, C)
        `other` is the tuned side, or Δ where `is_delta` says so.
    wide : dtype
    spacing : (int, float) or None
        As of `spacing_of`.
    columns : bool
    out : (R, C) array of `wide`, optional
        Δ.
    """
    with np.errstate(all="ignore"):
        b, t = base.astype(wide), other.astype(wide)
        d = t if is_delta else t - b
        finite_b, finite_d = np.isfinite(b), np.isfinite(d)
        t = b.astype(np.float64) + d if is_delta else t
        finite_t = np.isfinite(t)
        differs = d != 0 if is_delta else (b != t) & ~(np.isnan(b) & np.isnan(t))
        b8, t8, d8 = (each.astype(np.float64) for each in (b, t, d))
        ulps = np.zeros_like(b8) if spacing is None else _squared_ulps(b8, *spacing)
        rows = np.stack([(b8 * b8).sum(1), (t8 * t8).sum(1), (d8 * d8).sum(1), (b8 * t8).sum(1), d8.sum(1),
                         ulps.sum(1)], 1)  # fmt: skip
        down = np.stack([(b8 * b8).sum(0), (t8 * t8).sum(0), (d8 * d8).sum(0)], 1) if columns else None
    if out is not None:
        out[...] = d
    nonfinite = int((~finite_b).sum() + (~finite_t).sum())
    size = np.abs(d)
    at = int(np.argmax(size)) if size.size and not nonfinite else 0
    most = float(size.flat[at]) if size.size else 0.0
    return (rows, down, differs.sum(1), nonfinite, most, at,
            bool((finite_b & finite_t & ~finite_d).any() or not np.isfinite(rows).all() and not nonfinite))


def _is_for_core(base, other, wide):
    return wide == np.float32 and all(each.dtype in _CORE_READS for each in (base, other))


def core_sums(base, other, is_delta, wide, spacing, columns, out=None):
    """The same as `block_sums` by the core, of float32, bfloat16 and float16, subtracted in float32."""
    mantissa, least = spacing or (0, 0)
    rows, changed = np.empty((len(base), WIDTH)), np.empty(len(base), np.int64)
    down = np.empty((3, base.shape[1])) if columns else None
    room = out if out is None or out.flags.c_contiguous else np.empty(out.shape, wide)
    nonfinite, most, at = _core.compare(_for_core(base), _for_core(other), is_delta, 2.0**least, rows, changed, down,
                                        room)
    rows[:, ULPS] = rows[:, ULPS] * 4.0**-mantissa if spacing else 0.0
    if room is not out:
        out[...] = room
    overflow = not nonfinite and not (np.isfinite(most) and np.isfinite(rows).all())
    return rows, None if down is None else down.T, changed, nonfinite, most, at, overflow


def _for_core(block):
    """A block as the core reads it."""
    if block.dtype == BFLOAT16:
        return np.ascontiguousarray(block).view(np.uint16)
    return np.ascontiguousarray(block, np.float32)


def spacing_of(pair):
    """(mantissa bits, least exponent of a normal number) of the narrower dtype; None where there is no rounding."""
    if not pair.is_rounded:
        return None
    info = [ml_dtypes.finfo(view.side.precision(view.name)) for view in (pair.base, pair.tuned)]
    return min((int(each.nmant), int(each.minexp)) for each in info)


def _squared_ulps(values, mantissa, least):
    """The square of the spacing of a dtype at each value; 0 for 0."""
    exponent = np.maximum(np.frexp(values)[1] - 1, least) - mantissa
    return np.where(values == 0, 0.0, np.ldexp(1.0, 2 * np.where(np.isfinite(values), exponent, 0)))


def _rounding(pair):
    """(the narrower dtype, which side has it) where two float dtypes differ; None otherwise."""
    here, there = pair.base.dtype, pair.tuned.dtype
    if here == there or not (is_float(here) and is_float(there)):
        return None
    size = [(ml_dtypes.finfo(each).nmant, each.itemsize) for each in (here, there)]
    return (here, 0) if size[0] < size[1] else (there, 1)


def _is_rounded(base, tuned, narrow, which):
    """Does rounding the wider of two blocks give the narrower?"""
    wider, narrower = (tuned, base) if which == 0 else (base, tuned)
    with np.errstate(all="ignore"):
        made = wider.astype(narrow).astype(np.float64)
        there = narrower.astype(np.float64)
    return bool(((made == there) | np.isnan(made) & np.isnan(there)).all())


def _folded(vector):
    """A vector as rows of `FLAT` numbers, the last filled up with zeros, which add nothing."""
    rows = max(1, -(-len(vector) // FLAT))
    if rows == 1:
        return vector[None]
    filled = np.zeros((rows, FLAT), vector.dtype)
    filled.reshape(-1)[: len(vector)] = vector
    return filled
