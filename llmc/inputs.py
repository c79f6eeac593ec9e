"""What a user passes to a forward pass, as the core takes it: checked, contiguous, int32."""

import numpy as np

from llmc.checks import LARGEST
from llmc.errors import DataError, ShapeError

IGNORE = -100  # the label that does not count in the loss


def as_ids(ids, vocab_size):
    """Token ids as a (B, T) int32 array.

    Parameters
    ----------
    ids : array_like of integers, (B, T) or (T,)
        Any integer dtype and layout; (T,) means (1, T).
    vocab_size : int

    Raises
    ------
    TypeError
        When the ids are not integers.
    ShapeError
        When there are other than one or two dimensions, or no tokens.
    DataError
        When an id is outside [0, vocab_size).
    """
    array = _integers(ids, "input_ids")
    if array.ndim == 1:
        array = array[None, :]
    if array.ndim != 2:
        raise ShapeError(f"input_ids have shape {array.shape}; (batch, time) or (time,) is needed")
    if array.size == 0:
        raise ShapeError(f"input_ids have shape {array.shape}: there is no token in them")
    return _in_range(array, vocab_size, "input_ids")


def as_array(values, name):
    """`values` as an array of our own, so that what was checked stays; ShapeError for lists of unequal lengths."""
    try:
        return np.array(values)
    except ValueError:
        raise ShapeError(
            f"{name}: lists of unequal lengths; pad them to one length and pass attention_mask"
        ) from None


def _integers(values, name):
    array = as_array(values, name)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers; these have dtype {array.dtype}")
    return array


def _in_range(array, size, name, ignored=False):
    low, high = int(array.min()), int(array.max())
    worst = high if high >= size else low
    if high >= size or (low < 0 and not (ignored and _only_ignored(array))):
        where = tuple(int(i) for i in np.argwhere(array == worst)[0])
        raise DataError(f"{name}: {worst} at {where} is outside [0, {size}), the vocabulary of this model")
    return np.require(array, np.int32, "CA")


def _only_ignored(array):
    return bool((array[array < 0] == IGNORE).all())


def as_mask(mask, shape):
    """The attention mask as (B, T) uint8; None when nothing is masked.

    Raises
    ------
    ShapeError
        When the mask has another shape than the ids.
    DataError
        When it holds anything but 0 and 1.
    """
    if mask is None:
        return None
    array = as_array(mask, "attention_mask")
    if array.ndim == 1:
        array = array[None, :]
    if array.shape != shape:
        raise ShapeError(f"attention_mask has shape {array.shape}, input_ids have {shape}")
    if array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
        raise DataError("attention_mask holds values other than 0 (padding) and 1 (a token)")
    array = np.ascontiguousarray(array, dtype=np.uint8)
    return None if array.all() else array


def as_positions(position_ids, mask, shape, limit):
    """Position ids (B, T) int32: as given, or counted along the mask, so that padding on the left changes nothing.

    Parameters
    ----------
    limit : int or None
        Learned positions there are; None where any position can be computed.

    Raises
    ------
    DataError
        When a position is negative or not below `limit`.
    """
    if position_ids is not None:
        array = _integers(position_ids, "position_ids")
        try:
            array = np.broadcast_to(array, shape)
        except ValueError:
            raise ShapeError(f"position_ids have shape {array.shape}, input_ids have {shape}") from None
    elif mask is None:
        array = np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape)
    else:
        array = np.maximum(np.cumsum(mask, axis=1, dtype=np.int32) - 1, 0)
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= (limit if limit is not None else LARGEST):
        outside = low if low < 0 else high
        if limit is None or low < 0:
            raise DataError(f"position {outside} is outside [0, {LARGEST if limit is None else limit})")
        raise DataError(
            f"position {outside} is outside this model's {limit} learned positions (max_position_embeddings); "
            "shorten the text"
        )
    return np.require(array, np.int32, "CA")


def refuse_packed(positions):
    """DataError for positions of documents packed into a row, which would see each other.

    They are where a row is made of at least two runs 0, 1, 2 … of two or more tokens each.

    Parameters
    ----------
    positions : (B, T) int32
    """
    begins = positions == 0
    follows = positions[:, 1:] == positions[:, :-1] + 1
    alone = begins & np.append(begins[:, 1:], np.ones_like(begins[:, :1]), axis=1)  # a run of one token
    packed = begins[:, 0] & (begins[:, 1:] | follows).all(axis=1) & ~alone.any(axis=1) & (begins.sum(axis=1) > 1)
    if packed.any():
        row = int(packed.argmax())
        raise DataError(f"position_ids: row {row} is {int(begins[row].sum())} documents, each from position 0, and "
                        f"each would see those before it; give every document a row of its own, padded on the right, "
                        f"with attention_mask")  # fmt: skip


def as_targets(labels, ids, mask, vocab_size):
    """Targets (B, T) int32 for the losses: position t predicts the label at t + 1; -1 is ignored.

    Explicit labels follow transformers: -100 is ignored and nothing else. Labels that are None are the ids, of which
    neither padding nor what padding would predict counts.
    """
    targets = np.full(ids.shape, -1, dtype=np.int32)
    if labels is None:
        counts = np.ones(ids.shape, dtype=bool) if mask is None else mask.astype(bool)
        following = np.where(counts[:, 1:] & counts[:, :-1], ids[:, 1:], -1)
    else:
        array = _integers(labels, "labels")
        if array.ndim == 1:
            array = array[None, :]
        if array.shape != ids.shape:
            raise ShapeError(f"labels have shape {array.shape}, input_ids have {ids.shape}")
        array = _in_range(array, vocab_size, "labels", ignored=True)
        following = np.where(array[:, 1:] < 0, -1, array[:, 1:])
    targets[:, :-1] = following
    return targets
