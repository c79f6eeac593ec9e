"""The picture of a scene report: a bar a field, before and after a training, and a dot for every scene."""

from llmc.show import picture
from llmc.show.colours import COOL, GREY, INK

SIDES = {"base_effect": ("base", GREY), "effect": ("model", COOL)}


def plot(report, path):
    """Draw a report.

    Parameters
    ----------
    report : SceneReport
    path : str
        The picture, which appears whole. No display is needed.

    Raises
    ------
    ConfigError
        For an ending that no picture has.
    ImportError
        Without matplotlib.
    """
    picture.ending(path)
    picture.save(figure(report), path)


def figure(report):
    """The figure of a report: the effect of every field, the largest at the top."""
    sides = {key: side for key, side in SIDES.items() if report.by_field[0][key] is not None}
    thick = 0.72 / len(sides)
    drawn, axes = picture.chart(7.6, 1.5 + 0.36 * len(report.by_field) * len(sides), "x")
    lines = {row["field"]: line for line, row in enumerate(report.by_field)}
    for number, (key, (label, colour)) in enumerate(sides.items()):
        shift = (number - (len(sides) - 1) / 2) * thick
        axes.barh([line + shift for line in lines.values()], [row[key] for row in report.by_field], thick * 0.9,
                  color=colour, label=label)  # fmt: skip
        axes.plot([row[key] for row in report.rows], [lines[row["field"]] + shift for row in report.rows], ".",
                  color=INK, alpha=0.35, markersize=3.5, markeredgewidth=0)  # fmt: skip
        for row in report.by_field:
            axes.annotate(f"{row[key]:+.3g}".replace("-", "−"), (1, lines[row["field"]] + shift), (6, 0),
                          xycoords=("axes fraction", "data"), textcoords="offset points", va="center", fontsize=8,
                          color=colour)  # fmt: skip
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set_yticks(list(lines.values()), list(lines), color=INK)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_xlabel("effect: nats a learnt token, by which the loss rises without the field; a dot is a scene",
                    color=GREY, fontsize=8.5)  # fmt: skip
    axes.set_title("Which field the response comes from", loc="left", fontsize=12, weight="bold", color=INK)
    axes.set_title(report.text, loc="right", fontsize=8.5, color=GREY)
    if len(sides) > 1:
        axes.legend(loc="lower right", frameon=False, fontsize=8.5)
    if min(row[key] for row in report.by_field for key in sides) < 0:
        axes.margins(x=0.06)
    return drawn
