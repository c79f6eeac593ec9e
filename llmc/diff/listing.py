"""Listing: what is inside one checkpoint, tensor by tensor."""

import fnmatch
import math
import os
import re

import numpy as np

from llmc.calls import public
from llmc.diff import spectrum as spectra
from llmc.diff import files
from llmc.diff.notes import pattern
from llmc.diff.sides import Opened, is_adapter
from llmc.diff.view import View, steps
from llmc.diff.viewer import listing_page
from llmc.errors import UnknownNameError, nearest
from llmc.lora.adapter_files import weights_in
from llmc.show import exports
from llmc.show.bar import bar
from llmc.show.table import Table, count

FORMAT, VERSION = "llmc-listing", 1
STANDING = ("name", "role", "layer", "part", "shape", "dtype", "numbers", "bytes", "file")
STATISTICS = ("minimum", "maximum", "mean", "std", "norm", "zeros", "nonfinite")
SPECTRUM = ("spectral_norm", "stable_rank", "effective_rank", "rank_99", "singular_values")


@public
class Listing:
    """What is inside a checkpoint. It prints itself: the tensors in natural order, and their totals.

    Attributes
    ----------
    path : str
        What was listed.
    rows : list of dict
        One a tensor, in the files' order.
    totals : list of dict
        One a role and dtype: `role, dtype, tensors, numbers, bytes`.
    notes : list of str
    """

    def __init__(self, path, rows, notes):
        self.path, self.rows, self.notes = path, rows, notes
        self.totals = totals_of(rows)

    def to_dict(self):
        """Everything, as JSON holds it."""
        return {"format": FORMAT, "version": VERSION, "rows": self.rows, "totals": self.totals, "notes": self.notes}

    def to_dataframe(self):
        """The rows as a pandas DataFrame.

        Raises
        ------
        ImportError
            Without pandas.
        """
        return exports.dataframe(self.rows, "listing")

    def save(self, path):
        """Write everything as .json, the rows as .csv, or a page to look at as .html; the file appears whole.

        Raises
        ------
        ConfigError
            For another ending.
        OSError
            When the place cannot be written to.
        """
        keys = self.rows[0] if self.rows else STANDING
        exports.save(path, "a listing", self.to_dict, lambda: files.to_csv(self.rows, keys), lambda: listing_page(self),
                     indent=None, draws=False)  # fmt: skip

    def __str__(self):
        return "\n\n".join([str(self.table("name")), str(self.sums()), *self.notes])

    __repr__ = __str__

    def table(self, by="name"):
        """The tensors as a table, by "name" (layer 10 behind layer 9), "bytes" (most first) or "file" (as they lie)."""
        rows = list(self.rows)
        if by == "name":
            rows.sort(key=lambda row: natural(row["name"]))
        elif by == "bytes":
            rows.sort(key=lambda row: -row["bytes"])
        several = len({row["file"] for row in rows}) > 1
        columns = ["name", "shape", "dtype", "role", "bytes"] + ["file"] * several
        columns += [key for key in (*STATISTICS, *SPECTRUM) if rows and key in rows[0] and key != "singular_values"]
        return Table(columns, rows)

    def sums(self):
        """The totals as a table, with one over all."""
        rows = list(self.totals)
        if len(rows) != 1:
            rows.append({"role": "all", "dtype": ""} | {key: sum(row[key] for row in self.totals)
                                                        for key in ("tensors", "numbers", "bytes")})  # fmt: skip
        there = len({row["file"] for row in self.rows})
        return Table(["role", "dtype", "tensors", "numbers", "bytes"], rows,
                     f"{count(rows[-1]['bytes'], 'B')} in {there} file{'s' * (there != 1)}")  # fmt: skip


@public
def inspect(path, match="*", stats=False, spectrum=False, disable_tqdm=None):
    """List what is inside a checkpoint. No number is read without `stats` or `spectrum`.

    Parameters
    ----------
    path : str or PathLike
        A folder or a file as `open` takes it, or the folder of an adapter.
    match : str
        A glob of names.
    stats : bool
        Also the range, mean, deviation, norm, zeros and non-finite numbers of each tensor.
    spectrum : bool
        Also what the singular values of each matrix say.
    disable_tqdm : bool, optional
        None: a bar on the standard error where somebody looks.

    Returns
    -------
    Listing

    Raises
    ------
    FileNotFoundError, CheckpointError
        When it cannot be opened or read.
    UnknownNameError
        When no name matches.
    """
    path = os.fspath(path)
    side = Opened(weights_in(path) if is_adapter(path) else path)
    try:
        stored = side.tensors
        names = [name for name in stored.names() if fnmatch.fnmatchcase(name, match)]
        if not names and len(stored):
            near = nearest(match, stored) or f"it has {len(stored)} others"
            raise UnknownNameError(f"{path}: no tensor is called {match!r}; {near}")
        rows = [_standing(stored, name) for name in names]
        if stats or spectrum:
            _read(side, rows, stats, spectrum, disable_tqdm)
    finally:
        side.close()
    return Listing(path, rows, _notes(rows) if stats else [])


