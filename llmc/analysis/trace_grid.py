"""The modules of a trace as a heat map: layers by parts, and the scale of a measure."""

from collections import Counter

from llmc.show import colours
from llmc.show.grid import GONE, Cell, Grid

BLOCK = "block"  # the name of the block itself among its parts
MARKS = {GONE: "no value"}
_WITHOUT_WEIGHTS = ("model", "block", "attention", "feed-forward", "router")


def scale(by, values):
    """The Colours of a measure, of which all `values` are shown."""
    return colours.fixed(1.0, signed=True) if by == "cosine" else colours.rising(values)


def grid_of(modules, by):
    """The heat map of a measure; parts of which it says nothing are left out."""
    telling = {_part(row) for row in modules if row[by] is not None or _is_gone(row, by)}
    inside = [row for row in modules if row["layer"] is not None and _part(row) in telling]
    of_layer = Counter(row["layer"] for row in inside)  # the layers that have most show where the others' parts stand
    in_order = sorted(inside, key=lambda row: -of_layer[row["layer"]])
    parts = sorted(dict.fromkeys(map(_part, in_order)), key=lambda part: part == BLOCK)
    outside = [row for row in modules if row["layer"] is None and row["kind"] != "model" and _part(row) in telling]
    cells = {(row["layer"], _part(row)): _cell(row, by) for row in inside}
    return Grid(parts, cells, [_cell(row, by) for row in outside], bold=BLOCK)


def _part(row):
    return row["part"] or BLOCK


def _is_gone(row, by):
    """Whether a value should be there and is not: what the base gave is zero, numbers that are not finite."""
    if row[by] is not None or by == "input_change" and row["kind"] == "embedding":
        return False
    return by != "own_change" or row["kind"] not in _WITHOUT_WEIGHTS


def _cell(row, by):
    said = "".join(f"\n{name} {row[name]:.6g}" for name in ("own_change", "output_change", "input_change", "cosine")
                   if row[name] is not None)  # fmt: skip
    return Cell(row["name"], row[by], GONE if _is_gone(row, by) else "", tip=f"{row['name']}{said}")
