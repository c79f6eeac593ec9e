"""The picture of a report: layers by submodules as a heat map, what is amiss marked, the blocks as bars beside it."""

from llmc.show.colours import COOL, GREY, INK, LINE, MARK, SIGNED, WARM, Colours
from llmc.show.grid import BLOCK, Grid, is_gone, shown, width_change
from llmc.checkpoint.atomic import atomic_write

CELL = 0.62, 0.27  # inches
BAR, LABEL, GAP = 0.72, 0.34, 0.14  # the longest bar, its number, and what lies between two columns of bars
EDGE, FOOT = 0.35, 1.75
BETWEEN = 0.45  # two heat maps
SLANT = 32  # degrees, of the names of the parts


def plot(report, path, metric):
    """Draw a report.

    Parameters
    ----------
    report : Report
    path : str
        The PNG, which appears whole. No display is needed.
    metric : str
        Of the heat map.

    Raises
    ------
    ImportError
        Without matplotlib.
    """
    grid = Grid(report.rows, metric)
    beside = report.metrics if len(report.metrics) > 1 else ()
    sheet = _Sheet(grid, 1, [(each, grid.of_blocks(each)) for each in beside])
    colours = Colours(metric, [row[metric] for row in report.rows])
    left = sheet.heat_map(0, grid, metric, colours, labels=True)
    sheet.bars(report.rank_correlation)
    sheet.outside(grid, metric, colours, left)
    sheet.legend(metric, colours, left)
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
    shared = {row["name"]: row["difference"] for row in rows}
    both = [[row for row in report.rows if row["name"] in shared] for report in (before, after)]
    apart = [row | {"difference": shared[row["name"]]} for row in both[0]]
    grids = [Grid(rows, metric) for rows in (*both, apart)]
    values = [row[metric] for rows in both for row in rows]
    scales = [Colours(metric, values)] * 2 + [Colours("difference", shared.values())]
    sheet = _Sheet(grids[0], 3, [])
    titles = (*names, f"{names[1]} − {names[0]}")
    for index, (grid, key, colours, title) in enumerate(zip(grids, (metric, metric, "difference"), scales, titles)):
        left = sheet.heat_map(index, grid, key, colours, labels=index == 0, title=title)
        sheet.outside(grid, key, colours, left)
        if index != 1:
            sheet.legend(key, colours, left, marks=index == 0)
    sheet.title(f"{metric}: {names[0]} and {names[1]}", " · ".join(dict.fromkeys((before.title, after.title))))
    sheet.save(path)