def _standing(stored, name):
    shape = stored.shape(name)
    return {"name": name, "role": stored.role(name), "layer": stored.layer(name), "part": stored.part(name),
            "shape": list(shape), "dtype": str(stored.dtype(name)), "numbers": math.prod(shape),
            "bytes": stored.nbytes(name), "file": os.path.basename(stored.file(name))}  # fmt: skip


def _read(side, rows, stats, spectrum, disable_tqdm):
    """Put into the rows what their numbers say."""
    shown = bar(disable_tqdm, total=sum(row["bytes"] for row in rows), unit="B", unit_scale=True, desc="inspect",
                dynamic_ncols=True, leave=False, delay=1.0)  # fmt: skip
    try:
        for row in rows:
            view = View(side, row["name"])
            found = _statistics(view) if view.dtype.kind != "c" else dict.fromkeys(STATISTICS)
            if stats:
                row |= found
            if spectrum:
                row |= dict.fromkeys(SPECTRUM) | _spectrum(view, found)
            if shown is not None:
                shown.update(row["bytes"])
    finally:
        if shown is not None:
            shown.close()


def _statistics(view):
    """The keys of `STATISTICS`, over the finite numbers, in float64."""
    least, most, zeros, nonfinite, numbers, total, squares = math.inf, -math.inf, 0, 0, 0, 0.0, 0.0
    reader = view.reader()
    for first, last in steps(view.shape):
        with np.errstate(all="ignore"):
            block = reader(first, last).astype(np.float64).reshape(-1)
        finite = block[np.isfinite(block)]
        zeros, nonfinite = zeros + int(np.sum(finite == 0)), nonfinite + len(block) - len(finite)
        numbers, total, squares = numbers + len(finite), total + float(finite.sum()), squares + float(finite @ finite)
        if len(finite):
            least, most = min(least, float(finite.min())), max(most, float(finite.max()))
    if not numbers or not math.isfinite(squares):
        return dict.fromkeys(STATISTICS[:5]) | {"zeros": zeros, "nonfinite": nonfinite}
    mean = total / numbers
    spread = squares / numbers - mean * mean
    if spread <= 1e-6 * mean * mean:  # too few digits are left
        spread = _spread_about(view, mean) / numbers
    return {"minimum": least, "maximum": most, "mean": mean, "std": math.sqrt(max(spread, 0.0)),
            "norm": math.sqrt(squares), "zeros": zeros, "nonfinite": nonfinite}  # fmt: skip


def _spread_about(view, mean):
    reader, total = view.reader(), 0.0
    for first, last in steps(view.shape):
        block = reader(first, last).astype(np.float64).reshape(-1)
        total += float(np.sum(np.square(block[np.isfinite(block)] - mean)))
    return total


def _spectrum(view, found):
    """The keys of `SPECTRUM` of a matrix; nothing for anything else, or where a number is not finite."""
    if len(view.shape) != 2 or 0 in view.shape or found["nonfinite"] or found["norm"] is None:
        return {}
    wide = np.float64 if view.dtype.itemsize > 4 else np.float32
    measured = spectra.measure(view.read().astype(wide, copy=False), found["norm"], 0.0)
    return {key: measured[key] for key in SPECTRUM}


def totals_of(rows):
    """A row for each role and dtype, in the order in which they come."""
    sums = {}
    for row in rows:
        entry = sums.setdefault((row["role"], row["dtype"]), {"role": row["role"], "dtype": row["dtype"], "tensors": 0,
                                                              "numbers": 0, "bytes": 0})  # fmt: skip
        for key, value in (("tensors", 1), ("numbers", row["numbers"]), ("bytes", row["bytes"])):
            entry[key] += value
    return list(sums.values())


def _notes(rows):
    odd = {}
    for row in rows:
        if row["nonfinite"]:
            odd.setdefault(pattern(row["name"]), []).append(row)
    lines = []
    for name, group in odd.items():
        many = f" ({len(group)} tensors)" if len(group) > 1 else ""
        odd_ones = sum(row["nonfinite"] for row in group)
        said = f"{odd_ones:,} numbers are not finite" if odd_ones > 1 else "1 number is not finite"
        lines.append(f"{name if many else group[0]['name']}: {said}{many}")
    return lines


def natural(name):
    """A key that sorts layer 10 behind layer 9."""
    return [(1, int(each), "") if each.isdecimal() else (0, 0, each) for each in re.split(r"(\d+)", name)]
