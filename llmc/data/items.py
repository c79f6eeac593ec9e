"""The items of a dataset, and the blocks they are cut into."""

import numbers

import numpy as np

from llmc.checks import whole
from llmc.errors import DataError
from llmc.inputs import IGNORE


def item(ids):
    """One item of a piece of text.

    Parameters
    ----------
    ids : array of integers, (T,)

    Returns
    -------
    dict
        `input_ids`, `labels` (the ids; the model shifts them) and `attention_mask` (ones): int64, (T,), all new.
    """
    ids = np.array(ids, np.int64)
    return {"input_ids": ids, "labels": ids.copy(), "attention_mask": np.ones_like(ids)}


def pad_item(item, length, pad_token_id):
    """The item, padded on the right to `length`: labels -100, mask 0."""
    missing = (0, length - len(item["input_ids"]))
    filling = {"input_ids": pad_token_id, "labels": IGNORE, "attention_mask": 0}
    return {name: np.pad(item[name], missing, constant_values=value) for name, value in filling.items()}


def check_block_size(block_size):
    """`block_size` as an int; a block needs a token to read and one to predict."""
    return whole(block_size, "block_size", 2, most=None, impossible=DataError)


def resolve_index(index, length):
    """An index from 0 to `length` - 1, from one that may count from the end."""
    if not isinstance(index, numbers.Integral):
        raise TypeError(f"a dataset is indexed by a whole number, not by {index!r}")
    if not -length <= index < length:
        raise IndexError(f"item {index} of a dataset of {length}")
    return int(index) % length


def check_tokenizer(tokenizer):
    """TypeError for what cannot make ids of a text."""
    if not callable(tokenizer) or not hasattr(tokenizer, "get_vocab"):
        raise TypeError(f"tokenizer is {type(tokenizer).__name__}, not a llmc.Tokenizer")


def id_limit(tokenizer):
    """One more than the tokenizer's largest id."""
    check_tokenizer(tokenizer)
    return max(tokenizer.get_vocab().values()) + 1


def learnt_limit(tokenizer):
    """The same without the padding token, on which no number depends, unless it is the end of text too."""
    pad = None if tokenizer.pad_token_id == tokenizer.eos_token_id else tokenizer.pad_token_id
    return max(number for number in tokenizer.get_vocab().values() if number != pad) + 1


def fallback_pad_id(tokenizer):
    """The id to pad with: the padding token's, else the end of text's, else 0. The mask hides it in any case."""
    for value in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if value is not None:
            return value
    return 0
