"""The page of a trace: the text by what it is predicted, layers by tokens, what moves most, what each layer says."""

from html import escape

import numpy as np

from llmc.analysis.titles import tokens_of
from llmc.analysis.trace_grid import MARKS, grid_of, scale
from llmc.show.colours import rising
from llmc.show.grid import brief
from llmc.show.page import folded, fragment, heading, page, quiet, section, table, tabs
from llmc.show.page_map import heat_map

MEANING = {
    "own_change": "‖f′(x) − f(x)‖ ÷ ‖f(x)‖, x what the base's module reads: what its own weights do",
    "output_change": "‖tuned − base‖ ÷ ‖base‖ of what it gives: where the change arrives",
}
_MOST = 12  # modules of a list, tokens of a line
_ARRIVES, _STREAM = "224 86 47", "53 101 201"  # red, green, blue; how strong a colour is says how much
STYLE = f"""
.trace .text {{ white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.9; margin: 0 0 14px; max-width: 110ch; }}
.trace .text span {{ border-radius: 3px; padding: 2px 0; }}
.trace .text span:hover, .trace .stream td:hover {{ outline: 1.5px solid currentColor; }}
.trace .wide {{ overflow-x: auto; }}
.trace .stream {{ border-collapse: collapse; border-spacing: 0; }}
.trace .stream td {{ min-width: 7px; width: 7px; height: 13px; padding: 0; border: 0; }}
.trace .stream th {{ font-weight: 400; font-size: 11px; padding: 0 8px 0 0; text-align: right; opacity: .7; }}
.trace .key i {{
  display: inline-block; width: 34px; height: 13px; margin: 0 6px 0 14px; border-radius: 3px; vertical-align: -2px;
}}
.trace .key {{ display: block; font-size: 12px; opacity: .8; margin: 6px 0 0; }}
.trace .most td {{ padding: 2px 14px 2px 0; font-size: 13px; white-space: nowrap; text-align: left; }}
.trace .most .bar {{ min-width: 180px; }}
.trace .bar i {{ display: block; height: 11px; border-radius: 2px; background: rgb({_STREAM}); }}
.trace .says code {{
  border: 1px solid rgb(125 133 147 / .4); border-radius: 4px; padding: 0 4px; margin-right: 5px; white-space: pre;
}}
.trace h3 {{ font-size: 14px; margin: 22px 0 6px; }}
"""
_DARK = """
@media (prefers-color-scheme: dark) {
  .llmc { color: #e4e7ec; }
  .llmc .plain th, .llmc .plain td { border-color: #333945; }
  .llmc .map th { color: #e4e7ec; }
  .llmc .quiet, .llmc .map th.layer { color: #9aa3b2; }
  .trace .map td, .trace .scale { filter: invert(1) hue-rotate(180deg); }
}
"""


def whole(trace):
    """The whole page, as text."""
    dark = "<style>@media (prefers-color-scheme: dark) { body { background: #14171d; } }</style>"
    return page(trace.title, dark, heading(trace.title, "What the changed weights move on a text"), in_page(trace))


def in_notebook(trace):
    """What moved, as HTML."""
    maps = _maps(trace, f"trace{id(trace):x}")  # a notebook may show several
    return fragment(heading(trace.title, _summary_line(trace)), f"<style>{STYLE}</style>", maps)


def in_page(trace):
    """Everything as one element, `#trace`, of this page or another; it needs no script."""
    pieces = (quiet(_summary_line(trace)), _text(trace), _layers_by_tokens(trace), _says(trace), _fields(trace),
              section("Modules that move most", _maps(trace), _most(trace)), _rows(trace))  # fmt: skip
    return f'<div id="trace" class="trace">{fragment(f"<style>{STYLE}{_DARK}</style>", *pieces)}</div>\n'


def _summary_line(trace):
    found = trace.summary
    said = [tokens_of(found["tokens"], trace.source)]
    if found["kl_mean"] is not None:
        said.append(f"KL(tuned ‖ base) {found['kl_mean']:.4g} nats a token, at most {found['kl_max']:.4g}")
    if found["agreement"] is not None:
        said.append(f"the same likeliest next token for {found['agreement']:.1%}")
    if None not in (found["base_loss"], found["tuned_loss"]):
        said.append(f"loss {found['base_loss']:.4g} → {found['tuned_loss']:.4g}")
    return " · ".join(said)


def _text(trace):
    colours = rising([token["kl"] for token in trace.tokens])
    rows = {}
    for index, token in enumerate(trace.tokens):
        rows.setdefault(token["batch"], []).append(_span(index, token, colours))
    pieces = [f'<p class="text">{"".join(spans)}</p>\n' for spans in rows.values()]
    key = _key(colours, _ARRIVES, "KL of the next token, in nats")
    return section("The text, coloured by how far its next tokens moved", *pieces, key)


def _span(index, token, colours):
    text = _shown(token["id"], token["text"]).replace("⏎", "⏎\n")
    style = "" if token["kl"] is None else f' style="background:{_tint(colours, token["kl"], _ARRIVES)}"'
    space = " " if token["text"] is None else ""
    return f'<span data-token="{index}"{style} title="{_attribute(_tip(token))}">{escape(text)}</span>{space}'


