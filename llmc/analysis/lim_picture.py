"""The picture of a report: layers by submodules as a heat map, what is amiss marked, the blocks as bars beside it."""

from llmc.analysis.lim_grid import BLOCK, CHANGE, MARKS, SIGNED, grid_of, scale
from llmc.show import picture
from llmc.show.colours import COOL, GREY, MARK, WARM
from llmc.show.grid import brief
from llmc.show.sheet import CELL, Sheet, middle

BAR, LABEL, GAP = 0.72, 0.34, 0.14  # the longest bar, its number, and what lies between two columns of bars
EDGE, FOOT = 0.35, 1.75
BETWEEN = 0.45  # two heat maps
OUTSIDE = 0.85  # from one module outside the blocks to the next
WIDEST = 11.0  # inches that are read at the width of a page; heat maps that take more stand one below the other
NOTE = 0.17  # a line below the title
NOTES_MOST = 3


def plot(report, path, metric):
    """Draw a report.

    Parameters
    ----------
    report : Report
    path : str
        The picture, which appears whole. No display is needed.
    metric : str
        Of the heat map.

    Raises
    ------
    ConfigError
        For an ending that no picture has.
    ImportError
        Without matplotlib.
    """
    picture.ending(path)
    grid = grid_of(report.rows, metric)
    beside = report.metrics if len(report.metrics) > 1 else ()
    notes = report.notes[:NOTES_MOST]
    sheet = _Report(grid, 1, [(each, _of_blocks(report.rows, each, grid.layers)) for each in beside], notes)
    colours = scale(metric, [row[metric] for row in report.rows])
    left = sheet.map(0, grid, colours)
    sheet.bars(report.rank_correlation)
    sheet.legend(left, metric, colours)
    sheet.title(f"{metric}: layers × submodules", f"{report.title} · {report.text}")
    sheet.save(path)


def plot_comparison(before, after, rows, path, metric, names):
    """Draw two reports and the relative change from one to the other, side by side where that can be read.

    Parameters
    ----------
    before, after : Report
    rows : list of dict
        Of `before.compare(after)`.
    path, metric, names
        As there.
    """
    picture.ending(path)
    shared = {row["name"]: row[CHANGE] for row in rows}
    both = [[row for row in report.rows if row["name"] in shared] for report in (before, after)]
    apart = [row | {CHANGE: shared[row["name"]]} for row in both[0]]
    grids = [*(grid_of(rows, metric) for rows in both), grid_of(apart, CHANGE)]
    scales = [scale(metric, [row[metric] for rows in both for row in rows])] * 2
    scales.append(scale(CHANGE, shared.values()))
    sheet = _Report(grids[0], 3, [], list(dict.fromkeys(before.notes + after.notes))[:NOTES_MOST])
    titles = (*names, f"({names[1]} − {names[0]}) ÷ |{names[0]}|")
    for index, (grid, key, colours, title) in enumerate(zip(grids, (metric, metric, CHANGE), scales, titles)):
        left = sheet.map(index, grid, colours, title)
        if index != 1 or not sheet.is_wide:
            sheet.legend(left, key, colours, marks=index == 0, index=index)
    below = dict.fromkeys((before.title, after.title, before.text, after.text))
    sheet.title(f"{metric}: {names[0]} and {names[1]}", " · ".join(below))
    sheet.save(path)


def _of_blocks(rows, metric, layers):
    """A metric of every block, by layer."""
    blocks = {row["layer"]: row[metric] for row in rows if row["kind"] == BLOCK}
    return [blocks.get(layer) for layer in layers]


