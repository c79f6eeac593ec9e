"""t-SNE (figures 6 and 15): the representations of some tokens laid out in the plane, layer by layer."""

import numpy as np

from llmc.analysis.lime.given import require_model, texts, token_ids, word
from llmc.analysis.lime.representations import OF
from llmc.analysis.lime.token_rows import token_rows
from llmc.calls import public
from llmc.checks import number, whole
from llmc.errors import ConfigError, shown
from llmc.show import clouds, picture


@public
def tsne(model, ids, tokens, attention_mask=None, of="values", layers=None, count=None, perplexity=30.0, seed=42,
         plot=None):  # fmt: skip
    """The representations of some tokens in the plane, by scikit-learn's t-SNE.

    Parameters
    ----------
    model, ids, attention_mask, of
        As `representations` takes them.
    tokens : list of int
        Ids. As many rows of each are taken as the rarest has, the first ones in reading order, scaled to length 1.
    layers : list of int, optional
        By default all.
    count : int, optional
        The most rows of a token.
    perplexity : float
        Below the number of rows.
    seed : int
    plot : path, optional
        A panel of each layer, as a .png, .pdf or .svg.

    Returns
    -------
    dict
        "points" : (layers, n, 2) float64
        "labels" : (n,) int64, the token of each point.
        "layers" : list of int

    Raises
    ------
    ImportError
        Without scikit-learn.
    DataError
        For a token that does not occur.
    UnknownNameError, ConfigError, ShapeError, TypeError
        As elsewhere.
    """
    require_model(model, "tsne")
    word(of, "of", OF)
    tokens = token_ids(tokens, model.config.vocab_size, least=1)
    layers = _layers(layers, model.config.num_hidden_layers)
    perplexity, seed = number(perplexity, "perplexity", 0, open_low=True), whole(seed, "seed", most=2**32 - 1)
    if plot is not None:
        picture.ending(plot)
    projection = _projection()
    rows, n = token_rows(model, texts(model, ids, attention_mask), tokens, of, count, 1)
    if perplexity >= len(tokens) * n:
        raise ConfigError(f"perplexity is {perplexity:g}, not below {len(tokens) * n}, the rows there are; lower it, "
                          f"or give more text")  # fmt: skip
    points = np.array([projection(n_components=2, perplexity=perplexity, random_state=seed)
                       .fit_transform(_of_length_one(rows[layer])) for layer in layers], np.float64)  # fmt: skip
    found = {"points": points, "labels": np.repeat(np.array(tokens), n), "layers": layers}
    if plot is not None:
        draw_clouds({"": found}, plot, f"t-SNE of {of.replace('_', ' ')}")
    return found


def draw_clouds(found, path, title, words=None):
    """Draw {name of a model: what `tsne` returns}, a row each.

    Parameters
    ----------
    words : {token: its name}, optional
    """
    labels = [int(token) for each in found.values() for token in each["labels"]]
    names = {token: f"token {token}" if words is None else words[token] for token in dict.fromkeys(labels)}
    rows = {name: [(np.asarray(points, float), np.asarray(each["labels"])) for points in each["points"]]
            for name, each in found.items()}  # fmt: skip
    columns = max((each["layers"] for each in found.values()), key=len)
    clouds.draw(rows, names, path, title, [f"layer {layer}" for layer in columns])


def _layers(layers, count):
    if layers is None:
        return list(range(count))
    if isinstance(layers, (str, bytes)) or not hasattr(layers, "__iter__"):
        raise TypeError(f"layers are numbers of layers, a list of them, not {shown(layers)}")
    found = [whole(layer, f"layers[{at}]", 0, count - 1) for at, layer in enumerate(layers)]
    if not found:
        raise ConfigError("layers are [], not at least one layer")
    return found


def _projection():
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        raise ImportError("tsne needs scikit-learn: pip install 'llmc[lime]', or pip install scikit-learn") from None
    return TSNE


def _of_length_one(rows):
    """Rows scaled to length 1, float64; one of zeros stays."""
    rows = rows.astype(np.float64)
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(length > 0, length, 1)