def _tip(token):
    lines = [f"{_word(token['id'], token['text'])}, position {token['position']}"]
    if token["kl"] is not None:
        lines.append(f"KL {token['kl']:.4g} nats")
    lines.append(f"base: {_word(token['base_top'], token['base_top_text'])}")
    lines.append(f"tuned: {_word(token['tuned_top'], token['tuned_top_text'])}")
    if token["base_logprob"] is not None and token["tuned_logprob"] is not None:
        chances = (np.exp(token[f"{side}_logprob"]) for side in ("base", "tuned"))
        lines.append("the next one, by base and tuned: {:.3g} and {:.3g}".format(*chances))
    return "\n".join(lines)


def _layers_by_tokens(trace):
    batches = trace.stream if isinstance(trace.stream, list) else [trace.stream]
    real = [~np.isnan(each).all(axis=0) for each in batches]
    stream = np.concatenate([each[:, where] for each, where in zip(batches, real)], axis=1)
    if stream.shape[1] != len(trace.tokens):  # numbers that are not finite throughout
        return ""
    colours = rising([float(value) for value in stream[np.isfinite(stream)]])
    names = [_shown(token["id"], token["text"]) for token in trace.tokens]
    lines = "".join(
        f"<tr><th>{layer}</th>{_cells(layer, names, values, colours)}</tr>\n"
        for layer, values in enumerate(stream.tolist())
    )
    return section(
        "Layers by tokens",
        quiet("How far the residual stream of each token is from the base's: 0 the embeddings, l the output of block "
              "l."),
        f'<div class="wide"><table class="stream"><tbody>{lines}</tbody></table></div>\n',
        _key(colours, _STREAM, "‖h′ − h‖ ÷ ‖h‖"),
    )  # fmt: skip


def _cells(layer, names, values, colours):
    return "".join(_cell(layer, name, value, colours) for name, value in zip(names, values))


def _cell(layer, name, value, colours):
    if not np.isfinite(value):
        return "<td></td>"
    tip = _attribute(f"layer {layer}, {name}: {value:.3g}")
    return f'<td style="background:{_tint(colours, value, _STREAM)}" title="{tip}"></td>'


def _says(trace):
    rows = [("risen", None, None, trace.gained, "change"), ("fallen", None, None, trace.lost, "change")]
    rows += [(row["layer"], row["change"], row["cosine"], row["says"] or [], "score") for row in trace.layers]
    body = "".join(
        f"<tr><td>{name}</td><td>{_number(change)}</td><td>{_number(cosine)}</td>"
        f'<td class="says">{"".join(_token(row, key) for row in tokens[:_MOST])}</td></tr>\n'
        for name, change, cosine, tokens, key in rows
    )
    head = "<tr><th>layer</th><th>change</th><th>cosine</th><th>tokens</th></tr>"
    return section(
        "What each layer says",
        quiet("The tokens whose probability rose and fell most; then, for each place of the residual stream, those "
              "that the tuned final norm and head make of the mean difference."),
        f'<div class="wide"><table class="plain"><thead>{head}</thead><tbody>{body}</tbody></table></div>\n',
    )  # fmt: skip


def _token(row, key):
    tip = f"{row['id']}: {row[key]:.4g}"
    return f'<code title="{tip}">{escape(_shown(row["id"], row["text"]))}</code>'


def _fields(trace):
    if trace.fields is None:
        return ""
    places = range(len(trace.layers))
    rows = [(row["field"], row["tokens"], row["kl"], *row["change"]) for row in trace.fields]
    return section("By scene field", quiet("The KL of its tokens, and how far the residual stream is at each layer."),
                   table(["field", "tokens", "kl", *map(str, places)], rows, form=".4g"))  # fmt: skip


def _maps(trace, name="trace-by"):
    return tabs(name, {by: _map(trace.modules, by) for by in MEANING})


def _map(modules, by):
    return quiet(f"{MEANING[by]}.") + heat_map(grid_of(modules, by), scale(by, [row[by] for row in modules]), MARKS)


def _most(trace):
    return "".join(f"<h3>by {by}</h3>{_bars(trace.top(_MOST, by), by)}" for by in MEANING)


def _bars(rows, by):
    most = max((row[by] for row in rows), default=0.0) or 1.0
    body = "".join(
        f'<tr><td>{escape(row["name"])}</td><td>{row[by]:.4g}</td>'
        f'<td class="bar"><i style="width:{100 * row[by] / most:.1f}%"></i></td></tr>\n'
        for row in rows
    )
    return f'<div class="wide"><table class="most"><tbody>{body}</tbody></table></div>\n'


def _rows(trace):
    rows = table(list(trace.modules[0]), [row.values() for row in trace.modules])
    return section("Every module", folded(f"{len(trace.modules)} rows", rows))


def _key(colours, colour, words):
    marks = "".join(f'<i style="background:{_tint(colours, value, colour)}"></i>{brief(value)}'
                    for value, _ in colours.ticks())  # fmt: skip
    return f'<p class="key">{escape(words)}{marks}</p>\n'


def _tint(colours, value, colour):
    return f"rgb({colour} / {0.9 * colours.place(value):.2f})"


def _shown(number, text):
    """A token's text as it is read: its line ends are seen too; the id where there is none."""
    return str(number) if text is None else text.replace("\n", "⏎") or "∅"


def _word(number, text):
    return str(number) if text is None else f"{text!r} ({number})"


def _number(value):
    return "" if value is None else f"{value:.4g}"


def _attribute(text):
    return escape(text).replace("\n", "&#10;")
