"""Tracing inside a diff: what the changed weights move on a text, as `llmc.analysis.trace` finds it."""

import os

from llmc import checkpoint
from llmc.analysis import trace
from llmc.analysis.sample import sample
from llmc.analysis.two_models import TwoModels
from llmc.analysis.words import Words
from llmc.errors import ConfigError


def traced(base, tuned, text, tokenizer, max_tokens, disable_tqdm):
    """The trace of two models on at most `max_tokens` tokens of a text.

    Parameters
    ----------
    base, tuned
        As of `diff`.
    text : str, list of str, ids or SceneDataset
    tokenizer : Tokenizer, optional
    max_tokens : int
    disable_tqdm : bool, optional

    Returns
    -------
    llmc.analysis.Trace
    """
    base, tuned = models_of(base, "base"), models_of(tuned, "tuned")
    models = TwoModels(base, tuned)
    words = Words(tokenizer, models.folders)
    ids = sample(text, words.tokenizer, max_tokens, models.context, models.vocab_size)
    return trace(base, tuned, ids, tokenizer=words.tokenizer, disable_tqdm=disable_tqdm)


def models_of(side, which):
    """A side of a diff as what can be opened as a model.

    Raises
    ------
    ConfigError
        For a mapping of arrays, which is no model.
    """
    if isinstance(side, tuple) and len(side) == 2:
        return models_of(side[0], which), side[1]
    if isinstance(side, checkpoint.Checkpoint):
        path = os.fspath(side.path)
        return path if os.path.isdir(path) else os.path.dirname(path) or "."
    if hasattr(side, "items"):
        raise ConfigError(f"text runs both models, and {which} is a mapping of arrays without a configuration; give a "
                          f"folder or a Model")
    return side