class _Sheet:
    """A figure laid out in inches from the top left, so that text keeps its size whatever is drawn."""

    def __init__(self, grid, maps, bars):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self._lines, self._map = len(grid.layers), len(grid.parts) * CELL[0]
        longest = max(len(name) for name in grid.parts)
        self._head = max(1.42, 0.86 + 0.04 * longest) + (0.2 if maps > 1 else 0)
        self._first = EDGE + 0.45
        self._columns, left = [], self._first + maps * (self._map + BETWEEN)
        for metric, values in bars:
            self._columns.append(_Bars(metric, values, left))
            left = self._columns[-1].right + GAP
        self.width = max(left + EDGE - BETWEEN * (not bars), self._first + 0.85 * len(grid.outside), 6.6)
        self.height = self._head + self._lines * CELL[1] + (FOOT if grid.outside else FOOT - 0.55)
        self._figure = Figure(figsize=(self.width, self.height), dpi=160, facecolor="white")
        FigureCanvasAgg(self._figure)
        self._axes = self._figure.add_axes((0, 0, 1, 1))
        self._axes.set_xlim(0, self.width)
        self._axes.set_ylim(self.height, 0)
        self._axes.axis("off")

    def title(self, headline, below):
        self._text(EDGE, 0.36, headline, size=14, weight="bold")
        self._text(EDGE, 0.64, below, size=9.5, color=GREY)

    def heat_map(self, index, grid, metric, colours, labels, title=None):
        """Draw one map; returns where it begins."""
        left = self._first + index * (self._map + BETWEEN)
        if title:
            self._text(left, 0.98, title, size=11, weight="bold")
        for column, name in enumerate(grid.parts):
            x = left + column * CELL[0]
            self._text(x + CELL[0] * 0.45, self._head - 0.07, name, size=7.5, rotation=SLANT, va="bottom",
                       weight="bold" if name == BLOCK else "normal")  # fmt: skip
            change = grid.width_change(name)
            if change:
                y = self._head + self._lines * CELL[1] + 0.11
                self._text(x + CELL[0] / 2, y, change, size=5.6, ha="center", color=MARK)
            for line, layer in enumerate(grid.layers):
                if (layer, name) in grid.cells:
                    self._cell(x, self._head + line * CELL[1], grid.cells[layer, name], metric, colours)
        for line, layer in enumerate(grid.layers if labels else ()):
            self._text(left - 0.1, self._middle(line), str(layer), size=8, ha="right", va="center_baseline")
        if labels:
            self._text(left - 0.1, self._head - 0.08, "layer", size=7.5, ha="right", color=GREY)
        return left

    def bars(self, correlations):
        """What each metric says of every block, as bars in the lines of the heat map."""
        for column in self._columns:
            left, bottom = column.left, self._head + self._lines * CELL[1]
            name = column.metric.replace("_", "\n")
            self._text(left, self._head - 0.24, name, size=7.5, va="bottom", linespacing=1.15)
            self._text(left, self._head - 0.09, "of the blocks", size=6, color=GREY)
            for line, value in enumerate(column.values):
                if value is None:
                    self._text(column.zero + 0.04, self._middle(line), "×", size=9, color=MARK, va="center_baseline")
                    continue
                length, side = column.length(value), 0.04 if value >= 0 else -0.04
                colour = WARM if column.metric in SIGNED and value > 0 else COOL
                self._rectangle(column.zero, self._middle(line) - 0.075, length, 0.15, colour)
                self._text(column.zero + length + side, self._middle(line), shown(value), size=6.2, color=GREY,
                           ha="left" if value >= 0 else "right", va="center_baseline")  # fmt: skip
            self._axes.plot([column.zero] * 2, [self._head, bottom], color=GREY, linewidth=0.7)
            correlation = correlations.get(column.metric, {}).get("blocks")
            if correlation is not None:
                self._text(left, bottom + 0.17, f"ρ {correlation:+.2f}".replace("-", "−"), size=8, weight="bold")
                self._text(left, bottom + 0.31, "with ablation", size=6, color=GREY)

    def outside(self, grid, metric, colours, left):
        """The modules that stand outside the blocks, in a line below."""
        y = self._head + self._lines * CELL[1] + 0.62
        for index, row in enumerate(grid.outside):
            x = left + index * 0.85
            self._cell(x, y, row, metric, colours)
            self._text(x, y - 0.06, row["name"].rpartition(".")[2], size=6.6)
            change = width_change(row)
            if change:
                self._text(x, y + CELL[1] + 0.11, change, size=5.6, color=MARK)

    def legend(self, metric, colours, left, marks=True):
        """The scale, and what the marks mean."""
        y, width, pieces = self.height - 0.56, 2.2, 120
        for piece in range(pieces):
            share = (piece + 0.5) / pieces
            self._rectangle(left + width * piece / pieces, y, width / pieces * 1.2, 0.13, colours.at(share))
        for value, place in colours.ticks():
            self._text(left + width * place, y + 0.26, shown(value), size=6.4, ha="center", color=GREY)
        self._text(left, y - 0.06, metric, size=6.6, color=GREY)
        if not marks:
            return
        x = left + width + 0.35
        for draw, words in ((self._corner, "widths differ"), (self._hatch, "skipped"), (self._gone, "no value")):
            self._rectangle(x, y - 0.05, 0.3, 0.22, "#ffffff", LINE)
            draw(x, y - 0.05, 0.3, 0.22)
            self._text(x + 0.37, y + 0.06, words, size=6.8, va="center_baseline", color=INK)
            x += 0.62 + 0.055 * len(words)

    def save(self, path):
        with atomic_write(path) as file:
            self._figure.savefig(file, format="png")

    # --- pieces ------------------------------------------------------------------------------------------------------
    def _cell(self, x, y, row, metric, colours):
        value, (width, height) = row[metric], CELL
        inner = x + 0.012, y + 0.012, width - 0.024, height - 0.024
        if value is not None:
            self._rectangle(*inner, colours.colour(value))
            self._text(x + width / 2, y + height / 2, shown(value), size=6.8, ha="center", va="center_baseline",
                       color=colours.ink(value))  # fmt: skip
        elif is_gone(row, metric):
            self._gone(*inner)
        elif row["shape_case"] == "skipped":
            self._rectangle(*inner, "#ffffff", LINE)
            self._hatch(*inner)
        if width_change(row) and metric != "difference" and (value is not None or is_gone(row, metric)):
            self._corner(*inner)

    def _corner(self, x, y, width, height):
        size = 0.09
        self._axes.fill([x + width - size, x + width, x + width], [y, y, y + size], color=MARK, linewidth=0)

    def _hatch(self, x, y, width, height):
        from matplotlib.patches import Rectangle

        self._axes.add_patch(Rectangle((x, y), width, height, facecolor="none", edgecolor="#c3c8d0", hatch="//////",
                                       linewidth=0))  # fmt: skip

    def _gone(self, x, y, width, height):
        self._rectangle(x, y, width, height, "#fdeae3", MARK)
        self._text(x + width / 2, y + height / 2, "×", size=10, ha="center", va="center_baseline", color=MARK,
                   weight="bold")  # fmt: skip

    def _rectangle(self, x, y, width, height, face, edge="none"):
        from matplotlib.patches import Rectangle

        self._axes.add_patch(Rectangle((x, y), width, height, facecolor=face, edgecolor=edge, linewidth=0.9))

    def _text(self, x, y, text, size, color=INK, **more):
        self._axes.text(x, y, text, fontsize=size, color=color, **more)

    def _middle(self, line):
        return self._head + (line + 0.5) * CELL[1]


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
