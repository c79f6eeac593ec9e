"""Retrieval curves (figures 2, 3, 4, 9 and 10): which representations later layers read, and how much their own."""

import numpy as np

from llmc.analysis.lime.router_weights import router_weights
from llmc.calls import public
from llmc.show import picture
from llmc.show.curves import Panel, Series, draw


@public
def retrieval_curves(model, ids=None, attention_mask=None, plot=None):
    """What the routers of a model come to, by layer and by representation.

    Parameters
    ----------
    model, ids, attention_mask
        As `router_weights` takes them.
    plot : path, optional
        The three curves, as a .png, .pdf or .svg.

    Returns
    -------
    dict of float64 arrays
        "mean_retrieval" : (L,), how much the layers behind a representation's own read it on average; NaN for the last.
        "self_retrieval" : (L,), how much a layer reads its own representation; 1 is ordinary attention.
        "self_retrieval_heads" : (L, heads), the same of each head.
        "expected_representation" : (L,), the mean number of the representation that a layer reads.

    Raises
    ------
    ConfigError, DataError, ShapeError, TypeError, ImportError
        As `router_weights`, and as a picture does.
    """
    if plot is not None:
        picture.ending(plot)
    found = curves_of(router_weights(model, ids, attention_mask))
    if plot is not None:
        draw([mean_retrieval_panel({"": found["mean_retrieval"]}),
              self_retrieval_panel({"": found["self_retrieval"]}, {"": found["self_retrieval_heads"]}),
              expected_panel({"": found["expected_representation"]})], plot,
             f"What the layers of a {model.config.model_type} read")  # fmt: skip
    return found


def curves_of(found):
    """The curves of what `router_weights` returns."""
    weights, layers = found["weights"], found["layers"]
    L = len(layers)
    numbers = np.arange(L)
    mean = np.array([layers[m + 1 :, m].mean() if m + 1 < L else np.nan for m in range(L)])
    return {"mean_retrieval": mean, "self_retrieval": layers[numbers, numbers].copy(),
            "self_retrieval_heads": weights[numbers, :, numbers].copy(),
            "expected_representation": layers @ numbers}  # fmt: skip


# --- panels, of {name of a model: values} ----------------------------------------------------------------------------
def mean_retrieval_panel(values):
    """How much later layers read each representation (figure 2)."""
    return Panel("Mean retrieval by later layers", "representation (0: embeddings)", "mean weight",
                 [_series(name, each) for name, each in values.items()], bounds=(0, None))  # fmt: skip


def self_retrieval_panel(values, heads=None):
    """How much a layer reads itself (figure 10), with each head as a point (figure 3)."""
    series = [_series(name, each, beside=None if heads is None else np.asarray(heads[name], float))
              for name, each in values.items()]  # fmt: skip
    title = "Self-retrieval" if heads is None else "Self-retrieval, each head a point"
    return Panel(title, "layer", "weight of the own representation", series, bounds=(0, 1.04))


def expected_panel(values):
    """The mean number of what a layer reads (figure 4), beside that of ordinary attention."""
    most = max(len(each) for each in values.values()) - 1
    return Panel("Expected representation", "layer", "mean number of what it reads",
                 [_series(name, each) for name, each in values.items()],
                 reference=((0, most), (0, most), "ordinary attention"))  # fmt: skip


def pruned_panel(found):
    """Mean retrieval and self-retrieval of one model in one pair of axes (figure 9), in the paper's colours."""
    colours = {"mean_retrieval": "#2b9a72", "self_retrieval": "#e0762f"}
    series = [Series(np.arange(len(found[key])), found[key], key.replace("_", " "), colour=colour)
              for key, colour in colours.items()]  # fmt: skip
    return Panel("Retrieval after pruning", "layer, representation", "weight", series, bounds=(0, None))


def _series(name, values, beside=None):
    values = np.asarray(values, float)
    return Series(np.arange(len(values)), values, name, beside=beside)
