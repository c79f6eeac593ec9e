"""A picture: a figure that is drawn without a display, and its file, a .png, .pdf or .svg by its ending.

matplotlib is imported when the first one is drawn.
"""

import os

from llmc.system.atomic import atomic_write
from llmc.errors import ConfigError
from llmc.show.colours import GREY, INK, LINE

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
    return figure, unframed(figure.add_subplot(), lines)


def unframed(axes, lines):
    """Axes without a frame, crossed by light lines from the axis `lines`."""
    axes.grid(axis=lines, color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=GREY)
    for side in axes.spines.values():
        side.set_visible(False)
    return axes


def head(figure, title, handles=(), names=()):
    """A title and a legend above what a figure of layout "constrained" holds, which grows by their height.

    Parameters
    ----------
    title : str
    handles, names : sequences
        Of the legend; a single name needs none.
    """
    names = names if len(names) > 1 else ()
    width, height = figure.get_size_inches()
    columns = max(int(width / (0.45 + 0.075 * max(map(len, names), default=1))), 1)
    title_high, legend_high = 0.36 * bool(title), 0.24 * -(-len(names) // columns) + 0.06 * bool(names)
    whole = height + title_high + legend_high
    figure.set_size_inches(width, whole)
    figure.get_layout_engine().set(rect=(0, 0, 1, height / whole))
    if title:
        figure.text(0.12 / width, 1 - 0.12 / whole, title, ha="left", va="top", color=INK, fontsize=13,
                    fontweight="bold")  # fmt: skip
    if names:
        legend = figure.legend(handles, names, loc="upper left", bbox_to_anchor=(0.02 / width, 1 - title_high / whole),
                               frameon=False, ncols=min(columns, len(names)), labelcolor=INK, fontsize=9.5,
                               handlelength=1.5, columnspacing=1.5, borderaxespad=0.2)  # fmt: skip
        for handle in legend.legend_handles:
            if hasattr(handle, "set_sizes"):
                handle.set_sizes([30])  # points of a cloud may be small


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
