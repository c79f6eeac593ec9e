"""Batches: items of unequal length, padded on the right into arrays."""

import numpy as np

from llmc.calls import public
from llmc.errors import DataError
from llmc.inputs import IGNORE


@public
def collate(items, pad_token_id=0, vocab_size=None):
    """Pad the items of a batch on the right, to the longest of them.

    Parameters
    ----------
    items : sequence of dict
        Each with `input_ids` (T,), and if it has them `labels` and `attention_mask` (T,). Without labels the ids are
        the labels; without a mask every token counts.
    pad_token_id : int
        What stands in `input_ids` where there is padding; no number depends on it.
    vocab_size : int, optional
        Ids from here on are refused.

    Returns
    -------
    dict
        `input_ids`, `labels` (-100 on padding) and `attention_mask` (0 on padding): int64, (B, T).

    Raises
    ------
    DataError
        For no items, an item without tokens, arrays that are not one row of integers or differ in length, an id,
        label or mask value out of range.
    """
    items = list(items)
    if not items:
        raise DataError("a batch has no items")
    rows = [_row(index, item, vocab_size) for index, item in enumerate(items)]
    shape = (len(rows), max(len(ids) for ids, _, _ in rows))
    input_ids, labels, attention_mask = (np.full(shape, fill, np.int64) for fill in (pad_token_id, IGNORE, 0))
    for index, (ids, targets, mask) in enumerate(rows):
        input_ids[index, : len(ids)] = ids
        labels[index, : len(ids)] = targets
        attention_mask[index, : len(ids)] = mask
    return {"input_ids": input_ids, "labels": labels, "attention_mask": attention_mask}


def targets_of(item):
    """How many tokens of an item are predicted, and count in the loss."""
    counts = np.asarray(item["labels"] if "labels" in item else item["input_ids"])[1:] != IGNORE
    if "labels" not in item and "attention_mask" in item:
        counts = counts & (np.asarray(item["attention_mask"])[1:] == 1)
    return int(counts.sum())


def _row(index, item, vocab_size):
    """The ids, labels and mask of one item, checked."""
    if not hasattr(item, "keys") or "input_ids" not in item:
        raise DataError(f"item {index} is {type(item).__name__} without input_ids; an item is a dict that has them")
    ids = _integers(index, "input_ids", item["input_ids"])
    _within(index, "input_ids", ids, 0, vocab_size, ", the vocabulary of this model")
    mask = _integers(index, "attention_mask", item.get("attention_mask", np.ones_like(ids)), len(ids))
    _within(index, "attention_mask", mask, 0, 2)
    labels = _integers(index, "labels", item.get("labels", np.where(mask == 1, ids, IGNORE)), len(ids))
    _within(index, "labels", labels[labels != IGNORE], 0, vocab_size, ", the vocabulary of this model")
    return ids, labels, mask


def _integers(index, name, values, length=None):
    values = np.asarray(values)
    if values.ndim != 1 or not len(values) or not np.issubdtype(values.dtype, np.integer):
        raise DataError(f"item {index}: {name} is {values.dtype} of shape {values.shape}, not a row of integers")
    if length is not None and len(values) != length:
        raise DataError(f"item {index}: {name} has {len(values)} entries, input_ids {length}")
    return values


def _within(index, name, values, low, high, what=""):
    wrong = (values < low) | (values >= high) if high is not None else values < low
    if wrong.any():
        limit = f"from {low}" + ("" if high is None else f" to {high - 1}{what}")
        raise DataError(f"item {index}: {name} holds {values[wrong][0]}, which is not {limit}")
