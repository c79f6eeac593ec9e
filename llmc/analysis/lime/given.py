"""What the analyses of LIMe are given: a model, and texts as batches of which some tokens count."""

from dataclasses import dataclass

import numpy as np

from llmc.analysis.feeding import batches, is_single
from llmc.checks import whole
from llmc.errors import ConfigError, DataError, ShapeError, UnknownNameError, nearest, shown
from llmc.inputs import as_array
from llmc.model import Model


@dataclass(frozen=True)
class Text:
    """A batch and its tokens that count.

    Attributes
    ----------
    ids : (B, T) int32
    mask : (B, T) uint8, or None when every token is real
    chosen : (B, T) booleans
    """

    ids: np.ndarray
    mask: np.ndarray | None
    chosen: np.ndarray


def require_model(model, call):
    """TypeError for what is no model."""
    if not isinstance(model, Model):
        raise TypeError(f"{call} looks into a llmc.Model, not {type(model).__name__}")


def word(value, name, words):
    """One of some words; TypeError for no word, UnknownNameError with the nearest for another."""
    if not isinstance(value, str):
        raise TypeError(f"{name} is {shown(value)}, not one of {', '.join(words)}")
    if value not in words:
        near = nearest(value, words) or f"there are {', '.join(words)}"
        raise UnknownNameError(f"{name}={value!r} is not there; {near}")
    return value


def texts(model, ids, attention_mask, select=None):
    """The batches of an analysis.

    Parameters
    ----------
    model : Model
    ids, attention_mask : as `feeding.batches` takes them
    select : as `ids`, booleans, or None
        Tokens that are not padding and that alone count.

    Returns
    -------
    list of Text

    Raises
    ------
    ShapeError, TypeError
        Beside what `batches` raises, for a selection of another shape, or that is not of booleans.
    DataError
        When no token is selected.
    """
    given = list(batches(ids, attention_mask, None, model.config.vocab_size))
    if select is None:
        return [Text(batch.ids, batch.mask, batch.real) for batch in given]
    chosen = [select] if is_single(ids) else list(select)
    if len(chosen) != len(given):
        raise ShapeError(f"select has {len(chosen)} entries for {len(given)} batches of ids; pass one for each")
    found = [Text(batch.ids, batch.mask, batch.real & _selection(each, batch.ids.shape))
             for batch, each in zip(given, chosen)]  # fmt: skip
    if not any(text.chosen.any() for text in found):
        raise DataError("select chooses no token that is not padding")
    return found


def _selection(values, shape):
    array = as_array(values, "select")
    array = array[None, :] if array.ndim == 1 else array
    if array.dtype != bool:
        raise TypeError(f"select is booleans, a token each, not {array.dtype}")
    if array.shape != shape:
        raise ShapeError(f"select has shape {array.shape}, input_ids have {shape}")
    return array


def token_ids(tokens, vocab_size, least):
    """Different ids of a vocabulary, at least so many, as a list of int.

    Raises
    ------
    TypeError, DataError, ConfigError
        For what are no ids, ids outside of the vocabulary, or too few or equal ones.
    """
    if isinstance(tokens, (str, bytes)) or not hasattr(tokens, "__iter__"):
        raise TypeError(f"tokens are ids of the vocabulary, a list of them, not {shown(tokens)}")
    found = [whole(token, f"tokens[{at}]", 0, vocab_size - 1, impossible=DataError) for at, token in enumerate(tokens)]
    if len(found) < least or len(set(found)) < len(found):
        raise ConfigError(f"tokens are {shown(found)}, not at least {least} different ids")
    return found
