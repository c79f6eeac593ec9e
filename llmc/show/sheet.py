"""Sheet: a picture laid out in inches from the top left, so that text keeps its size whatever is drawn."""

from llmc.show import picture
from llmc.show.colours import GREY, INK, LINE, MARK, PALE
from llmc.show.grid import CORNER, GONE, SKIPPED, brief

CELL = 0.62, 0.27  # inches, of a heat map
SLANT = 32  # degrees, of the names of its parts


class Sheet:
    """A picture that is drawn bit by bit.

    Parameters
    ----------
    width, height : float
        Inches.

    Raises
    ------
    ImportError
        Without matplotlib.
    """

    def __init__(self, width, height):
        self.width, self.height = width, height
        self._figure = picture.blank(width, height)
        self._axes = self._figure.add_axes((0, 0, 1, 1))
        self._axes.set_xlim(0, width)
        self._axes.set_ylim(height, 0)
        self._axes.axis("off")

    def save(self, path):
        """Write it, as `picture.save` does."""
        picture.save(self._figure, path)

    # --- strokes -----------------------------------------------------------------------------------------------------
    def text(self, x, y, text, size, color=INK, **more):
        """A line of text; `more` as matplotlib has it."""
        self._axes.text(x, y, text, fontsize=size, color=color, **more)

    def upright(self, x, top, bottom):
        """An upright line."""
        self._axes.plot([x, x], [top, bottom], color=GREY, linewidth=0.7)

    def rectangle(self, x, y, width, height, face, edge="none"):
        """A rectangle; `width` may go to the left."""
        from matplotlib.patches import Rectangle

        self._axes.add_patch(Rectangle((x, y), width, height, facecolor=face, edgecolor=edge, linewidth=0.9))

    # --- heat maps ---------------------------------------------------------------------------------------------------
    def heat_map(self, left, top, grid, colours, labels=True):
        """Draw layers by parts, the names of the parts above `top`, what changes in them below.

        Parameters
        ----------
        left, top : float
            Of its first cell.
        grid : Grid
        colours : Colours
        labels : bool
            Whether the layers are numbered, at the left.
        """
        for column, name in enumerate(grid.parts):
            x = left + column * CELL[0]
            self.text(x + CELL[0] * 0.45, top - 0.07, name, size=7.5, rotation=SLANT, va="bottom",
                      weight="bold" if name == grid.bold else "normal")  # fmt: skip
            foot = top + len(grid.layers) * CELL[1] + 0.11
            self.text(x + CELL[0] / 2, foot, grid.foot(name), size=5.6, ha="center", color=MARK)
            for line, layer in enumerate(grid.layers):
                self.cell(x, top + line * CELL[1], grid.cell(layer, name), colours)
        if labels:
            for line, layer in enumerate(grid.layers):
                self.text(left - 0.1, middle(top, line), str(layer), size=8, ha="right", va="center_baseline")
            self.text(left - 0.1, top - 0.08, "layer", size=7.5, ha="right", color=GREY)

    def outside(self, left, top, grid, colours, apart=0.85):
        """Draw what has no layer in a row, `apart` from each other, the names above `top`."""
        for index, cell in enumerate(grid.outside):
            x = left + index * apart
            self.cell(x, top, cell, colours)
            self.text(x, top - 0.06, cell.name.rpartition(".")[2], size=6.6)
            self.text(x, top + CELL[1] + 0.11, cell.foot, size=5.6, color=MARK)

    def cell(self, x, y, cell, colours):
        """Draw a cell; nothing for None."""
        if cell is None:
            return
        width, height = CELL
        inner = x + 0.012, y + 0.012, width - 0.024, height - 0.024
        if cell.value is not None:
            self.rectangle(*inner, colours.colour(cell.value))
            self.text(x + width / 2, y + height / 2, brief(cell.value), size=6.8, ha="center", va="center_baseline",
                      color=colours.ink(cell.value))  # fmt: skip
        for mark in (cell.mark, CORNER if cell.corner else ""):
            if mark:
                self.mark(mark, *inner)

    def scale(self, left, y, colours, words, width=2.2):
        """Draw the colours with some of their values, under `words`."""
        pieces = 120
        for piece in range(pieces):
            share = (piece + 0.5) / pieces
            self.rectangle(left + width * piece / pieces, y, width / pieces * 1.2, 0.13, colours.at(share))
        for value, place in colours.ticks():
            self.text(left + width * place, y + 0.26, brief(value), size=6.4, ha="center", color=GREY)
        self.text(left, y - 0.06, words, size=6.6, color=GREY)

    def key(self, left, y, marks):
        """Say what {mark: meaning} mean."""
        for mark, meaning in marks.items():
            self.rectangle(left, y - 0.05, 0.3, 0.22, "#ffffff", LINE)
            self.mark(mark, left, y - 0.05, 0.3, 0.22)
            self.text(left + 0.37, y + 0.06, meaning, size=6.8, va="center_baseline")
            left += 0.62 + 0.055 * len(meaning)

    def mark(self, mark, x, y, width, height):
        """Draw a mark of `grid` into a rectangle."""
        {GONE: self._gone, SKIPPED: self._skipped, CORNER: self._corner}[mark](x, y, width, height)

    def _corner(self, x, y, width, height):
        size = 0.09
        self._axes.fill([x + width - size, x + width, x + width], [y, y, y + size], color=MARK, linewidth=0)

    def _skipped(self, x, y, width, height):
        from matplotlib.patches import Rectangle

        self.rectangle(x, y, width, height, "#ffffff", LINE)
        self._axes.add_patch(Rectangle((x, y), width, height, facecolor="none", edgecolor="#c3c8d0", hatch="//////",
                                       linewidth=0))  # fmt: skip

    def _gone(self, x, y, width, height):
        self.rectangle(x, y, width, height, PALE, MARK)
        self.text(x + width / 2, y + height / 2, "×", size=10, ha="center", va="center_baseline", color=MARK,
                  weight="bold")  # fmt: skip


def middle(top, line):
    """The middle of a line of a heat map whose first begins at `top`."""
    return top + (line + 0.5) * CELL[1]
