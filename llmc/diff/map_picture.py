"""The picture of a diff: layers by parts as a heat map, what stands outside the blocks below it."""

import os

from llmc.diff.headline import counts, headline
from llmc.show.colours import GREY, fixed, rising
from llmc.show.grid import GONE, SKIPPED, Cell, Grid
from llmc.show.sheet import CELL, Sheet

EDGE, LAYERS, FOOT = 0.35, 0.45, 0.85
OUTSIDE_ROW = 0.34
MARKS = {GONE: "not finite, or not comparable", SKIPPED: "on one side alone"}


def plot(diff, path, by):
    """Draw a Diff, coloured by a key of its rows, into a .png, .pdf or .svg that appears whole."""
    grid = grid_of(diff.rows, by)
    values = [row[by] for row in diff.rows if row[by] is not None]
    colours = rising(values) if any(values) else fixed(1.0)
    lines = len(grid.outside)
    top = 1.05 + 0.05 * max(map(len, grid.parts), default=0)
    bottom = top + len(grid.layers) * CELL[1]
    width = max(EDGE * 2 + LAYERS + len(grid.parts) * CELL[0] + 1.2, 7.4)
    sheet = Sheet(width, bottom + 0.35 + lines * OUTSIDE_ROW + FOOT)
    base, tuned = (_short(diff.summary[side]) for side in ("base", "tuned"))
    sheet.text(EDGE, 0.36, f"{by}: {base} → {tuned}", size=13, weight="bold")
    sheet.text(EDGE, 0.62, f"{headline(diff.summary).rpartition(': ')[2]} · {counts(diff.summary)}", size=8, color=GREY)
    if grid.layers:
        sheet.heat_map(EDGE + LAYERS, top, grid, colours)
    for line, cell in enumerate(grid.outside):
        y = bottom + 0.3 + line * OUTSIDE_ROW
        sheet.cell(EDGE + LAYERS, y, cell, colours)
        sheet.text(EDGE + LAYERS + CELL[0] + 0.1, y + CELL[1] / 2, cell.name, size=7.5, va="center_baseline")
    foot = bottom + 0.35 + lines * OUTSIDE_ROW + 0.3
    sheet.scale(EDGE + LAYERS, foot, colours, by)
    present = {cell.mark for cell in [*grid.cells.values(), *grid.outside]}
    sheet.key(EDGE + LAYERS + 2.9, foot, {mark: words for mark, words in MARKS.items() if mark in present})
    sheet.save(path)


def grid_of(rows, by):
    """The Grid of some rows: layers by parts, biases in columns of their own."""
    inside = [row for row in rows if row["layer"] is not None]
    parts = dict.fromkeys(map(column, inside))
    ordered = sorted(parts, key=lambda part: part.endswith(".bias"))
    return Grid(ordered, {(row["layer"], column(row)): _cell(row, by) for row in inside},
                [_cell(row, by) for row in rows if row["layer"] is None])  # fmt: skip


def column(row):
    """A row's column of the map: its part, and the end of its name where that is no weight."""
    name, bracket, piece = row["name"].partition("[")
    leaf = name.rpartition(".")[2]
    end = "" if leaf == "weight" or leaf == row["part"] else f".{leaf}"
    return row["part"] + end + bracket + piece


def _cell(row, by):
    alone = row["status"] in ("missing", "extra")
    mark = SKIPPED if alone else GONE if row["nonfinite"] or row["status"] == "incomparable" else ""
    return Cell(row["name"], None if mark else row[by], mark)


def _short(label):
    """The end of a path, as a headline has room for."""
    return " + ".join(os.path.basename(os.path.normpath(each)) or each for each in label.split(" + "))
