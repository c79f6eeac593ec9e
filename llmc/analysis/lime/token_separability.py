"""Token separability (figures 7 and 12): how well a linear classifier tells similar words apart, layer by layer."""

import numpy as np

from llmc.analysis.lime.given import require_model, texts, token_ids, word
from llmc.analysis.lime.representations import OF
from llmc.analysis.lime.separability import checked, scores
from llmc.analysis.lime.token_rows import token_rows
from llmc.calls import public
from llmc.show import picture
from llmc.show.curves import Panel, Series, draw

RATE, BATCH = 1e-2, 64  # the authors'


@public
def token_separability(model, ids, tokens, attention_mask=None, of="values", count=None, folds=5, seed=42, epochs=1,
                       plot=None):  # fmt: skip
    """How well a linear classifier tells the representations of some tokens apart, layer by layer.

    Parameters
    ----------
    model, ids, attention_mask, of
        As `representations` takes them.
    tokens : list of int
        Ids, a class each. As many rows of each are taken as the rarest has, the first ones in reading order.
    count : int, optional
        The most rows of a token (the paper: 1668).
    folds, seed, epochs
        As of `separability`, with its rate and batches.
    plot : path, optional
        The accuracies with their deviations, as a .png, .pdf or .svg.

    Returns
    -------
    dict
        "accuracy", "std" : (L,) float64, mean and population deviation over the folds.
        "folds" : (L, folds) float64
        "count" : int, the rows of each token.

    Raises
    ------
    DataError
        For a token that does not occur, or fewer than `folds` rows of one.
    UnknownNameError, ConfigError, ShapeError, TypeError, ImportError
        As elsewhere.
    """
    require_model(model, "token_separability")
    word(of, "of", OF)
    tokens = token_ids(tokens, model.config.vocab_size, least=2)
    folds, seed, epochs, _ = checked(folds, seed, epochs, BATCH)
    if plot is not None:
        picture.ending(plot)
    rows, n = token_rows(model, texts(model, ids, attention_mask), tokens, of, count, folds)
    classes = np.repeat(np.arange(len(tokens)), n)
    layers = [scores(layer, classes, folds, seed, epochs, RATE, BATCH) for layer in rows]
    found = {key: np.array([layer[key] for layer in layers]) for key in ("accuracy", "std", "folds")} | {"count": n}
    if plot is not None:
        draw([separability_panel({"": found}, of)], plot)
    return found


def separability_panel(found, of):
    """The curves of {name of a model: what `token_separability` returns}."""
    series = [Series(np.arange(len(each["accuracy"])), each["accuracy"], name, spread=np.asarray(each["std"], float))
              for name, each in found.items()]  # fmt: skip
    return Panel(f"Tokens told apart by their {of.replace('_', ' ')}", "layer", "share of right answers", series)
