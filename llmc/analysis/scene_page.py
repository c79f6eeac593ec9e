"""The page of a scene report: what each field is worth, and every response with its tokens coloured by a field."""

from html import escape

from llmc.analysis import scene_picture
from llmc.show.colours import signed
from llmc.show.page import folded, fragment, heading, page, picture, quiet, section, table, tabs

MOST_SHOWN = 50  # scenes whose responses stand on the page


def whole(report):
    """The whole page, as text."""
    return page(f"fields: {report.title}", _head(report), _fields(report), _responses(report), _rows(report))


def in_notebook(report):
    """The fields, as HTML."""
    return fragment(_head(report), _fields(report))


def _head(report):
    return heading("Which field the response comes from", f"{report.title} · {report.text}")


def _fields(report):
    columns = [name for name, value in report.by_field[0].items() if value is not None]
    words = ("effect: by how many nats a learnt token's loss rises when the scene is rendered without the field, its "
             "whole section")  # fmt: skip
    words += "; learnt: the effect beyond the base's, which is what the training wrote." if report.has_base else "."
    return (quiet(words) + picture(scene_picture.figure(report), "the effect of each field")
            + table(columns, [[row[name] for name in columns] for row in report.by_field], form=".4g"))  # fmt: skip


def _responses(report):
    """The responses, a tab a field: each token in the colour of what the field is worth to it."""
    scenes = {}
    for token in report.tokens:
        scenes.setdefault(token["scene"], []).append(token)
    shown = dict(list(scenes.items())[:MOST_SHOWN])
    colours = signed([effect for tokens in shown.values() for token in tokens for effect in token["effects"].values()])
    of_field = {row["field"]: "".join(_response(row["field"], name, tokens, colours) for name, tokens in shown.items())
                for row in report.by_field}  # fmt: skip
    left_out = f" The first {len(shown)} of {len(scenes)} scenes." if len(shown) < len(scenes) else ""
    return section(
        "The responses, token by token",
        quiet(f"Orange: the token is harder without the field. Blue: it is easier. The number is seen below the "
              f"pointer.{left_out}"),
        tabs(f"scenes{id(report):x}", of_field),
    )  # fmt: skip


def _response(field, name, tokens, colours):
    if field not in tokens[0]["effects"]:
        return ""
    text = "".join(_token(token, token["effects"][field], colours) for token in tokens)
    return f'<p class="quiet">{escape(name)}</p><pre>{text}</pre>\n'


def _token(token, effect, colours):
    style = f"background:{colours.colour(effect)};color:{colours.ink(effect)}"
    tip = f"{effect:+.3f} nats; its loss is {token['loss']:.3f}"
    return f'<span style="{style}" title="{tip}">{escape(token["text"])}</span>'


def _rows(report):
    columns = [name for name, value in report.rows[0].items() if value is not None]
    rows = table(columns, [[row[name] for name in columns] for row in report.rows])
    return section("Every scene and field", folded(f"{len(report.rows)} rows", rows))
