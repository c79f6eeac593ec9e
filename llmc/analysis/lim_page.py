"""The page of a report: a heat map of every metric, what predicts the ablation, what is amiss, and every row."""

from llmc.analysis.lim_grid import MARKS, grid_of, scale
from llmc.analysis.shapes import is_shape_line
from llmc.show.page import bullets, folded, fragment, heading, page, quiet, section, table, tabs, verbatim
from llmc.show.page_map import heat_map

MEANING = {
    "lim": "‖out − in‖ ÷ ‖in‖ over all tokens: how much a module changes what it reads",
    "negative_cosine": "minus the cosine of a token's input and output, mean: −1 the same direction, 1 the opposite",
    "block_influence": "1 − the cosine of a token's input and output, mean: 0 nothing is turned",
    "angular_distance": "the angle between a token's input and output ÷ π, mean",
    "relative_contribution": "‖out − in‖ ÷ ‖in‖ per token, mean; of a branch, ‖out‖ ÷ ‖the stream it joins‖",
    "lim_per_token": "‖out − in‖ ÷ ‖in‖ of each token, mean: long tokens count no more than others",
    "cka": "linear centred kernel alignment of input and output: 1 the same geometry",
    "ablation": "the loss without this block or branch minus the loss: what it is worth, in nats per token",
}


def whole(report):
    """The whole page, as text."""
    return page(f"{report.metrics[0]}: {report.title}", _head(report), _maps(report), _predictions(report),
                _mismatches(report), _rows(report))  # fmt: skip


def in_notebook(report):
    """The heat maps, as HTML."""
    return fragment(_head(report), _maps(report))


def _head(report):
    notes = bullets(report.notes) if report.notes else ""
    return heading("What each module does to its input", f"{report.title} · {report.text}") + notes


def _maps(report):
    return tabs(f"lim{id(report):x}", {metric: _map(report.rows, metric) for metric in report.metrics})


def _map(rows, metric):
    colours = scale(metric, [row[metric] for row in rows])
    return quiet(f"{MEANING[metric]}.") + heat_map(grid_of(rows, metric), colours, MARKS)


def _predictions(report):
    if not report.rank_correlation:
        return ""
    return section(
        "Which of them predicts the ablation",
        quiet("Spearman's rank correlation with the loss that leaving a module out costs: 1 is the same order, "
              "0 none."),
        table(["metric", "over blocks", "over branches"],
              [(metric, *found.values()) for metric, found in report.rank_correlation.items()], form="+.2f"),
    )  # fmt: skip


def _mismatches(report):
    if not report.mismatches:
        return ""
    shapes = [line for line in report.mismatches if is_shape_line(line)]
    return section(
        "Mismatches",
        bullets([line for line in report.mismatches if not is_shape_line(line)]),
        quiet("Where widths differ, the common leading features are compared; modules that read token ids are "
              "skipped."),
        folded(f"{len(shapes)} modules whose shapes differ", verbatim(shapes)),
    )  # fmt: skip


def _rows(report):
    rows = table(list(report.rows[0]), [row.values() for row in report.rows])
    return section("Every module", folded(f"{len(report.rows)} rows", rows))