class _Report(Sheet):
    """A sheet with heat maps side by side, columns of bars at their right, and a legend below."""

    def __init__(self, grid, maps, bars, notes=()):
        self._map = len(grid.parts) * CELL[0]
        longest = max(len(name) for name in grid.parts)
        self._notes = notes
        self._top = max(1.42, 0.86 + 0.04 * longest) + (0.2 if maps > 1 else 0) + NOTE * len(notes)
        self._bottom = self._top + len(grid.layers) * CELL[1]
        self._first = EDGE + 0.45
        self.is_wide = self._first + maps * (self._map + BETWEEN) <= WIDEST
        self._below = self._bottom + (FOOT if grid.outside else FOOT - 0.55)  # where a heat map with its foot ends
        self._each = self._below - 0.62 - NOTE * len(notes)  # from a heat map to the one below it
        self._columns, left = [], self._first + (maps if self.is_wide else 1) * (self._map + BETWEEN)
        for metric, values in bars:
            self._columns.append(_Bars(metric, values, left))
            left = self._columns[-1].right + GAP
        super().__init__(max(left + EDGE - BETWEEN * (not bars), self._first + OUTSIDE * len(grid.outside), 6.6),
                         self._below + (0 if self.is_wide else (maps - 1) * self._each))  # fmt: skip

    def title(self, headline, below):
        self.text(EDGE, 0.36, headline, size=14, weight="bold")
        self.text(EDGE, 0.64, below, size=9.5, color=GREY)
        for line, note in enumerate(self._notes):
            self.text(EDGE, 0.84 + NOTE * line, note, size=8.5, color=MARK)

    def _place(self, index):
        """(left, top) of heat map `index`."""
        if self.is_wide:
            return self._first + index * (self._map + BETWEEN), self._top
        return self._first, self._top + index * self._each

    def map(self, index, grid, colours, title=""):
        """Draw one heat map, and in a line below what stands outside the blocks; returns where it begins."""
        left, top = self._place(index)
        self.text(left, top - self._top + 0.98 + NOTE * len(self._notes), title, size=11, weight="bold")
        self.heat_map(left, top, grid, colours, labels=index == 0 or not self.is_wide)
        self.outside(left, top + self._bottom - self._top + 0.62, grid, colours, apart=OUTSIDE)
        return left

    def bars(self, correlations):
        """What each metric says of every block, as bars in the lines of the heat map."""
        for column in self._columns:
            name = column.metric.replace("_", "\n")
            self.text(column.left, self._top - 0.24, name, size=7.5, va="bottom", linespacing=1.15)
            self.text(column.left, self._top - 0.09, "of the blocks", size=6, color=GREY)
            for line, value in enumerate(column.values):
                self._bar(column, middle(self._top, line), value)
            self.upright(column.zero, self._top, self._bottom)
            correlation = correlations.get(column.metric, {}).get("blocks")
            if correlation is not None:
                rho = f"ρ {correlation:+.2f}".replace("-", "−")
                self.text(column.left, self._bottom + 0.17, rho, size=8, weight="bold")
                self.text(column.left, self._bottom + 0.31, "with ablation", size=6, color=GREY)

    def _bar(self, column, y, value):
        if value is None:
            self.text(column.zero + 0.04, y, "×", size=9, color=MARK, va="center_baseline")
            return
        length, side, align = column.length(value), *((0.04, "left") if value >= 0 else (-0.04, "right"))
        colour = WARM if column.metric in SIGNED and value > 0 else COOL
        self.rectangle(column.zero, y - 0.075, length, 0.15, colour)
        self.text(column.zero + length + side, y, brief(value), size=6.2, color=GREY, ha=align, va="center_baseline")

    def legend(self, left, metric, colours, marks=True, index=0):
        """The scale of a heat map, and what the marks mean."""
        y, width = self._below - 0.56 + self._place(index)[1] - self._top, 2.2
        self.scale(left, y, colours, metric, width)
        if marks:
            self.key(left + width + 0.35, y, MARKS)


class _Bars:
    """A column of bars: where its zero is, and how long a value is, with room for the numbers at either side."""

    def __init__(self, metric, values, left):
        there = [value for value in values if value is not None]
        low, high = min(0.0, *there, 0.0), max(0.0, *there, 0.0)
        self.metric, self.values, self.left = metric, values, left
        self._scale = BAR / (high - low) if high > low else 0.0
        self.zero = left + (LABEL if low < 0 else 0.0) - low * self._scale
        self.right = self.zero + high * self._scale + (LABEL if high > 0 else 0.0)
        self.right = max(self.right, left + 0.8)

    def length(self, value):
        return value * self._scale
