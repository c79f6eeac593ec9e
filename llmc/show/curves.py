"""Curves: panels of lines side by side, each line with its name in a legend, its points, and a band about it."""

from dataclasses import dataclass, field

import numpy as np

from llmc.show import picture
from llmc.show.colours import GREY, INK, LINE, SERIES

PANEL = 4.9, 3.5  # inches


@dataclass(frozen=True)
class Series:
    """One line.

    Attributes
    ----------
    x, y : (n,) arrays
        Where y is NaN there is a gap.
    name : str
        In the legend, where one colour stands for one name; "" has none.
    spread : (n,) array or None
        Half the height of a band about it.
    beside : (n, m) array or None
        Single values, as light points about it.
    light : (x, y) or None
        What it is the course of, as a light line.
    colour : str
        "" is the colour of its place among the names.
    """

    x: np.ndarray
    y: np.ndarray
    name: str = ""
    spread: np.ndarray | None = None
    beside: np.ndarray | None = None
    light: tuple | None = None
    colour: str = ""


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes
    ----------
    title, x, y : str
        Above it and at its axes.
    series : list of Series
    whole : bool
        Whether x are whole numbers (layers), whose points are marked.
    bounds : (low, high) or None
        Of y.
    reference : ((x, x), (y, y), str) or None
        A thin dashed line to compare with, and what it is.
    logarithmic : bool
        Whether x is drawn as its logarithm.
    """

    title: str
    x: str
    y: str
    series: list = field(default_factory=list)
    whole: bool = True
    bounds: tuple | None = None
    reference: tuple | None = None
    logarithmic: bool = False


def draw(panels, path, title="", size=PANEL, across=3, known=()):
    """Draw panels side by side.

    Parameters
    ----------
    panels : list of Panel
    path : str
        A .png, .pdf or .svg, which appears whole.
    title : str
    size : (width, height)
        Of a panel, inches.
    across : int
        Panels in a row at most.
    known : sequence of str
        Names that have the colours of their places in it, whichever of them are drawn; others follow.

    Raises
    ------
    ConfigError
        For another ending.
    ImportError
        Without matplotlib.
    """
    picture.ending(path)
    names = list(dict.fromkeys(line.name for panel in panels for line in panel.series if line.name))
    palette = dict.fromkeys([*known, *names])
    colours = {name: SERIES[place % len(SERIES)] for place, name in enumerate(palette)} | {"": SERIES[0]}
    columns = min(across, len(panels))
    rows = -(-len(panels) // columns)
    figure = picture.blank(size[0] * columns, size[1] * rows, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.09, wspace=0.03)
    handles = {}
    for place, panel in enumerate(panels):
        axes = picture.unframed(figure.add_subplot(rows, columns, place + 1), "y")
        for line in panel.series:
            handles[line.name] = _line(axes, line, line.colour or colours[line.name], panel)
        _dress(axes, panel)
    picture.head(figure, title, [handles[name] for name in names], names)
    picture.save(figure, path)


def _line(axes, line, colour, panel):
    x, y = np.asarray(line.x, float), np.asarray(line.y, float)
    if line.light is not None:
        axes.plot(*line.light, color=colour, alpha=0.22, linewidth=0.7)
    if line.beside is not None:
        columns = np.asarray(line.beside, float)
        axes.plot(np.repeat(x, columns.shape[1]), columns.ravel(), linestyle="none", marker="o", markersize=3.2,
                  color=colour, alpha=0.35, markeredgewidth=0)  # fmt: skip
    if line.spread is not None:
        axes.fill_between(x, y - line.spread, y + line.spread, color=colour, alpha=min(0.13, 0.4 / len(panel.series)),
                          linewidth=0)  # fmt: skip
    marked = dict(marker="o", markersize=4.2, markeredgecolor="white", markeredgewidth=0.8) \
        if panel.whole and len(x) <= 40 else {}  # fmt: skip
    return axes.plot(x, y, color=colour, linewidth=1.9, solid_capstyle="round", **marked)[0]


def _dress(axes, panel):
    from matplotlib.ticker import MaxNLocator

    if panel.reference is not None:
        x, y, what = panel.reference
        axes.plot(x, y, color=GREY, linewidth=1, linestyle=(0, (3, 3)), zorder=1)
        middle = x[0] + 0.72 * (x[1] - x[0]), y[0] + 0.72 * (y[1] - y[0])
        axes.annotate(what, middle, xytext=(-7, 3), textcoords="offset points", ha="right", va="bottom", color=GREY,
                      fontsize=8.5)  # fmt: skip
    axes.set_title(panel.title, loc="left", color=INK, fontsize=11)
    axes.set_xlabel(panel.x, color=GREY, fontsize=9.5)
    axes.set_ylabel(panel.y, color=GREY, fontsize=9.5)
    axes.tick_params(labelsize=9)
    axes.spines["bottom"].set(visible=True, color=LINE)
    if panel.logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.minorticks_off()
    elif panel.whole:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=10, steps=[1, 2, 5, 10], integer=True))
    if panel.bounds is not None:
        axes.set_ylim(*panel.bounds)
