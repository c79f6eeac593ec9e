"""Pruning (table 5 of version 1): how many routes of static routers are left out at a sum of probabilities."""

import numpy as np

from llmc.analysis.lime.routers import routers_of, softmax
from llmc.calls import public
from llmc.checks import number
from llmc.config import Config
from llmc.errors import ConfigError, DataError, ShapeError
from llmc.inputs import as_array
from llmc.model import Model

TOP_P = 0.9  # the paper's


@public
def top_p_weights(theta, top_p):
    """The smallest set of a head's most probable representations whose sum exceeds `top_p`.

    Parameters
    ----------
    theta : (heads, n)
        Logits. Of equal ones the first goes before.
    top_p : float
        0 < top_p <= 1; 1 keeps all.

    Returns
    -------
    weights : (heads, n) float64
        The kept probabilities divided by their sum; the others are 0.
    kept : (heads, n) bool

    Raises
    ------
    ShapeError, DataError, ConfigError, TypeError
        For what are no logits of heads, numbers that are not finite, or a sum outside of its range.
    """
    top_p = _checked(top_p)
    theta = as_array(theta, "theta")
    if theta.dtype.kind not in "fiu":
        raise TypeError(f"theta is logits, numbers, not {theta.dtype}")
    if theta.ndim != 2 or not theta.size:
        raise ShapeError(f"theta has shape {theta.shape}; (heads, representations) is needed")
    if not np.isfinite(theta).all():
        raise DataError("theta holds numbers that are not finite")
    probabilities = softmax(theta.astype(np.float64))
    kept = _most_probable(probabilities, top_p)
    weights = np.where(kept, probabilities, 0)
    return weights / weights.sum(axis=-1, keepdims=True), kept


@public
def pruning(model_or_config, top_p=None):
    """What top-p pruning leaves out of the routers of a `lime1-static`.

    Parameters
    ----------
    model_or_config : llmc.Model or llmc.Config
    top_p : float, optional
        By default that of the configuration, else 0.9.

    Returns
    -------
    dict
        "pruned" : int, and "pruned_by_layer" : (L,) int64, routes left out.
        "kept" : list of (H, r+1) bool, one of each layer r >= 1.
        "weights" : int, H * sum of (r+1), the routes there are.
        "table_total" : int, H * L * (L-1), the denominator of the paper's table.
        "share", "table_share" : float, `pruned` of each.
        Of a configuration alone the two totals; the others are None.

    Raises
    ------
    ConfigError
        For another family, which has no such routers, or a `top_p` outside of 0 to 1.
    TypeError
        For neither a model nor a configuration.
    """
    if not isinstance(model_or_config, (Model, Config)):
        raise TypeError(f"pruning counts routes of a llmc.Model or a llmc.Config, not of "
                        f"{type(model_or_config).__name__}")  # fmt: skip
    is_model = isinstance(model_or_config, Model)
    config = model_or_config.config if is_model else model_or_config
    if not hasattr(config, "router_top_p"):
        raise ConfigError(f"pruning is of the softmax routers of a lime1-static; a {config.model_type} has none")
    top_p = _checked(config.router_top_p or TOP_P if top_p is None else top_p)
    totals = route_totals(config.num_hidden_layers, config.num_attention_heads)
    if not is_model:
        return dict.fromkeys(("pruned", "pruned_by_layer", "kept")) | totals | dict.fromkeys(("share", "table_share"))
    _, routers = routers_of(model_or_config)
    return count_pruned(routers, config.num_hidden_layers, config.num_attention_heads, top_p)


def route_totals(layers, heads):
    """Routes of all heads: those that there are, and the denominator of the paper's table 5."""
    return {"weights": heads * (layers * (layers + 1) // 2 - 1), "table_total": heads * layers * (layers - 1)}


def count_pruned(routers, layers, heads, top_p):
    """What `pruning` returns, of {layer: logits (heads, layer+1)}."""
    kept = [top_p_weights(routers[layer], top_p)[1] for layer in range(1, layers)]
    by_layer = np.array([0] + [int(np.count_nonzero(~each)) for each in kept])
    pruned, totals = int(by_layer.sum()), route_totals(layers, heads)
    shares = {name: pruned / totals[of] if totals[of] else 0.0
              for name, of in (("share", "weights"), ("table_share", "table_total"))}  # fmt: skip
    return {"pruned": pruned, "pruned_by_layer": by_layer, "kept": kept} | totals | shares


def _most_probable(probabilities, top_p):
    """Which are kept: sorted falling, all up to the first at which their sum exceeds `top_p`."""
    if top_p == 1:
        return np.ones(probabilities.shape, bool)
    order = np.argsort(-probabilities, axis=-1, kind="stable")
    sums = np.cumsum(np.take_along_axis(probabilities, order, axis=-1), axis=-1)
    before = np.concatenate([np.zeros_like(sums[:, :1]), sums[:, :-1]], axis=-1)
    kept = np.empty(probabilities.shape, bool)
    np.put_along_axis(kept, order, before <= top_p, axis=-1)
    return kept


def _checked(top_p):
    return number(top_p, "top_p", 0, 1, open_low=True)
