"""The row of a pair: everything that a diff says of one tensor, in plain Python."""

import math
from dataclasses import dataclass

import numpy as np

from llmc.diff import spectrum
from llmc.diff.pair import FLOAT32
from llmc.diff.sums import DELTA, TOTAL, ULPS, add_up, joined
from llmc.diff.units import moved, permutation, unit_sums, units_of

METRICS = ("change", "spectrum", "units", "intruders")
STANDING = ("name", "tuned_name", "status", "structure", "role", "layer", "part", "base_shape", "tuned_shape", "added",
            "base_dtype", "tuned_dtype", "numbers", "changed", "nonfinite")  # fmt: skip
CHANGE = ("base_norm", "tuned_norm", "delta_norm", "relative_change", "cosine", "max_abs", "max_at", "mean", "std",
          "rounding_floor")  # fmt: skip
SPECTRUM = ("spectrum_method", "spectral_norm", "stable_rank", "effective_rank", "rank_90", "rank_95", "rank_99",
            "signal_rank", "singular_values", "energy")  # fmt: skip
INTRUDERS = ("intruders", "intruder_cosines")
UNITS = ("unit", "units", "units_90", "moved", "permutation", "slices")
KEYS = (*STANDING, *CHANGE, *SPECTRUM, *INTRUDERS, *UNITS)
_OF_SLICES = ("spectral_norm", "stable_rank", "effective_rank", "rank_99", "signal_rank")
_SQUARE_NOW, _SQUARE_TURNED = 0.5, 0.9  # cosines of a square matrix that is transposed: below as it is, above turned
_FLAT_SPREAD = 1e-6  # of mean²: below it Σ Δ² tells nothing of the spread


@dataclass(frozen=True)
class Wanted:
    """What a diff measures.

    Attributes
    ----------
    metrics : tuple of str
    spectrum : "auto", "exact" or "randomised"
    top : int
    text : callable
        From a token's id to its text or None.
    """

    metrics: tuple
    spectrum: str
    top: int
    text: object


