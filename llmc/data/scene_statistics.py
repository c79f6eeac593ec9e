"""What scenes hold: how many, how long, which fields in how many of them, and what stands in those."""

import math
import numbers

import numpy as np

from llmc.data.scene_rendering import RESPONSE, TEMPLATE, as_text
from llmc.show.table import Table

COUNTED = ("scenes", "files", "skipped", "tokens", "learnt_tokens", "tokens_min", "tokens_median", "tokens_max",
           "duplicates")


def statistics_of(scenes, renderings, spans=None, lengths=(), learnt=0, skipped=0):
    """The statistics of scenes.

    Parameters
    ----------
    scenes : list of Scene
    renderings : list of Rendering
    spans : list of lists of dict, optional
        Of each scene's tokens; None: there is no tokenizer, and what counts tokens is None.
    lengths : list of int
        Tokens of each.
    learnt : int
        Labels that count.
    skipped : int

    Returns
    -------
    dict
    """
    tokens = sum(lengths) if spans is not None else None
    lengths = lengths if len(lengths) else [None]
    responses = [as_text(scene.response) for scene in scenes]
    return {
        "scenes": len(scenes), "files": len({scene.file for scene in scenes if scene.file is not None}),
        "skipped": skipped, "tokens": tokens, "learnt_tokens": None if spans is None else learnt,
        "tokens_min": None if spans is None else min(lengths),
        "tokens_median": None if spans is None else float(np.median(lengths)),
        "tokens_max": None if spans is None else max(lengths),
        "duplicates": len(responses) - len(set(responses)), "fields": _fields(renderings, spans, tokens),
        "intents": _intents(scenes), "tension": _tension(scenes),
    }  # fmt: skip


def table_of(found):
    """The statistics as text: three tables."""
    rows = [{"what": name.replace("_", " "), "value": _brief(found[name])} for name in COUNTED
            if found[name] is not None]  # fmt: skip
    if found["tension"]:
        tension = found["tension"]
        rows.append({"what": "arch_tension", "value": f"{tension['min']:.4g} to {tension['max']:.4g}, mean "
                                                      f"{tension['mean']:.4g}, in {tension['scenes']:,}"})
    columns = ["field", "scenes", "distinct"] + ["tokens", "share"] * (found["tokens"] is not None)
    fields = [{"field": name, **row, "share": None if row["share"] is None else f"{row['share']:.1%}"}
              for name, row in found["fields"].items()]  # fmt: skip
    intents = [{"intent": name, **row} for name, row in found["intents"].items()]
    pieces = [Table(["what", "value"], rows), Table(columns, fields)]
    pieces += [Table(["intent", "scenes", "mean"], intents)] if intents else []
    return "\n\n".join(map(str, pieces))


def _brief(value):
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def _fields(renderings, spans, tokens):
    """{name: {scenes, tokens, share, distinct}}, the fields in order of rendering."""
    texts, sizes = {}, {}
    for rendering in renderings:
        own = {}
        for name, _, start, stop in rendering.spans:
            own[name] = own.get(name, "") + rendering.text[start:stop]
        for name, text in own.items():
            texts.setdefault(name, []).append(text)
    for row in spans or ():
        for span in row:
            sizes[span["field"]] = sizes.get(span["field"], 0) + span["stop"] - span["start"]
    order = sorted(texts.keys() | sizes.keys(), key=lambda name: (name in (TEMPLATE, RESPONSE), name == RESPONSE,
                                                                   [*texts, *sizes].index(name)))  # fmt: skip
    return {name: {"scenes": len(texts.get(name, ())), "tokens": None if spans is None else sizes.get(name, 0),
                   "share": None if spans is None else sizes.get(name, 0) / tokens,
                   "distinct": len(set(texts.get(name, ())))} for name in order}  # fmt: skip


def _intents(scenes):
    """{name: {scenes, mean}} of the intents that are mappings, or lists of texts."""
    found = {}
    for scene in scenes:
        intents = {**scene.fields, **scene.unrendered}.get("intent_vector")
        if isinstance(intents, list) and all(isinstance(name, str) for name in intents):
            intents = dict.fromkeys(intents)
        if isinstance(intents, dict):
            for name, value in intents.items():
                found.setdefault(str(name), []).append(value)
    return {name: {"scenes": len(values), "mean": _mean([value for value in values if _is_number(value)])}
            for name, values in found.items()}  # fmt: skip


def _tension(scenes):
    values = [{**scene.fields, **scene.unrendered}.get("arch_tension") for scene in scenes]
    values = [value for value in values if _is_number(value)]
    return {"scenes": len(values), "min": min(values), "mean": _mean(values), "max": max(values)} if values else None


def _is_number(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _mean(values):
    return math.fsum(values) / len(values) if values else None
