"""The fifteen figures of LIMe's paper and the arithmetic task's, each drawn from its entry in numbers.json."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from llmc.analysis.lime.loss_per_flops import losses_panel
from llmc.analysis.lime.matrix_entropy import entropy_panel
from llmc.analysis.lime.retrieval_curves import (
    expected_panel,
    mean_retrieval_panel,
    pruned_panel,
    self_retrieval_panel,
)
from llmc.analysis.lime.router_heatmap import draw_maps
from llmc.analysis.lime.token_separability import separability_panel
from llmc.analysis.lime.tsne import draw_clouds
from llmc.show.curves import Panel, Series, draw

MODELS = ("llama", "lime", "lime1-static", "lime1-dynamic", "lime1-top-p", "hc", "hc-paper", "llama-kv", "lime-fair",
          "lime-kv")  # each has one colour in all figures
WIDE, SMALL = (8.2, 4.4), (3.9, 2.9)  # inches: a panel alone, and one of many


@dataclass(frozen=True)
class Drawing:
    """One figure.

    Attributes
    ----------
    file : str
        Its name without the ending.
    title, caption : str
        What it is, and what there is to see.
    draw : callable
        Takes the entry of numbers.json, a path, and {token: word} or None.
    """

    file: str
    title: str
    caption: str
    draw: Callable


def write_pictures(numbers, out, keys=None, words=None):
    """Draw the figures of which there are numbers.

    Parameters
    ----------
    numbers : dict
        What numbers.json holds.
    out : path
        A folder that is there.
    keys : iterable of str, optional
        "fig01" … "fig15", "aet", "aet_curves"; by default all.
    words : {token: str}, optional
        What the clouds of tokens are called.

    Returns
    -------
    list of str
        The files, in the order of the figures.
    """
    wanted = DRAWINGS.keys() if keys is None else set(keys)
    written = []
    for key, drawing in DRAWINGS.items():
        if key in wanted and numbers.get(key):
            written.append(os.path.join(out, f"{drawing.file}.png"))
            drawing.draw(numbers[key], written[-1], words)
    return written


def file_of(key):
    """The file name of a figure."""
    return f"{DRAWINGS[key].file}.png"


# --- each figure's way -----------------------------------------------------------------------------------------------
def _alone(panel_of):
    """One panel of {name: values}."""
    return lambda entry, path, words: draw([panel_of(entry)], path, size=WIDE, known=MODELS)


def _losses(by):
    return _alone(lambda entry: losses_panel(entry, by))


def _entropy(of):
    return _alone(lambda entry: entropy_panel(_arrays(entry), of))


def _separability(of):
    return _alone(lambda entry: separability_panel(_arrays(entry), of))


def _clouds(of):
    return lambda entry, path, words: draw_clouds(_known(entry, words), path, f"t-SNE of {of}", words)


def _each_head(entry, path, words):
    """A panel of each model: every head a point, their mean a line."""
    panels = []
    for name, heads in entry.items():
        heads = np.asarray(heads, float)
        panel = self_retrieval_panel({"": heads.mean(axis=1)}, {"": heads})
        panels.append(Panel(name, panel.x, "own weight", panel.series, bounds=panel.bounds))
    draw(panels, path, "Self-retrieval, each head a point", size=SMALL)


def _pruned(entry, path, words):
    draw([pruned_panel(_floats(entry))], path, size=WIDE)


def _maps(entry, path, words):
    draw_maps(entry, path, "Router weights, layer by layer")


def _deep_maps(entry, path, words):
    draw_maps({"": entry}, path, f"Router weights of {len(entry)} layers")


def _accuracies(entry, path, words):
    """Each model's mean over seeds at every number of operands, with the seeds as points, models side by side."""
    operands = sorted({int(number) for each in entry.values() for number in each})
    most = max(len(found) for each in entry.values() for found in each.values())
    series = []
    for place, (name, each) in enumerate(entry.items()):
        seeds = np.full((len(operands), most), np.nan)
        for line, number in enumerate(operands):
            found = each.get(str(number), [])
            seeds[line, : len(found)] = found
        there = ~np.isnan(seeds).all(axis=1)
        x = np.array(operands, float)[there] + 0.07 * (place - (len(entry) - 1) / 2)
        series.append(Series(x, np.nanmean(seeds[there], axis=1), name, beside=seeds[there]))
    panel = Panel("Arithmetic task: right answers in free generation, each seed a point", "operands",
                  "share of right answers", series, bounds=(0, 1.03))  # fmt: skip
    draw([panel], path, size=WIDE, known=MODELS)


