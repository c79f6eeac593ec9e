"""A heat map on a page: layers by parts, what stands outside the layers, and what colours and marks mean."""

from html import escape

from llmc.show.colours import LINE
from llmc.show.grid import CORNER, GONE, brief


def heat_map(grid, colours, marks):
    """A grid as HTML.

    Parameters
    ----------
    grid : Grid
    colours : Colours
    marks : dict of str to str
        {mark: what it means}, in the order of the legend.

    Returns
    -------
    str
    """
    kinds = {part: "bold" if part == grid.bold else "" for part in grid.parts}
    inside = _table(
        '<th class="layer">layer</th>' + "".join(_head(part, kind) for part, kind in kinds.items()),
        "".join(
            f'<tr><th class="layer">{layer}</th>'
            + "".join(_cell(grid.cell(layer, part), colours, kind) for part, kind in kinds.items())
            + "</tr>"
            for layer in grid.layers
        ),
        "<td></td>" + "".join(_foot(grid.foot(part)) for part in grid.parts),
    )
    outside = _table(
        "".join(_head(cell.name) for cell in grid.outside),
        f"<tr>{''.join(_cell(cell, colours) for cell in grid.outside)}</tr>",
        "".join(_foot(cell.foot) for cell in grid.outside),
    )
    return f'<div class="wide">{inside}\n{outside}</div>\n{_legend(colours, marks)}'


def _table(head, body, foot):
    return f"""<table class="map"><thead><tr>{head}</tr></thead>
<tbody>{body}</tbody><tfoot><tr>{foot}</tr></tfoot></table>"""


def _head(name, kind=""):
    breakable = escape(name).replace(".", ".<wbr>").replace("_", "_<wbr>")
    return f'<th class="{kind}">{breakable}</th>'


def _foot(text):
    return f"<td>{escape(text)}</td>"


def _cell(cell, colours, kind=""):
    if cell is None:
        return "<td></td>"
    kinds = " ".join(filter(None, (kind, CORNER if cell.corner else "", cell.mark)))
    style, text = "", "×" if cell.mark == GONE else brief(cell.value)
    if cell.value is not None:
        style = f' style="background:{colours.colour(cell.value)};color:{colours.ink(cell.value)}"'
    return f'<td class="{kinds}" title="{escape(cell.tip)}"{style}>{text}</td>'


def _legend(colours, marks):
    stops = ", ".join(colours.at(step / 16) for step in range(17))
    ticks = "".join(f'<span style="left:{100 * place:.1f}%">{brief(value)}</span>' for value, place in colours.ticks())
    scale = f'<div class="scale" style="background:linear-gradient(90deg, {stops})">{ticks}</div>'
    keys = "".join(
        f'<table><tr><td class="{mark}" style="box-shadow:inset 0 0 0 1px {LINE}">{"×" if mark == GONE else ""}</td>'
        f"<td>{escape(meaning)}</td></tr></table>"
        for mark, meaning in marks.items()
    )
    return f'<div class="key">{scale}{keys}</div>'