class Measured:
    """A pair, passed over once.

    Attributes
    ----------
    pair : Pair
    units : Units or None
        Where units are wanted, of a matrix.
    sums : Sums
    parts : list of Sums
        Of the slices of a fused matrix; otherwise that one alone.
    delta : array, (B, A) or None
        Δ in the base's layout, or its factors, where its spectrum is wanted.
    """

    def __init__(self, pair, wanted):
        self.pair, self.wide = pair, pair.wide
        self._wanted = wanted
        self.pass_over()
        if self._is_turned():
            pair.tuned = pair.tuned.turned()
            pair.add("transposed")
            self.pass_over()

    def pass_over(self):
        """Read both sides, and add up."""
        pair, wanted = self.pair, self._wanted
        self.units = units_of(pair) if pair.is_matrix and "units" in wanted.metrics and 0 not in pair.shape else None
        fused = self.units is not None and self.units.are_named
        pieces = [(each.first, each.last) for each in self.units.slices] if fused and pair.in_out else None
        columns = self.units is not None and (self.units.axis == 0) == pair.in_out
        self.delta = None
        if pair.is_matrix and "spectrum" in wanted.metrics and 0 not in pair.shape:
            self.delta = pair.factors()
        out = np.empty(pair.shape, self.wide) if self.delta is None and pair.is_matrix \
            and "spectrum" in wanted.metrics else None  # fmt: skip
        parts = add_up(pair, self.wide, columns, pieces, out)
        if any(part.overflow for part in parts) and self.wide == FLOAT32:
            self.wide = np.dtype(np.float64)
            return self.pass_over()
        self.delta = out if self.delta is None else self.delta
        self.sums = joined(parts, pieces)
        self.parts = parts if pieces else [self.sums]
        return None

    def _is_turned(self):
        pair = self.pair
        is_square = pair.is_matrix and pair.shape[0] == pair.shape[1]
        if not is_square or "transposed" in pair.structure or self.sums.nonfinite:
            return False
        cosine = self.sums.norms()["cosine"]
        if cosine is None or cosine >= _SQUARE_NOW or not self.changed:
            return False
        base, tuned = pair.base.reader(), pair.tuned.turned().reader()
        size = max(1, (1 << 21) // pair.shape[0])
        dot = sum(float(np.sum(base(first, first + size).astype(np.float64) * tuned(first, first + size)))
                  for first in range(0, pair.shape[0], size))  # fmt: skip
        found = self.sums.norms()
        return dot > _SQUARE_TURNED * found["base_norm"] * found["tuned_norm"]

    @property
    def changed(self):
        """How many numbers differ."""
        return int(self.sums.changed.sum())

    def noise(self, sums=None, numbers=None):
        """The deviation that rounding gives a number of Δ."""
        ulps = float((self.sums if sums is None else sums).rows[:, ULPS].sum())
        return math.sqrt(ulps / 12 / (numbers or math.prod(self.pair.shape)))

    def matrix(self):
        """Δ, or its factors, as (out, in)."""
        return self.delta if isinstance(self.delta, tuple) or not self.pair.in_out else self.delta.T


def row_of(pair, wanted):
    """The row of a pair: all of `KEYS`, in their order.

    Returns
    -------
    dict
    """
    row = dict.fromkeys(KEYS)
    row |= {"name": pair.name, "tuned_name": pair.tuned_name, "role": pair.role, "layer": pair.layer, "part": pair.part}
    row |= _stands("base", pair.base) | _stands("tuned", pair.tuned)
    row["added"] = pair.added
    if pair.base is None or pair.tuned is None or not pair.comparable:
        row["status"] = "extra" if pair.base is None else "missing" if pair.tuned is None else "incomparable"
        row["structure"] = list(pair.structure)
        return row
    measured = Measured(pair, wanted)
    row |= {"structure": list(pair.structure), "numbers": math.prod(pair.shape), "changed": measured.changed,
            "nonfinite": measured.sums.nonfinite}  # fmt: skip
    row["status"] = "identical" if not measured.changed else "rounded" if measured.sums.only_rounded else "changed"
    if measured.sums.nonfinite or not row["numbers"]:
        return row
    norms = measured.sums.norms()
    if "change" in wanted.metrics:
        row |= _change(measured, norms)
    if pair.is_matrix and norms["delta_norm"] is not None:
        if "spectrum" in wanted.metrics:
            row |= spectrum.measure(measured.matrix(), norms["delta_norm"], measured.noise(), wanted.spectrum)
        if "units" in wanted.metrics:
            row |= _units(measured, wanted, row["status"])
        if row["permutation"] is not None:
            row["status"] = "permuted"
        if "intruders" in wanted.metrics:
            measured.delta = None
            readers = [_matrix_reader(view, pair.in_out) for view in (pair.base, pair.tuned)]
            row["intruders"], row["intruder_cosines"] = spectrum.intruders(*readers)
    return row


def _matrix_reader(view, in_out):
    """A function that reads a view as (out, in)."""
    return lambda: view.read().T if in_out else view.read()


def _stands(side, view):
    if view is None:
        return {}
    whole = view if view.piece else None
    shape = whole.stored_shape if whole else view.side.shape(view.name)
    return {f"{side}_shape": list(shape), f"{side}_dtype": str(view.dtype)}


def _change(measured, norms):
    """The keys of `CHANGE`."""
    pair, sums = measured.pair, measured.sums
    numbers = math.prod(pair.shape)
    total, squares = float(sums.rows[:, TOTAL].sum()), float(sums.rows[:, DELTA].sum())
    mean = total / numbers
    spread = max(squares / numbers - mean * mean, 0.0)
    if spread <= _FLAT_SPREAD * mean * mean:
        spread = _spread_about(pair, mean, measured.wide) / numbers
    has_floor = pair.is_rounded and norms["base_norm"]
    return norms | {
        "max_abs": sums.max_abs,
        "max_at": [int(at) for at in np.unravel_index(sums.max_at, pair.shape)] if pair.shape else [],
        "mean": mean,
        "std": math.sqrt(spread),
        "rounding_floor": measured.noise() * math.sqrt(numbers) / norms["base_norm"] if has_floor else None,
    }


def _spread_about(pair, mean, wide):
    """Σ (Δ − mean)², where Σ Δ² has no digits left for it."""
    total = 0.0
    for _, base, other, is_delta in pair.blocks():
        delta = other if is_delta else other.astype(wide) - base.astype(wide)
        total += float(np.sum(np.square(delta.astype(np.float64) - mean)))
    return total


def _units(measured, wanted, status):
    """The keys of `UNITS`."""
    pair, units = measured.pair, measured.units
    table = unit_sums(units, measured.sums, pair.in_out)
    units_90, listed = moved(units, table, wanted.top, wanted.text)
    exchanged = permutation(pair, units, table) if status == "changed" and not units.are_named else None
    return {"unit": units.kind, "units": units.count, "units_90": units_90, "moved": listed, "permutation": exchanged,
            "slices": _slices(measured, wanted) if units.are_named else None}  # fmt: skip


def _slices(measured, wanted):
    found = {}
    for at, each in enumerate(measured.units.slices):
        rows = slice(None) if measured.pair.in_out else slice(each.first, each.last)
        part = measured.parts[at] if measured.pair.in_out else measured.sums
        numbers = (each.last - each.first) * (measured.pair.shape[0 if measured.pair.in_out else 1])
        norms = part.norms(rows)
        entry = {"numbers": numbers, "changed": int(part.changed[rows].sum())}
        entry |= {key: norms[key] for key in ("base_norm", "delta_norm", "relative_change", "cosine")}
        spectral = dict.fromkeys(_OF_SLICES)
        if "spectrum" in wanted.metrics:
            noise = math.sqrt(float(part.rows[rows, ULPS].sum()) / 12 / numbers)
            matrix = measured.matrix()
            matrix = (matrix[0][each.first : each.last], matrix[1]) if isinstance(matrix, tuple) \
                else matrix[each.first : each.last]  # fmt: skip
            measures = spectrum.measure(matrix, norms["delta_norm"], noise, wanted.spectrum)
            spectral = {key: measures[key] for key in _OF_SLICES}
        found[each.name] = entry | spectral
    return found
