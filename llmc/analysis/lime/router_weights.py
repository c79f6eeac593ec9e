"""Router weights: how much every head of every layer reads each representation."""

import numpy as np

from llmc.analysis.lime.given import require_model, texts
from llmc.analysis.lime.passes import outputs
from llmc.analysis.lime.pruning import top_p_weights
from llmc.analysis.lime.routers import DYNAMIC, ROUTED, lime_norms_of, logits_of_tokens, routers_of, softmax
from llmc.calls import public
from llmc.errors import ConfigError
from llmc.run import Run


@public
def router_weights(model, ids=None, attention_mask=None):
    """How much every head of every layer reads each representation.

    Parameters
    ----------
    model : llmc.Model
        A layer without a router, and every layer of a family that has none, reads its own representation.
    ids : (B, T) or (T,) integers, or an iterable of such arrays, optional
        Routers that look at the token (lime1-dynamic) need a text: their mean over its tokens is taken.
    attention_mask : as `ids`, optional
        Padding counts nowhere.

    Returns
    -------
    dict
        "weights" : (L, heads, L) float64, of layer r, head h, representation m; rows sum to 1, m > r is 0. Routed heads
        (lime), whose weights have no sign that could be told: the mean over the read heads of their sizes, divided by
        its sum over m; a head that reads nothing has zeros. Softmax routers: their probabilities, after top-p pruning.
        "layers" : (L, L) float64, of whole layers: the mean over heads; of routed heads the mean of all sizes, divided
        by its sum.

    Raises
    ------
    ConfigError
        When the routers look at tokens and there are no ids.
    DataError, ShapeError, TypeError
        For a text that cannot be used, or what is no model.
    """
    require_model(model, "router_weights")
    kind, routers = routers_of(model)
    if kind == DYNAMIC:
        if ids is None:
            raise ConfigError(f"the routers of a {model.config.model_type} look at tokens: give ids, a text to read")
        routers = _mean_probabilities(model, routers, texts(model, ids, attention_mask))
    elif kind not in (ROUTED, None):
        routers = {layer: pruned_softmax(theta, model.config.router_top_p) for layer, theta in routers.items()}
    return placed(kind, routers, model.config.num_hidden_layers, model.config.num_key_value_heads)


def placed(kind, routers, layers, heads):
    """The arrays that `router_weights` returns, of {layer: routed weights (G, (r+1)*G), or probabilities (H, r+1)}."""
    weights, of_layers = np.zeros((layers, heads, layers)), np.zeros((layers, layers))
    for layer in range(layers):
        if layer not in routers:
            weights[layer, :, layer] = of_layers[layer, layer] = 1
            continue
        by_head, whole = of_routed_heads(routers[layer]) if kind == ROUTED \
            else (routers[layer], routers[layer].mean(axis=0))  # fmt: skip
        weights[layer, :, : layer + 1], of_layers[layer, : layer + 1] = by_head, whole
    return {"weights": weights, "layers": of_layers}


def of_routed_heads(router):
    """Shares of representations in a router's sizes: of each head (G, r+1), and of all together (r+1,).

    Parameters
    ----------
    router : (G, (r+1)*G)
    """
    sizes = np.abs(router).reshape(len(router), -1, len(router)).mean(axis=-1)
    return _shares(sizes), _shares(sizes.mean(axis=0))


def pruned_softmax(theta, top_p):
    """The probabilities of logits (H, r+1), pruned unless `top_p` is None."""
    return softmax(theta) if top_p is None else top_p_weights(theta, top_p)[0]


def _shares(sizes):
    total = sizes.sum(axis=-1, keepdims=True)
    return np.divide(sizes, total, out=np.zeros_like(sizes), where=total > 0)


def _mean_probabilities(model, projections, given):
    """{layer: the mean over tokens of what a dynamic router gives, (H, r+1)}."""
    blocks = [name for name, (part, _) in Run(model, 1, 1).parts().items() if part == "block"]
    gains, heads, eps = lime_norms_of(model), model.config.num_attention_heads, model.config.norm_eps
    sums, count = {layer: np.zeros((heads, layer + 1)) for layer in projections}, 0
    for chosen, streams in outputs(model, given, blocks[: max(projections)]):
        count += int(np.count_nonzero(chosen))
        for layer, projection in projections.items():
            read = streams[layer - 1][chosen].astype(np.float64)
            logits = logits_of_tokens(read, gains[layer], projection, eps)
            sums[layer] += softmax(logits.reshape(len(read), heads, layer + 1)).sum(axis=0)
    return {layer: total / count for layer, total in sums.items()}