def _courses(entry, path, words):
    """A panel for every number of operands: each model's mean over seeds, and their deviation as a band."""
    panels = []
    for number in sorted({int(number) for each in entry.values() for number in each}):
        series = []
        for name, each in entry.items():
            if found := each.get(str(number)):
                losses = np.asarray(found["losses"], float)
                series.append(Series(np.asarray(found["steps"], float), losses.mean(axis=0), name,
                                     spread=losses.std(axis=0)))
        panels.append(Panel(f"{number} operands", "optimizer step", "held-out loss (nats per token)", series,
                            whole=False))
    draw(panels, path, "The arithmetic task over training", known=MODELS)


def _floats(entry):
    """{key: array}, null as NaN."""
    return {key: np.asarray(value, float) for key, value in entry.items()}


def _arrays(entry):
    return {name: _floats(each) for name, each in entry.items()}


def _known(entry, words):
    """The points whose tokens have a word, where words are given."""
    if words is None:
        return entry
    keep = {name: np.isin(each["labels"], list(words)) for name, each in entry.items()}
    return {name: {"points": np.asarray(each["points"], float)[:, keep[name]],
                   "labels": np.asarray(each["labels"])[keep[name]], "layers": each["layers"]}
            for name, each in entry.items()}  # fmt: skip


DRAWINGS = {
    "fig01": Drawing("fig01_loss_per_flops", "Figure 1: loss per FLOP",
                     "The course of the training loss (over single steps, light) against all FLOPs spent, forward and "
                     "backward, in the authors' convention.", _losses("flops")),
    "fig02": Drawing("fig02_mean_retrieval", "Figure 2: mean retrieval",
                     "How much the layers behind a representation read it, on average. The last one has none behind "
                     "it.", _alone(mean_retrieval_panel)),
    "fig03": Drawing("fig03_self_retrieval_heads", "Figure 3: self-retrieval of each head",
                     "How much each head reads its own layer's representation; 1 is ordinary attention. The line is "
                     "the mean.", _each_head),
    "fig04": Drawing("fig04_expected_representation", "Figure 4: expected representation",
                     "The mean number of the representation that a layer reads, beside that of ordinary attention: "
                     "the further below, the further back it reads.", _alone(expected_panel)),
    "fig05": Drawing("fig05_entropy_values", "Figure 5: matrix entropy of values",
                     "How many directions the values that attention weighs fill, in nats; the band is the deviation "
                     "over sequences.", _entropy("values")),
    "fig06": Drawing("fig06_tsne_values", "Figure 6: t-SNE of values",
                     "The values of similar tokens, laid out in the plane layer by layer; distances between clouds "
                     "mean little.", _clouds("values")),
    "fig07": Drawing("fig07_separability_values", "Figure 7: separability of values",
                     "How well a linear classifier tells similar tokens apart by their values, on tokens it has not "
                     "seen; the band is the deviation over folds.", _separability("values")),
    "fig08": Drawing("fig08_deep_losses", "Figure 8: losses of deep models",
                     "The course of the training loss against tokens, at three depths.", _losses("tokens")),
    "fig09": Drawing("fig09_pruned_retrieval", "Figure 9: retrieval of the deepest pruned model",
                     "Mean retrieval of a representation and self-retrieval of a layer, after top-p pruning.", _pruned),
    "fig10": Drawing("fig10_self_retrieval", "Figure 10: self-retrieval",
                     "How much a layer reads its own representation; 1 is ordinary attention.",
                     _alone(self_retrieval_panel)),
    "fig11": Drawing("fig11_entropy_hiddens", "Figure 11: matrix entropy of hidden states",
                     "As figure 5, of the stream that leaves each block.", _entropy("hiddens")),
    "fig12": Drawing("fig12_separability_hiddens", "Figure 12: separability of hidden states",
                     "As figure 7, of the stream that leaves each block.", _separability("hiddens")),
    "fig13": Drawing("fig13_router_heatmaps", "Figure 13: router heat maps",
                     "Every head's weights of representations, layer by layer; of dynamic routers the mean over "
                     "tokens.", _maps),
    "fig14": Drawing("fig14_deep_heatmap", "Figure 14: router heat maps of the deepest pruned model",
                     "Up to 24 layers a map of each layer, of deeper models a map of each head.", _deep_maps),
    "fig15": Drawing("fig15_tsne_hiddens", "Figure 15: t-SNE of hidden states",
                     "As figure 6, of the stream that leaves each block.", _clouds("hiddens")),
    "aet": Drawing("aet", "The arithmetic task",
                   "The share of held-out expressions whose value a model writes, steps and all; each seed a point, "
                   "the mean a line.", _accuracies),
    "aet_curves": Drawing("aet_curves", "The arithmetic task over training",
                          "The loss of the working on held-out expressions; lines are means over seeds, bands their "
                          "deviation.", _courses),
}  # fmt: skip
