"""Grid: what a heat map shows, on a page and in a picture: layers by parts, and what stands outside the layers."""

from dataclasses import dataclass

GONE, SKIPPED, CORNER = "gone", "skipped", "corner"  # the marks: "×", hatched, and a corner beside a value


@dataclass(frozen=True)
class Cell:
    """One cell of a heat map.

    Attributes
    ----------
    name : str
        The whole path of what it stands for.
    value : float or None
        Coloured and written; where there is none, `mark` says why.
    mark : str
        `GONE` where a value should be and is not, `SKIPPED` where none is looked for, or "".
    corner : bool
        Whether it is marked at its corner.
    foot : str
        What is written below it.
    tip : str
        All that there is to say of it.
    """

    name: str
    value: float | None
    mark: str = ""
    corner: bool = False
    foot: str = ""
    tip: str = ""


@dataclass(frozen=True)
class Grid:
    """Layers by parts.

    Attributes
    ----------
    parts : list of str
        The columns, in their order.
    cells : dict
        {(layer, part): Cell}.
    outside : list of Cell
        What has no layer.
    bold : str
        The part that stands out, such as the whole layer; "" where none does.
    """

    parts: list
    cells: dict
    outside: list
    bold: str = ""

    @property
    def layers(self):
        """The lines, rising."""
        return sorted({layer for layer, _ in self.cells})

    def cell(self, layer, part):
        """A cell; None where there is none."""
        return self.cells.get((layer, part))

    def foot(self, part):
        """What is written below a column: below its first cell."""
        return next((self.cells[layer, part].foot for layer in self.layers if (layer, part) in self.cells), "")


def brief(value):
    """A value in at most five characters or so, as a cell has room for; "" for None."""
    if value is None:
        return ""
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 9999.5 or size < 0.00095:
        mantissa, exponent = f"{value:.0e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    text = f"{value:.0f}" if size >= 99.5 else f"{value:.1f}" if size >= 9.95 else f"{value:.2f}"
    return text if size >= 0.095 else f"{value:.3f}"
