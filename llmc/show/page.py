"""The page of a report: one HTML file with everything in it, which reads without a server, a script or the network."""

from html import escape

from llmc.show.colours import LINE, Colours
from llmc.show.grid import BLOCK, Grid, is_gone, shown, width_change
from llmc.show.page_style import STYLE
from llmc.analysis.shapes import is_shape_line

MEANING = {
    "lim": "‖out − in‖ ÷ ‖in‖ over all tokens: how much a module changes what it reads",
    "negative_cosine": "minus the cosine of a token's input and output, mean: −1 the same direction, 1 the opposite",
    "block_influence": "1 − the cosine of a token's input and output, mean: 0 nothing is turned",
    "angular_distance": "the angle between a token's input and output ÷ π, mean",
    "relative_contribution": "‖out − in‖ ÷ ‖in‖ per token, mean; of a branch, ‖out‖ ÷ ‖the stream it joins‖",
    "cka": "linear centred kernel alignment of input and output: 1 the same geometry",
    "ablation": "the loss without this block or branch minus the loss: what it is worth, in nats per token",
}

def page(report):
    """The whole page, as text."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(report.metrics[0])}: {escape(report.title)}</title>
<style>body {{ margin: 32px auto; max-width: 1240px; padding: 0 24px; background: #fff; }}</style></head>
<body>{heat_maps(report)}
<div class="lim">{_predictions(report)}{_mismatches(report)}{_rows(report)}</div>
</body></html>
"""


def heat_maps(report):
    """A heat map for every metric behind a tab; what a notebook shows."""
    name = f"lim{id(report):x}"
    tabs, shows = [], []
    for index, metric in enumerate(report.metrics):
        tab = f"{name}-{index}"
        tabs.append(f'<input type="radio" name="{name}" id="{tab}"{" checked" if index == 0 else ""}>'
                    f'<label for="{tab}">{escape(metric)}</label>')  # fmt: skip
        shows.append(f"#{tab}:checked ~ #{tab}-map {{ display: block; }}")
    maps = [
        f'<section id="{name}-{index}-map"><p class="quiet">{MEANING[metric]}.</p>'
        f"{_map(report.rows, metric)}</section>"
        for index, metric in enumerate(report.metrics)
    ]
    return f"""<div class="lim"><style>{STYLE}{" ".join(shows)}</style>
<h1>What each module does to its input</h1><p class="quiet">{escape(report.title)} · {report.text}</p>
<div class="tabs">{"".join(tabs)}{"".join(maps)}</div></div>"""


def _map(rows, metric):
    grid = Grid(rows, metric)
    colours = Colours(metric, [row[metric] for row in rows])
    head = "".join(f'<th class="{_class(part)}">{_breakable(part)}</th>' for part in grid.parts)
    body = "".join(
        f'<tr><th class="layer">{layer}</th>'
        + "".join(_cell(grid.cells.get((layer, part)), metric, colours, _class(part)) for part in grid.parts)
        + "</tr>"
        for layer in grid.layers
    )
    foot = "".join(f"<td>{grid.width_change(part) or ''}</td>" for part in grid.parts)
    names = "".join(f"<th>{_breakable(row['name'])}</th>" for row in grid.outside)
    cells = "".join(_cell(row, metric, colours, "") for row in grid.outside)
    changes = "".join(f"<td>{width_change(row) or ''}</td>" for row in grid.outside)
    return f"""<div class="wide"><table class="map"><thead><tr><th class="layer">layer</th>{head}</tr></thead>
<tbody>{body}</tbody><tfoot><tr><td></td>{foot}</tr></tfoot></table>
<table class="map"><thead><tr>{names}</tr></thead><tbody><tr>{cells}</tr></tbody>
<tfoot><tr>{changes}</tr></tfoot></table></div>
{_key(colours)}"""


def _breakable(name):
    return escape(name).replace(".", ".<wbr>").replace("_", "_<wbr>")


def _class(part):
    return "block" if part == BLOCK else ""


def _cell(row, metric, colours, kind):
    if row is None:
        return "<td></td>"
    value, marks = row[metric], [kind]
    marks += ["wider"] if width_change(row) else []
    tip = f"{row['name']}: {list(row['input_shape'])} → {list(row['output_shape'])}, {row['shape_case']}"
    style = ""
    if value is not None:
        style = f' style="background:{colours.colour(value)};color:{colours.ink(value)}"'
        spread = row.get(f"{metric}_spread")
        tip += f"\n{metric} {value:.6g}" + (f" ± {spread:.2g}" if spread is not None else "")
    elif is_gone(row, metric):
        marks.append("gone")
    elif row["shape_case"] == "skipped":
        marks.append("skipped")
    text = "×" if "gone" in marks else shown(value)
    return f'<td class="{" ".join(filter(None, marks))}" title="{escape(tip)}"{style}>{text}</td>'


def _key(colours):
    stops = ", ".join(colours.at(step / 16) for step in range(17))
    ticks = "".join(f'<span style="left:{100 * place:.1f}%">{shown(value)}</span>' for value, place in colours.ticks())
    marks = "".join(
        f'<table><tr><td class="{mark}" style="box-shadow:inset 0 0 0 1px {LINE}">{text}</td><td>{words}</td></tr>'
        "</table>"
        for mark, text, words in (("wider", "", "widths differ"), ("skipped", "", "skipped"), ("gone", "×", "no value"))
    )
    scale = f'<div class="scale" style="background:linear-gradient(90deg, {stops})">{ticks}</div>'
    return f'<div class="key">{scale}{marks}</div>'


def _predictions(report):
    if not report.rank_correlation:
        return ""
    lines = "".join(
        f"<tr><td>{escape(metric)}</td>"
        + "".join(f'<td class="number">{"" if value is None else f"{value:+.2f}"}</td>' for value in found.values())
        + "</tr>"
        for metric, found in report.rank_correlation.items()
    )
    return f"""<h2>Which of them predicts the ablation</h2>
<p class="quiet">Spearman's rank correlation with the loss that leaving a module out costs: 1 is the same order,
0 none.</p>
<table class="plain"><thead><tr><th>metric</th><th>over blocks</th><th>over branches</th></tr></thead>
<tbody>{lines}</tbody></table>"""


def _mismatches(report):
    if not report.mismatches:
        return ""
    shapes = [line for line in report.mismatches if is_shape_line(line)]
    values = "".join(f"<li>{escape(line)}</li>" for line in report.mismatches if not is_shape_line(line))
    return f"""<h2>Mismatches</h2>{f'<ul class="values">{values}</ul>' if values else ""}
<p class="quiet">Where widths differ, the common leading features are compared; modules that read token ids
are skipped.</p>
<details><summary>{len(shapes)} modules whose shapes differ</summary>
<pre>{escape(chr(10).join(shapes))}</pre></details>"""


def _rows(report):
    columns = list(report.rows[0])
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(_plain(row[column]) for column in columns) + "</tr>" for row in report.rows)
    return f"""<h2>Every module</h2><details><summary>{len(report.rows)} rows</summary><div class="wide">
<table class="plain"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></details>"""


def _plain(value):
    if isinstance(value, (int, float)):
        return f'<td class="number">{value:.6g}</td>'
    return f"<td>{'' if value is None else escape(str(list(value) if isinstance(value, tuple) else value))}</td>"
