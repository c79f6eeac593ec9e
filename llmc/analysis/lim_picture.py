"""The picture of a report: layers by submodules as a heat map, what is amiss marked, the blocks as bars beside it."""

from llmc.analysis.lim_grid import BLOCK, MARKS, SIGNED, grid_of, scale
from llmc.show import picture
from llmc.show.colours import COOL, GREY, MARK, WARM
from llmc.show.grid import brief
from llmc.show.sheet import CELL, Sheet, middle

BAR, LABEL, GAP = 0.72, 0.34, 0.14  # the longest bar, its number, and what lies between two columns of bars
EDGE, FOOT = 0.35, 1.75
BETWEEN = 0.45  # two heat maps
OUTSIDE = 0.85  # from one module outside the blocks to the next


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
    sheet = _Report(grid, 1, [(each, _of_blocks(report.rows, each, grid.layers)) for each in beside])
    colours = scale(metric, [row[metric] for row in report.rows])
    left = sheet.map(0, grid, colours)
    sheet.bars(report.rank_correlation)
    sheet.legend(left, metric, colours)
    sheet.title(f"{metric}: layers × submodules", f"{report.title} · {report.text}")
    sheet.save(path)


def plot_comparison(before, after, rows, path, metric, names):
    """Draw two reports and their difference side by side.

    Parameters
    ----------
    before, after : Report
    rows : list of dict
        Of `before.compare(after)`.
    path, metric, names
        As there.
    """
    picture.ending(path)
    shared = {row["name"]: row["difference"] for row in rows}
    both = [[row for row in report.rows if row["name"] in shared] for report in (before, after)]
    apart = [row | {"difference": shared[row["name"]]} for row in both[0]]
    grids = [*(grid_of(rows, metric) for rows in both), grid_of(apart, "difference")]
    scales = [scale(metric, [row[metric] for rows in both for row in rows])] * 2
    scales.append(scale("difference", shared.values()))
    sheet = _Report(grids[0], 3, [])
    titles = (*names, f"{names[1]} − {names[0]}")
    for index, (grid, key, colours, title) in enumerate(zip(grids, (metric, metric, "difference"), scales, titles)):
        left = sheet.map(index, grid, colours, title)
        if index != 1:
            sheet.legend(left, key, colours, marks=index == 0)
    sheet.title(f"{metric}: {names[0]} and {names[1]}", " · ".join(dict.fromkeys((before.title, after.title))))
    sheet.save(path)


def _of_blocks(rows, metric, layers):
    """A metric of every block, by layer."""
    blocks = {row["layer"]: row[metric] for row in rows if row["kind"] == BLOCK}
    return [blocks.get(layer) for layer in layers]


class _Report(Sheet):
    """A sheet with heat maps side by side, columns of bars at their right, and a legend below."""

    def __init__(self, grid, maps, bars):
        self._map = len(grid.parts) * CELL[0]
        longest = max(len(name) for name in grid.parts)
        self._top = max(1.42, 0.86 + 0.04 * longest) + (0.2 if maps > 1 else 0)
        self._bottom = self._top + len(grid.layers) * CELL[1]
        self._first = EDGE + 0.45
        self._columns, left = [], self._first + maps * (self._map + BETWEEN)
        for metric, values in bars:
            self._columns.append(_Bars(metric, values, left))
            left = self._columns[-1].right + GAP
        super().__init__(max(left + EDGE - BETWEEN * (not bars), self._first + OUTSIDE * len(grid.outside), 6.6),
                         self._bottom + (FOOT if grid.outside else FOOT - 0.55))  # fmt: skip

    def title(self, headline, below):
        self.text(EDGE, 0.36, headline, size=14, weight="bold")
        self.text(EDGE, 0.64, below, size=9.5, color=GREY)

    def map(self, index, grid, colours, title=""):
        """Draw one heat map, and in a line below what stands outside the blocks; returns where it begins."""
        left = self._first + index * (self._map + BETWEEN)
        self.text(left, 0.98, title, size=11, weight="bold")
        self.heat_map(left, self._top, grid, colours, labels=index == 0)
        self.outside(left, self._bottom + 0.62, grid, colours, apart=OUTSIDE)
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

    def legend(self, left, metric, colours, marks=True):
        """The scale, and what the marks mean."""
        y, width = self.height - 0.56, 2.2
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
