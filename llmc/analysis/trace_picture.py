"""The picture of a trace: layers by parts as a heat map, coloured by a measure of the modules."""

from llmc.analysis.titles import tokens_of
from llmc.analysis.trace_grid import MARKS, grid_of, scale
from llmc.show import picture
from llmc.show.colours import GREY
from llmc.show.sheet import CELL, Sheet

EDGE, FOOT, TOP, APART = 0.35, 1.75, 1.42, 0.85


def plot(trace, path, by):
    """Draw a trace into a .png, .pdf or .svg, which appears whole.

    Raises
    ------
    ConfigError
        For another ending.
    ImportError
        Without matplotlib.
    """
    picture.ending(path)
    grid = grid_of(trace.modules, by)
    left = EDGE + 0.45
    bottom = TOP + len(grid.layers) * CELL[1]
    slanted = 0.05 * len(grid.parts[-1]) if grid.parts else 0.0  # the last part's name leans over the edge
    width = max(left + len(grid.parts) * CELL[0] + slanted, left + APART * len(grid.outside), 6.6)
    sheet = Sheet(width + EDGE, bottom + FOOT)
    colours = scale(by, [row[by] for row in trace.modules])
    sheet.text(EDGE, 0.36, f"{by}: layers × parts", size=14, weight="bold")
    sheet.text(EDGE, 0.64, f"{trace.title} · {tokens_of(trace.summary['tokens'], trace.source)}", size=9.5, color=GREY)
    sheet.heat_map(left, TOP, grid, colours)
    sheet.outside(left, bottom + 0.62, grid, colours, apart=APART)
    sheet.scale(left, sheet.height - 0.56, colours, by)
    sheet.key(left + 2.55, sheet.height - 0.56, MARKS)
    sheet.save(path)
