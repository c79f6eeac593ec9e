"""Representations: what every token is in every layer, as the value heads or the residual stream have it."""

import numpy as np

from llmc.analysis.lime.given import require_model, texts, word
from llmc.analysis.lime.passes import outputs
from llmc.analysis.stream import sum_of_streams
from llmc.calls import public
from llmc.run import Run

OF = ("values", "own_values", "hiddens")


@public
def representations(model, ids, attention_mask=None, of="values", select=None):
    """What every token is in every layer.

    Parameters
    ----------
    model : llmc.Model
    ids : (B, T) or (T,) integers, or an iterable of such arrays
        A mapping with `input_ids` and its own `attention_mask` may stand for an array.
    attention_mask : as `ids`, optional
    of : {"values", "own_values", "hiddens"}
        "values": what attention weighs, all key/value heads side by side, routed ones in a LIMe. "own_values": what the
        layer's own projection gives. "hiddens": the stream that leaves each block, the last before the final norm; of
        several streams (Hyper-Connections) their sum.
    select : as `ids`, booleans, optional
        Only those tokens.

    Returns
    -------
    (L, N, width) float32
        N: the tokens that are not padding, in row order. This array alone is held, beside one pass's.

    Raises
    ------
    UnknownNameError
        For another word than those.
    DataError, ShapeError, TypeError
        For an empty text, nothing but padding, nothing selected, arrays that do not belong together.
    """
    require_model(model, "representations")
    word(of, "of", OF)
    return gathered(model, texts(model, ids, attention_mask, select), of)


def gathered(model, given, of):
    """The representations of texts' tokens that count, (L, N, width) float32."""
    count = sum(int(np.count_nonzero(text.chosen)) for text in given)
    found, start = None, 0
    for chosen, layers in looked_at(model, given, of):
        end = start + int(np.count_nonzero(chosen))
        for layer, array in enumerate(layers):
            if found is None:
                found = np.empty((len(layers), count, array.shape[-1]), np.float32)
            found[layer, start:end] = array[chosen]
        start = end
    return found


def looked_at(model, given, of):
    """Yields pieces of texts: which tokens count (n, t), and of each layer a view (n, t, width), as `outputs` does."""
    names = _places(model, of)
    for chosen, views in outputs(model, given, names):
        yield chosen, [_features(view, model.config, of) for view in views]


def _places(model, of):
    """The hook point of each layer where the representations are seen."""
    layers = [{} for _ in range(model.config.num_hidden_layers)]
    for name, (part, layer) in Run(model, 1, 1).parts().items():
        if layer is not None:
            layers[layer].setdefault(part, []).append(name)
    return [_place(parts, of) for parts in layers]


def _place(parts, of):
    if of == "hiddens":
        return parts["block"][0]
    routed = [name for name in parts.get("router", ()) if name.endswith(".values")]
    if of == "values" and routed:
        return routed[0]
    return (parts.get("v") or parts["qkv"])[0]


def _features(view, config, of):
    """Values that are the last third of a fused projection; the sum of several streams."""
    if of != "hiddens":
        return view[..., -config.num_key_value_heads * config.head_dim :]
    return sum_of_streams(view, config.hidden_size)
