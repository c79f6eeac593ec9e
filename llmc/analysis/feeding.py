"""The batches an analysis runs over: an array, or an iterable of them, each checked before it reaches the model."""

from dataclasses import dataclass

import numpy as np

from llmc.errors import DataError, ShapeError
from llmc.inputs import IGNORE, as_ids, as_mask, as_targets


@dataclass(frozen=True)
class Batch:
    """Token ids and what belongs to them.

    Attributes
    ----------
    ids : (B, T) int32
    mask : (B, T) uint8, or None when every token is real
    labels : (B, T) int32
        -100 where the loss does not count.
    skipped : int
        Tokens at the beginning of each row that are read and do not count.
    """

    ids: np.ndarray
    mask: np.ndarray | None
    labels: np.ndarray
    skipped: int = 0

    @property
    def real(self):
        """(B, T) booleans: the tokens that are not padding."""
        return np.ones(self.ids.shape, dtype=bool) if self.mask is None else self.mask.astype(bool)

    def rows(self, array):
        """(N, C) of a (B, T, C): the tokens that are not padding; no copy where all are."""
        return array.reshape(-1, array.shape[-1]) if self.mask is None else array[self.real]

    @property
    def positions(self):
        """(B, T): which token of its row each is, padding not counted."""
        return np.cumsum(self.real, axis=1) - 1

    @property
    def counted(self):
        """(B, T) booleans: the tokens that count."""
        return self.real & (self.positions >= self.skipped)

    @property
    def targets(self):
        """How many labels count in the loss."""
        return int(np.count_nonzero(self.labels[:, 1:] != IGNORE))


def is_single(ids):
    """Whether `ids` is one batch: an array, a mapping with input_ids, or lists of numbers.

    Raises
    ------
    TypeError
        For a text, or what can be neither.
    """
    if isinstance(ids, (str, bytes)):
        raise TypeError("ids are token ids, not a text: pass tokenizer(text)")
    if hasattr(ids, "__array__") or _is_item(ids):
        return True
    if isinstance(ids, (list, tuple)):
        return not any(_is_item(each) or getattr(each, "ndim", 0) for each in ids)
    if not hasattr(ids, "__iter__") and not (hasattr(ids, "__len__") and hasattr(ids, "__getitem__")):
        raise TypeError(f"ids are an array of token ids or an iterable of them, not {type(ids).__name__}")
    return False


def batches(ids, attention_mask, labels, vocab_size, skip_first=0):
    """Yield every `Batch` of an array or of an iterable.

    Parameters
    ----------
    ids : (B, T) or (T,) integers, a mapping with `input_ids`, or an iterable of either
    attention_mask, labels : as `ids`, or None
        For an iterable: iterables as long. A mapping's own stand in for those that are None.
    vocab_size : int
    skip_first : int
        Tokens at the beginning of each row that do not count, nor their labels.

    Raises
    ------
    DataError
        For no batch, a batch without tokens that count, an id out of range.
    ShapeError, TypeError
        For arrays that do not belong together, or that are none.
    """
    if is_single(ids):
        yield _batch(ids, attention_mask, labels, vocab_size, "ids", skip_first)
        return
    masks, targets = _parallel(attention_mask, "attention_mask"), _parallel(labels, "labels")
    count = 0
    for each in _iterate(ids):
        where = f"batch {count}"
        yield _batch(each, _next(masks, where), _next(targets, where), vocab_size, where, skip_first)
        count += 1
    if not count:
        raise DataError("there is no batch in ids: the text is empty")


def length(ids):
    """How many batches there are; None when the iterable does not say."""
    if is_single(ids):
        return 1
    return len(ids) if hasattr(ids, "__len__") else None


def _is_item(value):
    return hasattr(value, "keys") and "input_ids" in value.keys()


def _iterate(values):
    return iter(values) if hasattr(values, "__iter__") else (values[i] for i in range(len(values)))


def _parallel(values, name):
    if values is None:
        return None
    if isinstance(values, (str, bytes)) or hasattr(values, "__array__") and getattr(values, "ndim", 2) < 3:
        raise ShapeError(f"ids is an iterable of batches and {name} is one array: pass one for each batch")
    return name, _iterate(values)


def _next(parallel, where):
    if parallel is None:
        return None
    name, values = parallel
    try:
        return next(values)
    except StopIteration:
        raise ShapeError(f"{where}: {name} has no entry for it; pass one for each batch of ids") from None


def _batch(ids, mask, labels, vocab_size, where, skip_first):
    if _is_item(ids):
        mask = ids.get("attention_mask") if mask is None else mask
        labels = ids.get("labels") if labels is None else labels
        ids = ids["input_ids"]
    if not np.size(ids):
        raise DataError(f"{where}: the text is empty: there is no token to look at")
    ids = as_ids(ids, vocab_size)
    mask = as_mask(mask, ids.shape)
    if mask is not None and not mask.any():
        raise DataError(f"{where}: attention_mask hides every token: there is nothing but padding")
    targets = as_targets(labels, ids, mask, vocab_size)
    labels = np.full_like(ids, IGNORE)
    labels[:, 1:] = np.where(targets[:, :-1] < 0, IGNORE, targets[:, :-1])
    batch = Batch(ids, mask, labels, skip_first)
    if skip_first:
        if not batch.counted.any():
            raise DataError(f"{where}: no row has more than skip_first={skip_first} tokens, so none counts")
        labels[~batch.counted] = IGNORE
    return batch
