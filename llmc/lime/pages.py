"""index.html: everything that a reproduction of LIMe's paper came to, on one page that needs nothing beside it."""

import os
from html import escape

from llmc.lime import printed
from llmc.lime.drawings import DRAWINGS, file_of
from llmc.lime.ledger import BY_OPERANDS
from llmc.lime.sheets import SHEETS, arithmetic_rows, columns_of, rows_of
from llmc.show import page
from llmc.system.atomic import atomic_write

FILE = "index.html"
CIRCUITS = 24  # rows of table 2 that are seen at once


def write_page(numbers, out, below="", left_out=(), notes=()):
    """Write the page of what there is in a folder.

    Parameters
    ----------
    numbers : dict
        What numbers.json holds.
    out : path
        A folder with the pictures.
    below : str
        A line under the title: at what scale, when.
    left_out : iterable of str
        What is not there, and why, a line each.
    notes : iterable of str
        What a reader has to know of the models, a line each.

    Returns
    -------
    str
        The file, which appears whole.
    """
    pieces = [page.heading("LIMe: layer-integrated memory", below or "The paper's figures and tables, drawn anew."),
              page.bullets(list(left_out)), *map(page.quiet, notes), _contents(numbers)]  # fmt: skip
    pieces += [_figure(key, out) for key in DRAWINGS if key not in BY_OPERANDS and _is_there(key, numbers, out)]
    if _is_there("aet", numbers, out):
        pieces.append(_figure("aet", out) + _arithmetic(numbers["aet"]))
    pieces += [_figure("aet_curves", out)] if _is_there("aet_curves", numbers, out) else []
    pieces += [_table(key, numbers[key]) for key in SHEETS if key != "aet" and numbers.get(key)]
    path = os.path.join(out, FILE)
    with atomic_write(path, "w") as file:
        file.write(page.page("LIMe", *pieces))
    return path


def _is_there(key, numbers, out):
    return bool(numbers.get(key)) and os.path.isfile(os.path.join(out, file_of(key)))


def _contents(numbers):
    """Links to what is on the page."""
    titles = {key: drawing.title for key, drawing in DRAWINGS.items()} \
        | {key: title for key, (_, title) in SHEETS.items() if key != "aet"}  # fmt: skip
    links = [f'<a href="#{key}">{escape(title)}</a>' for key, title in titles.items() if numbers.get(key)]
    return f'<p class="quiet">{" · ".join(links)}</p>\n'


def _section(key, title, *pieces):
    return f'<div id="{key}">{page.section(title, *pieces)}</div>'


def _figure(key, out):
    drawing = DRAWINGS[key]
    return _section(key, drawing.title, page.image(os.path.join(out, file_of(key)), drawing.title),
                    page.quiet(drawing.caption))  # fmt: skip


def _table(key, entry):
    ways = {"table2": _circuits, "table4": _architecture, "table5": _pruning, "table6": _efficiency}
    return _section(key, SHEETS[key][1], ways.get(key, _plain)(rows_of(key, entry)))


def _plain(rows):
    columns = columns_of(rows)
    return page.table(columns, [[_shown(row.get(column)) for column in columns] for row in rows], form=",.6g")


def _circuits(rows):
    note = page.quiet("Which tokens make a head of a layer read which representation, by the logits of the embeddings "
                      "themselves. Layers, heads and representations count from 0; representation 0 is the "
                      "embeddings.")  # fmt: skip
    rest = page.folded(f"{len(rows) - CIRCUITS:,} more", _plain(rows[CIRCUITS:])) if len(rows) > CIRCUITS else ""
    return note + _plain(rows[:CIRCUITS]) + rest


def _architecture(rows):
    return _plain(rows) + page.quiet(printed.TABLE4_WHY)


def _pruning(rows):
    theirs = [[layers, pruned, total, f"{100 * pruned / total:.1f} %"]
              for layers, (pruned, total) in printed.TABLE5.items()]  # fmt: skip
    return (_plain(rows) + page.quiet("As the paper prints it:")
            + page.table(["layers", "pruned", "total", "share"], theirs) + page.quiet(printed.TABLE5_WHY))  # fmt: skip


def _efficiency(rows):
    """Ours beside the printed digits, and why they differ."""
    ours, theirs = [], []
    for row in rows:
        ours.append([row["name"], f"{row['parameters']:,}", _percent(row["parameters_change"], 4), f"{row['flops']:,}",
                     _percent(row["flops_change"], 2), f"{row['train_memory']:,}", f"{row['inference_memory']:,}"])
        if row["name"] in printed.TABLE6:
            theirs.append([row["name"], *printed.TABLE6[row["name"]]])
    head = ["model", "parameters", "change", "FLOPs", "change", "memory in training", "in inference"]
    note = page.quiet("FLOPs of one sequence's forward pass in the authors' convention; memories are numbers, not "
                      "bytes, that are held beside a LLaMA's.")  # fmt: skip
    if not theirs:
        return page.table(head, ours) + note
    why = "".join(page.quiet(f"{row['name']}: {printed.TABLE6_WHY[row['name']]}") for row in rows
                  if row["name"] in printed.TABLE6_WHY)  # fmt: skip
    return (page.table(head, ours) + note + page.quiet("As the paper prints it:")
            + page.table(["model", "parameters (10⁹)", "change (%)", "FLOPs (10¹²)", "change (%)"], theirs)
            + page.quiet("What of it cannot be derived:") * bool(why) + why)  # fmt: skip


def _arithmetic(entry):
    """Means and deviations over seeds, what each model has over the LLaMA of its seed, and what the paper says."""
    operands = sorted({number for each in entry.values() for number in each}, key=int)
    rows = [[name, *(cell for number in operands for cell in _over_seeds(entry, name, number))] for name in entry]
    head = ["model", *(cell for number in operands for cell in (f"{number} operands", "over llama, pair by pair"))]
    said = ", ".join(f"{name} {100 * value:.1f} %" for name, value in printed.AET.items())
    return (page.table(head, rows)
            + page.quiet("Mean and deviation over seeds; models of one seed begin alike and read the same rows. "
                         "llama-kv is a LLaMA whose keys and values start as LIMe's do, lime-fair a LIMe that starts "
                         "as the LLaMA, lime-kv one that starts as llama-kv: so start and routing are told apart.")
            + page.quiet(f"The paper says, of six operands after 200 epochs: {said}. {printed.AET_WHY}"))  # fmt: skip


def _over_seeds(entry, name, operands):
    """Two cells: the accuracies of a model, and their differences from the LLaMA's of the same seeds."""
    rows = [row for row in arithmetic_rows(entry) if row["model"] == name and row["operands"] == int(operands)]
    if not rows:
        return None, None
    row, seeds = rows[0], f"of {len(rows)} seed{'s' * (len(rows) > 1)}"
    over, spread = row["over_llama_mean"], row["over_llama_std"]
    return (f"{100 * row['mean']:.1f} ± {100 * row['std']:.1f} % {seeds}",
            None if over is None else f"{100 * over:+.1f} ± {100 * spread:.1f}, higher in {row['better']}")


def _percent(share, digits):
    return f"{100 * share:+.{digits}f} %" if share else ""


def _shown(value):
    """A cell: lists without brackets, words in quotes, whole numbers to the last digit."""
    if isinstance(value, (list, tuple)):
        return ", ".join(f"{each:.3g}" if isinstance(each, float) else f"“{each}”" if isinstance(each, str)
                         else str(each) for each in value)  # fmt: skip
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) and abs(value) >= 10**6 else value
