"""The rows of a report as a heat map: layers by submodules, what each cell says, and the scale of a metric."""

from collections import Counter

from llmc.analysis.modules import path_within
from llmc.analysis.shapes import SAME, SKIPPED
from llmc.show import colours, grid
from llmc.show.grid import Cell, Grid

BLOCK = "block"  # the name of the block itself among its parts
CHANGE = "relative_change"  # of a comparison
SIGNED = ("negative_cosine", "ablation", CHANGE)
LARGEST = {"negative_cosine": 1.0, "angular_distance": 1.0, "cka": 1.0}
MARKS = {grid.CORNER: "widths differ", grid.SKIPPED: "skipped", grid.GONE: "no value"}


def scale(metric, values):
    """The Colours of a metric, of which all `values` are shown."""
    if metric in LARGEST:
        return colours.fixed(LARGEST[metric], signed=metric in SIGNED)
    return colours.signed(values) if metric in SIGNED else colours.rising(values)


def grid_of(rows, metric):
    """The heat map of a metric.

    Parameters
    ----------
    rows : list of dict
        Those of adapters are left out: they stand beside a linear, not in the way from one module to the next.
    metric : str
        Parts of which it says nothing (an ablation of a norm) are left out.

    Returns
    -------
    Grid
        Its parts in the order of a forward pass, the block itself last; outside, the modules outside the blocks but
        for the whole model.
    """
    rows = [row for row in rows if row["kind"] != "adapter"]
    telling = {_part(row) for row in rows if row[metric] is not None or _is_gone(row, metric)}
    inside = [row for row in rows if row["layer"] is not None and _part(row) in telling]
    of_layer = Counter(row["layer"] for row in inside)  # the layers that have most show where the others' parts stand
    in_order = sorted(inside, key=lambda row: -of_layer[row["layer"]])
    parts = sorted(dict.fromkeys(map(_part, in_order)), key=lambda part: part == BLOCK)
    outside = [row for row in rows if row["layer"] is None and row["kind"] != "model"]
    if not any(_part(row) in telling for row in outside):
        outside = []
    cells = {(row["layer"], _part(row)): _cell(row, metric) for row in inside}
    return Grid(parts, cells, [_cell(row, metric) for row in outside], bold=BLOCK)


def _part(row):
    return path_within(row["name"], row["layer"]) or BLOCK


def _cell(row, metric):
    value, change = row[metric], _width_change(row)
    mark = grid.GONE if _is_gone(row, metric) else grid.SKIPPED if row["shape_case"] == SKIPPED else ""
    return Cell(row["name"], value, mark, bool(change) and metric != CHANGE, change, _tip(row, metric))


def _is_gone(row, metric):
    """Whether a value should be there and is not: a zero input, numbers that are not finite."""
    if row["shape_case"] == SKIPPED or row[metric] is not None:
        return False
    return metric != "ablation" or row["kind"] in ("block", "attention", "feed-forward")


def _width_change(row):
    """"44 → 20" where a module's widths differ; "" where they do not, or where it reads ids."""
    if row["shape_case"] in (SAME, SKIPPED):
        return ""
    return f"{row['input_shape'][-1]} → {row['output_shape'][-1]}"


def _tip(row, metric):
    tip = f"{row['name']}: {list(row['input_shape'])} → {list(row['output_shape'])}, {row['shape_case']}"
    if row[metric] is None:
        return tip
    spread = row.get(f"{metric}_spread")
    return f"{tip}\n{metric} {row[metric]:.6g}" + (f" ± {spread:.2g}" if spread is not None else "")
