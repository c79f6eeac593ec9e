"""Matrices: small heat maps side by side under one scale, on which small and large sizes are told apart alike."""

import math

import numpy as np

from llmc.show import picture
from llmc.show.colours import GREY, INK, LINE, RISING

SIDE = 11.5  # inches across at most


def draw(maps, path, title, x, y, most=None, columns=None):
    """Draw heat maps in rows.

    Parameters
    ----------
    maps : {title: (n, m) array}
        Nothing is drawn where it is NaN.
    path : str
        A .png, .pdf or .svg, which appears whole.
    title, x, y : str
        Of the picture, and what the columns and lines of each map are.
    most : float, optional
        Where the scale ends; by default the largest value.
    columns : int, optional
        Maps in a row; by default as many as make a picture that is not too high.

    Raises
    ------
    ConfigError
        For another ending.
    ImportError
        Without matplotlib.
    """
    picture.ending(path)
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    columns = _columns(len(maps)) if columns is None else columns
    lines = -(-len(maps) // columns)
    tall = max(array.shape[0] / array.shape[1] for array in maps.values())
    width = SIDE / columns if columns > 2 else 5.2
    height = min(max(tall, 0.28), 1.1) * width + 0.42
    figure = picture.blank(columns * width + 0.9, lines * height + 0.4, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.07, h_pad=0.06, wspace=0.02, hspace=0.02)
    most = float(np.nanmax([np.nanmax(array) for array in maps.values()])) if most is None else most
    colours, every = LinearSegmentedColormap.from_list("rising", RISING), []
    for place, (name, array) in enumerate(maps.items()):
        axes = figure.add_subplot(lines, columns, place + 1)
        every.append(axes)
        image = axes.imshow(array, cmap=colours, norm=PowerNorm(0.5, 0, most), aspect="auto", interpolation="nearest")
        _dress(axes, name, array.shape, width, height - 0.42)
    picture.head(figure, title)
    figure.supxlabel(x, color=GREY, fontsize=9.5)
    figure.supylabel(y, color=GREY, fontsize=9.5)
    bar = figure.colorbar(image, ax=every, fraction=0.03, shrink=min(1.0, 3.2 / (lines * height)), aspect=24, pad=0.012)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8.5, labelcolor=GREY)
    picture.save(figure, path)


def _columns(count):
    """Maps in a row: as wide as high, or a little wider."""
    return min(count, max(1, math.ceil(math.sqrt(count * 1.6))))


def _dress(axes, name, shape, width, height):
    from matplotlib.ticker import MaxNLocator

    axes.set_title(name, loc="left", color=INK, fontsize=8.5, pad=3)
    axes.tick_params(length=0, labelsize=7, labelcolor=GREY, pad=2)
    for axis, number, inches in ((axes.xaxis, shape[1], width), (axes.yaxis, shape[0], height)):
        axis.set_major_locator(MaxNLocator(nbins=max(min(number, int(inches / 0.28)), 1), integer=True, min_n_ticks=1))
    for side in axes.spines.values():
        side.set(color=LINE, linewidth=0.8)
