"""Router heat maps (figures 13 and 14): every head's weights of representations, layer by layer."""

import numpy as np

from llmc.analysis.lime.router_weights import router_weights
from llmc.calls import public
from llmc.show import picture
from llmc.show.matrices import draw

MAPS = 24  # layers of which each has a map of its own


@public
def router_heatmap(model, ids=None, attention_mask=None, plot=None):
    """The router weights of a model, and their picture.

    Parameters
    ----------
    model, ids, attention_mask
        As `router_weights` takes them.
    plot : path, optional
        A .png, .pdf or .svg: up to 24 layers a map of each (heads by representations), of deeper models a map of each
        head (layers by representations).

    Returns
    -------
    dict
        What `router_weights` returns.
    """
    if plot is not None:
        picture.ending(plot)
    found = router_weights(model, ids, attention_mask)
    if plot is not None:
        draw_maps({"": found["weights"]}, plot, f"Router weights of a {model.config.model_type}")
    return found


def draw_maps(weights, path, title):
    """Draw {name of a model: (L, heads, L)}, models of one depth."""
    arrays = {f"{name}, " if name else "": np.asarray(array, float) for name, array in weights.items()}
    by_layer = max(map(len, arrays.values())) <= MAPS
    split, maps = _of_layers if by_layer else _of_heads, {}
    for before, array in arrays.items():
        maps |= split(array, before)
    columns = len(maps) // len(arrays) if len(arrays) > 1 else None  # a row of each model
    draw(maps, path, title, "representation (0: embeddings)", "head" if by_layer else "layer", columns=columns)


def _of_layers(weights, before):
    return {f"{before}layer {layer}": weights[layer][:, : layer + 1] for layer in range(1, len(weights))} \
        or {f"{before}layer 0": weights[0]}  # fmt: skip


def _of_heads(weights, before):
    later = np.arange(weights.shape[2]) > np.arange(len(weights))[:, None]
    return {f"{before}head {head}": np.where(later, np.nan, weights[:, head]) for head in range(weights.shape[1])}
