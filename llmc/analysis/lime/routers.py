"""The routers of a model, told by the names of their parameters, and the probabilities of those that have some."""

import re

import numpy as np

from llmc.weights.stored import Readable

ROUTED, STATIC, DYNAMIC = "routed heads", "static probabilities", "probabilities of a token"
NORM = "input_layernorm_lime.weight"  # of what a dynamic router reads
_NAMES = {"self_attn.lime_router.static_weights": ROUTED, "attention_router.static_weights": STATIC,
          "attention_router.dynamic_proj.0.weight": DYNAMIC}  # fmt: skip


def routers_of(model):
    """What kind of routers a model has, and their parameters by layer.

    Returns
    -------
    (kind, {layer: float64 array})
        `ROUTED` (G, (layer+1)*G), `STATIC` logits (H, layer+1), `DYNAMIC` (H*(layer+1), C); None and {} without any.
    """
    kind, found, stored = None, {}, Readable(model._stored_tensors())
    for name in stored:
        layer, own = _within(name)
        if own in _NAMES:
            kind, found[layer] = _NAMES[own], stored[name].astype(np.float64)
    return kind, found


def lime_norms_of(model):
    """{layer: the gain of the norm of what its heads mix, (C,) float64}."""
    stored = Readable(model._stored_tensors())
    return {_within(name)[0]: stored[name].astype(np.float64) for name in stored if _within(name)[1] == NORM}


def logits_of_tokens(streams, gain, projection, eps):
    """What a dynamic router makes of tokens.

    Parameters
    ----------
    streams : (n, C) float64
    gain : (C,)
    projection : (H*(r+1), C)
    eps : float

    Returns
    -------
    (n, H*(r+1)) float64
    """
    rstd = 1 / np.sqrt(np.mean(streams**2, axis=-1, keepdims=True) + eps)
    return (streams * rstd * gain) @ projection.T


def softmax(logits):
    """Probabilities over the last axis, float64."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def _within(name):
    """(layer, path within it) of a parameter; (None, "") outside of the layers."""
    match = re.fullmatch(r"(?:.*?\.)?(\d+)\.(.+)", name)
    return (int(match[1]), match[2]) if match else (None, "")

