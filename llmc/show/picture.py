"""A picture: a figure that is drawn without a display, and its file, a .png, .pdf or .svg by its ending.

matplotlib is imported when the first one is drawn.
"""

import os

from llmc.system.atomic import atomic_write
from llmc.errors import ConfigError
from llmc.show.colours import GREY, LINE

ENDINGS = (".png", ".pdf", ".svg")
DPI = 160
_UNDATED = {".png": {}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}  # the same picture has the same bytes


def blank(width, height, layout=None):
    """A white figure, sizes in inches.

    Raises
    ------
    ImportError
        Without matplotlib.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    return figure


def chart(width, height, lines):
    """A figure with one pair of axes, without a frame; light lines cross it from the axis `lines`, "x" or "y".

    Returns
    -------
    (figure, axes)
    """
    figure = blank(width, height, layout="constrained")
    axes = figure.add_subplot()
    axes.grid(axis=lines, color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=GREY)
    for side in axes.spines.values():
        side.set_visible(False)
    return figure, axes


def ending(path):
    """The ending of a picture's path.

    Raises
    ------
    ConfigError
        When it is none that a picture has.
    """
    found = os.path.splitext(os.fspath(path))[1].lower()
    if found not in ENDINGS:
        raise ConfigError(f"{os.fspath(path)}: a picture is drawn as {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}")
    return found


def save(figure, path):
    """Write a figure; the file appears whole, or not at all where `ending` or the disk refuses it."""
    from matplotlib import rc_context

    kind = ending(path)
    with atomic_write(path) as file, rc_context({"svg.hashsalt": "llmc"}):
        figure.savefig(file, format=kind[1:], metadata=_UNDATED[kind])
