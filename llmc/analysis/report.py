"""Report: what an analysis found, as rows, tables, files and pictures."""

import csv
import io

from llmc.calls import public
from llmc.analysis import lim_page, lim_picture
from llmc.analysis.lim_grid import grid_of
from llmc.analysis.ranks import rank_correlation
from llmc.analysis.shapes import is_shape_line
from llmc.analysis.sinks import sentences
from llmc.analysis.titles import tokens_of
from llmc.errors import ConfigError, UnknownNameError, nearest
from llmc.show import exports
from llmc.show.grid import brief
from llmc.show.table import Table

ABLATION = "ablation"


@public
class Report:
    """The metrics of every module of a model on a text. It prints itself: layers by submodules.

    Attributes
    ----------
    rows : list of dict
        One for each hook point: `name, kind, layer, shape_case, input_shape, output_shape` and a column for every
        metric; over several batches also `<metric>_spread`. A value that does not exist is None.
    mismatches : list of str
        A line for every module whose input and output differ in shape, and for every value that does not exist.
    metrics : tuple of str
    tokens, batches : int
        How much text it rests on.
    source : str or None
        What the text is called, if somebody said so: the command line does.
    skip_first : int
        Tokens at the beginning of each row that were left out.
    sinks : list of dict
        `name, layer, position, share` of every module of whose input one position holds more than half of the squared
        norm; `notes` says it in lines.
    notes : list of str
    rank_correlation : dict
        {metric: {"blocks": float or None, "branches": float or None}}: Spearman's correlation with the ablation, over
        the blocks and over their branches; empty without an ablation.
    """

    def __init__(self, title, metrics, projections, measurement, skip_first=0):
        self.title, self.metrics, self.projections = title, metrics, projections
        self.source = None
        self.rows, self.mismatches = measurement.rows, measurement.mismatches
        self.tokens, self.batches, self.skip_first = measurement.tokens, measurement.batches, skip_first
        self.sinks = measurement.sinks
        self.notes = sentences(self.sinks, {module.name: (module.kind, module.part) for module in measurement.modules})
        self.rank_correlation = self._rank_correlation()

    def _rank_correlation(self):
        if ABLATION not in self.metrics:
            return {}
        blocks = [row for row in self.rows if row["kind"] == "block"]
        branches = [row for row in self.rows if row["kind"] in ("attention", "feed-forward")]
        return {
            metric: {
                of: rank_correlation([row[metric] for row in rows], [row[ABLATION] for row in rows])
                for of, rows in (("blocks", blocks), ("branches", branches))
            }
            for metric in self.metrics
            if metric != ABLATION
        }

    @property
    def text(self):
        """On what it rests: "1,024 tokens of notes.txt in 2 batches"."""
        batches = "" if self.batches == 1 else f" in {self.batches:,} batches"
        first = "first" if self.skip_first == 1 else f"first {self.skip_first:,}"
        without = f", without the {first} of each row" if self.skip_first else ""
        return f"{tokens_of(self.tokens, self.source)}{batches}{without}"

    # --- elsewhere ---------------------------------------------------------------------------------------------------
    def to_dataframe(self):
        """The rows as a pandas DataFrame.

        Raises
        ------
        ImportError
            Without pandas.
        """
        return exports.dataframe(self.rows, "report")

    def save(self, path):
        """Write the rows as .csv, everything as .json, or a page to read as .html; the file appears whole.

        Raises
        ------
        ConfigError
            For another ending.
        OSError
            When the place cannot be written to.
        """
        exports.save(path, "a report", self.to_dict, self._csv, lambda: lim_page.whole(self))

    def to_dict(self):
        """Everything, as JSON holds it."""
        return {
            "title": self.title, "source": self.source, "tokens": self.tokens, "batches": self.batches,
            "metrics": list(self.metrics),
            "projections": self.projections, "rank_correlation": self.rank_correlation, "rows": self.rows,
            "mismatches": self.mismatches, "skip_first": self.skip_first, "sinks": self.sinks, "notes": self.notes,
        }  # fmt: skip

    def _csv(self):
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.rows[0])
        for row in self.rows:
            writer.writerow(list(value) if isinstance(value, tuple) else value for value in row.values())
        return text.getvalue()

    # --- pictures ----------------------------------------------------------------------------------------------------
    def plot(self, path, metric=None):
        """Draw layers by submodules; beside them what the other metrics say of the blocks.

        Parameters
        ----------
        path : str
            A .png, .pdf or .svg, which appears whole.
        metric : str, optional
            By default the first.

        Raises
        ------
        UnknownNameError
            For a metric that was not measured.
        ConfigError
            For another ending.
        ImportError
            Without matplotlib.
        """
        lim_picture.plot(self, path, self._metric(metric))

    def compare(self, other, path=None, metric=None, names=("before", "after")):
        """This report beside another: two models, or one before and after a training.

        Parameters
        ----------
        other : Report
        path : str, optional
            Where to draw both and their difference, in one .png, .pdf or .svg.
        metric : str, optional
            By default the first.
        names : (str, str)
            What to call the two.

        Returns
        -------
        list of dict
            `name, kind, layer`, the two values, `difference` (other - this) and `relative_change` (that over the
            absolute value of this) of every module that both have; None where a value does not exist.

        Raises
        ------
        UnknownNameError
            For a metric that one of them did not measure.
        ConfigError
            When they have no module in common, or for another ending.
        """
        if not isinstance(other, Report):
            raise TypeError(f"a report is compared with a report, not with {type(other).__name__}")
        if not isinstance(names, (list, tuple)) or len(set(names)) != 2 or not all(isinstance(n, str) for n in names):
            raise ConfigError(f"names are two different words for the two reports, not {names!r}")
        metric = self._metric(metric)
        other._metric(metric)
        theirs = {row["name"]: row for row in other.rows}
        rows = [_pair(row, theirs[row["name"]], metric, names) for row in self.rows if row["name"] in theirs]
        if not any(row["layer"] is not None for row in rows):
            raise ConfigError(f"no block of {self.title} has the name of one of {other.title}")
        if path is not None:
            lim_picture.plot_comparison(self, other, rows, path, metric, names)
        return rows

    def _metric(self, metric):
        metric = self.metrics[0] if metric is None else metric
        if metric not in self.metrics:
            near = nearest(str(metric), self.metrics) or f"measured: {', '.join(self.metrics)}"
            raise UnknownNameError(f"{metric!r} was not measured; {near}")
        return metric

    # --- in a terminal, in a notebook --------------------------------------------------------------------------------
    def __str__(self):
        first = self.metrics[0]
        pieces = ["\n".join([f"{self.title}; {self.text}", *self.notes]),
                  f"{first}, layers by submodules\n{self._map(first)}"]
        if len(self.metrics) > 1:
            pieces.append(f"the blocks\n{self._blocks()}")
        if self.rank_correlation:
            rows = [{"metric": metric} | {of: _sign(value) for of, value in found.items()}
                    for metric, found in self.rank_correlation.items()]  # fmt: skip
            pieces.append(f"rank correlation with the ablation\n{Table(['metric', 'blocks', 'branches'], rows)}")
        if self.mismatches:
            shapes = sum(is_shape_line(line) for line in self.mismatches)
            pieces.append(f"{shapes} modules whose shapes differ (report.mismatches)")
            pieces[-1] += "".join(f"\n{line}" for line in self.mismatches if not is_shape_line(line))
        return "\n\n".join(pieces)

    __repr__ = __str__

    def _repr_html_(self):
        return lim_page.in_notebook(self)

    def _map(self, metric):
        grid = grid_of(self.rows, metric)
        rows = [
            {"layer": layer} | {part: cell.value for part in grid.parts if (cell := grid.cell(layer, part))}
            for layer in grid.layers
        ]
        outside = [f"{cell.name} {brief(cell.value)}" for cell in grid.outside if cell.value is not None]
        return Table(["layer", *grid.parts], rows, "outside: " + ", ".join(outside) if outside else "")

    def _blocks(self):
        blocks = [row for row in self.rows if row["kind"] == "block"]
        return Table(["layer", *self.metrics], blocks)


def _sign(value):
    return "none" if value is None else f"{value:+.2f}"


def _pair(row, other, metric, names):
    before, after = row[metric], other[metric]
    difference = None if before is None or after is None else after - before
    relative = None if difference is None or before == 0 and difference else difference / abs(before or 1.0)
    return {"name": row["name"], "kind": row["kind"], "layer": row["layer"], names[0]: before, names[1]: after,
            "difference": difference, "relative_change": relative}  # fmt: skip


def most_changed(rows, names, count=10):
    """A table of the modules of a comparison whose value changed most, relative to what it was."""
    there = [row for row in rows if row["relative_change"] is not None]
    there.sort(key=lambda row: -abs(row["relative_change"]))
    shown = [row | {"relative_change": f"{row['relative_change']:+.2%}"} for row in there[:count]]
    return Table(["name", *names, "difference", "relative_change"], shown)
