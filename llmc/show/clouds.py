"""Clouds: points of several classes in the plane, panels in rows by columns, a colour for each class."""

from llmc.show import picture
from llmc.show.colours import GREY, INK, LINE, SERIES

CELL = 2.35  # inches, a panel


def draw(rows, labels, path, title, columns):
    """Draw clouds of points.

    Parameters
    ----------
    rows : {what stands at the left of a row: list of ((n, 2) points, (n,) classes)}
    labels : {class: its name in the legend}
    path : str
        A .png, .pdf or .svg, which appears whole.
    title : str
    columns : list of str
        Above the panels, of which each row has as many or fewer.

    Raises
    ------
    ConfigError
        For another ending.
    ImportError
        Without matplotlib.
    """
    picture.ending(path)
    figure = picture.blank(len(columns) * CELL + 0.35, len(rows) * CELL + 0.3, layout="constrained")
    colours = {each: SERIES[place % len(SERIES)] for place, each in enumerate(labels)}
    handles = {}
    for line, (name, panels) in enumerate(rows.items()):
        for column, (points, classes) in enumerate(panels):
            axes = figure.add_subplot(len(rows), len(columns), line * len(columns) + column + 1)
            for each, colour in colours.items():
                of = points[classes == each]
                handles[each] = axes.scatter(of[:, 0], of[:, 1], s=max(4.0, min(16.0, 3000 / len(points))), c=colour,
                                             alpha=0.75, linewidths=0)  # fmt: skip
            _dress(axes, columns[column] if line == 0 else "", name if column == 0 else "")
    picture.head(figure, title, list(handles.values()), [labels[each] for each in handles])
    picture.save(figure, path)


def _dress(axes, title, name):
    """Axes without numbers, which have no meaning here."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.margins(0.06)
    axes.set_box_aspect(1)
    axes.set_title(title, loc="left", color=INK, fontsize=9.5)
    axes.set_ylabel(name, color=GREY, fontsize=9.5)
    for side in axes.spines.values():
        side.set(color=LINE)
