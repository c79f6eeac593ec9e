"""A page: one HTML file with everything in it, which reads without a server, a script or the network."""

import base64
import io
from html import escape

from llmc.show.page_style import STYLE

PAGE = "body { margin: 32px auto; max-width: 1240px; padding: 0 24px; background: #fff; }"


def page(title, *pieces):
    """A whole page of pieces of HTML, as text."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{PAGE}</style></head>
<body>{fragment(*pieces)}</body></html>
"""


def fragment(*pieces):
    """Pieces of HTML with their style, as a notebook shows them between other things."""
    return f'<div class="llmc"><style>{STYLE}</style>\n{"".join(pieces)}</div>'


def heading(text, below):
    """What a page begins with."""
    return f'<h1>{escape(text)}</h1><p class="quiet">{escape(below)}</p>\n'


def section(title, *pieces):
    """Pieces of HTML under a title."""
    return f"<h2>{escape(title)}</h2>\n{''.join(pieces)}\n"


def quiet(text):
    """A line of explanation."""
    return f'<p class="quiet">{escape(text)}</p>\n'


def bullets(lines):
    """Lines that are to be seen."""
    return f'<ul class="values">{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>\n' if lines else ""


def verbatim(lines):
    """Lines as they stand, in a fixed width."""
    return f"<pre>{escape(chr(10).join(lines))}</pre>\n"


def folded(summary, *pieces):
    """Pieces of HTML that are seen after a click on their summary."""
    return f"<details><summary>{escape(summary)}</summary>{''.join(pieces)}</details>\n"


def tabs(name, pieces):
    """Pieces of HTML of which one is seen at a time, the first to begin with.

    Parameters
    ----------
    name : str
        A word that begins no other id of the page.
    pieces : dict
        {what stands on its tab: HTML}.
    """
    keys, rules, sections = [], [], []
    for index, (title, piece) in enumerate(pieces.items()):
        tab, checked = f"{name}-{index}", " checked" if index == 0 else ""
        keys.append(f'<input type="radio" name="{name}" id="{tab}"{checked}><label for="{tab}">{escape(title)}</label>')
        rules.append(f"#{tab}:checked ~ #{tab}-shown {{ display: block; }}")
        sections.append(f'<section id="{tab}-shown">{piece}</section>')
    return f'<style>{" ".join(rules)}</style><div class="tabs">{"".join(keys)}{"".join(sections)}</div>\n'


def table(headings, rows, form=".6g"):
    """A table of values; numbers stand at the right, in the format `form`.

    Parameters
    ----------
    headings : list of str
    rows : iterable of sequences
    form : str
    """
    head = "".join(f"<th>{escape(text)}</th>" for text in headings)
    body = "".join(f"<tr>{''.join(_value(value, form) for value in row)}</tr>" for row in rows)
    return (f'<div class="wide"><table class="plain"><thead><tr>{head}</tr></thead>\n'
            f'<tbody>{body}</tbody></table></div>\n')  # fmt: skip


def picture(figure, text):
    """A figure of matplotlib, drawn into the page; `text` says what it shows where it is not seen."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{escape(text)}" src="data:image/png;base64,{data}">\n'


def image(path, text):
    """A picture that is a .png already, put into the page; `text` says what it shows where it is not seen."""
    with open(path, "rb") as file:
        data = base64.b64encode(file.read()).decode()
    return f'<img class="whole" alt="{escape(text)}" src="data:image/png;base64,{data}">\n'


def _value(value, form):
    if isinstance(value, (int, float)):
        return f'<td class="number">{value:{form}}</td>'
    return f"<td>{'' if value is None else escape(str(list(value) if isinstance(value, tuple) else value))}</td>"
