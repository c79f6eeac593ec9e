"""Semantic circuits (table 2 of version 1): which tokens make a dynamic router read which representation."""

import numpy as np

from llmc.analysis.lime.router_weights import router_weights
from llmc.analysis.lime.routers import DYNAMIC, lime_norms_of, logits_of_tokens, routers_of
from llmc.analysis.lime.given import require_model
from llmc.calls import public
from llmc.checks import whole
from llmc.errors import ConfigError, DataError
from llmc.weights.stored import Readable

AT_ONCE = 4096  # rows of the embedding
LEAST = 1e-3  # of a prior that is looked at
FIFTHS = (0.2, 0.4, 0.6, 0.8)


@public
def circuits(model, tokenizer=None, ids=None, attention_mask=None, top_k=5, first_layer=1, per_bin=200):
    """Which tokens make the heads of a dynamic router read which representation.

    Every row of the embedding, divided by the gain of the final norm, goes through a layer's own norm of
    representations and its router: a logit of each token, head and representation.

    Parameters
    ----------
    model : llmc.Model
        A lime1-dynamic.
    tokenizer : optional
        Anything with `decode`; it gives the words.
    ids, attention_mask : as `representations` takes them, optional
        A text on which priors rest: how much every head reads each representation on average. They decide which routes
        are looked at: those to other representations than the layer's own, of a prior of at least 1e-3, the `per_bin`
        largest in each fifth.
    top_k : int
        Tokens of a route.
    first_layer : int
    per_bin : int

    Returns
    -------
    list of dict
        `layer, representation, head`; `tokens`, the ids of the largest logits, best first, and `logits`, theirs;
        `words`, or None; `prior` and `bin` (0 to 4), or None without `ids`. In the order of layer, representation and
        head, or with `ids` of bins, the largest prior first.

    Raises
    ------
    ConfigError
        For another family, or numbers outside of their ranges.
    DataError, ShapeError, TypeError
        For a text that cannot be used, weights that are not finite.
    """
    require_model(model, "circuits")
    kind, routers = routers_of(model)
    if kind != DYNAMIC:
        raise ConfigError(f"circuits are of routers that look at tokens, a lime1-dynamic's; a "
                          f"{model.config.model_type} has none")  # fmt: skip
    top_k = whole(top_k, "top_k", 1, model.config.vocab_size)
    first_layer = whole(first_layer, "first_layer", 0, model.config.num_hidden_layers - 1)
    per_bin = whole(per_bin, "per_bin", 1)
    if tokenizer is not None and not hasattr(tokenizer, "decode"):
        raise TypeError(f"tokenizer is {type(tokenizer).__name__}, which cannot decode")
    layers = [layer for layer in sorted(routers) if layer >= first_layer]
    priors = None if ids is None else router_weights(model, ids, attention_mask)["weights"]
    routes = every_route(layers, model.config.num_attention_heads) if ids is None \
        else likely_routes(priors, layers, per_bin)  # fmt: skip
    found, gains = {}, lime_norms_of(model)
    for layer in sorted({layer for layer, *_ in routes}):
        logits = token_logits(*_embedding_of(model), gains[layer], routers[layer], model.config.norm_eps)
        found[layer] = logits.reshape(len(logits), -1, layer + 1)
    return [_row(route, found[route[0]], priors, tokenizer, top_k) for route in routes]


def every_route(layers, heads):
    """(layer, representation, head) of all routes, in this order."""
    return [(layer, m, head) for layer in layers for m in range(layer + 1) for head in range(heads)]


def likely_routes(priors, layers, per_bin):
    """(layer, representation, head) of the routes to look at, bin by bin, the largest prior first.

    Parameters
    ----------
    priors : (L, heads, L)
    layers : list of int
    per_bin : int
    """
    bins = [[] for _ in range(len(FIFTHS) + 1)]
    for layer, m, head in every_route(layers, priors.shape[1]):
        if m != layer and priors[layer, head, m] >= LEAST:
            bins[bin_of(priors[layer, head, m])].append((layer, m, head))
    return [route for each in bins
            for route in sorted(each, key=lambda at: -priors[at[0], at[2], at[1]])[:per_bin]]  # fmt: skip


def bin_of(prior):
    """The fifth of a prior, 0 to 4; an upper end belongs to it."""
    return int(np.searchsorted(FIFTHS, prior, side="left"))


def token_logits(embedding, final_gain, gain, projection, eps):
    """The logits of every token, (V, H*(r+1)) float64.

    Parameters
    ----------
    embedding : (V, C)
    final_gain : (C,)
        Of the final norm, which a row is divided by.
    gain : (C,)
        Of the norm of representations.
    projection : (H*(r+1), C)
    eps : float
    """
    found = np.empty((len(embedding), len(projection)))
    for start in range(0, len(embedding), AT_ONCE):
        rows = embedding[start : start + AT_ONCE].astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            found[start : start + AT_ONCE] = logits_of_tokens(rows / final_gain, gain, projection, eps)
    if not np.isfinite(found).all():
        raise DataError("the logits of tokens are not finite: the embedding, a norm or a router holds such numbers, or "
                        "the final norm has a gain of 0")  # fmt: skip
    return found


def largest(logits, count):
    """The places of the largest of (V,) logits, best first; of equal ones the first goes before."""
    least = np.partition(logits, len(logits) - count)[len(logits) - count]
    places = np.flatnonzero(logits >= least)
    return places[np.argsort(-logits[places], kind="stable")][:count]


def _embedding_of(model):
    """The embedding as it is stored, and the gain of the final norm."""
    stored, parts = Readable(model._stored_tensors()), model.config.spec()["names"]
    return (stored[f"{model._model.embedding_name}.weight"],
            stored[f"{parts['root']}.{parts['final_norm']}.weight"].astype(np.float64))  # fmt: skip


def _row(route, logits, priors, tokenizer, top_k):
    layer, m, head = route
    tokens = largest(logits[:, head, m], top_k)
    prior = None if priors is None else float(priors[layer, head, m])
    return {"layer": layer, "representation": m, "head": head, "tokens": tokens.tolist(),
            "logits": logits[tokens, head, m].tolist(),
            "words": None if tokenizer is None else [tokenizer.decode([token]) for token in tokens.tolist()],
            "prior": prior, "bin": None if prior is None else bin_of(prior)}  # fmt: skip
