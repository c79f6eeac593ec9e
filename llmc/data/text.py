"""A dataset of texts, one item a text."""

import numpy as np

from llmc.calls import public
from llmc.data.items import check_block_size, fallback_pad_id, item, pad_item, resolve_index
from llmc.data.pieces import encode_document, missing, special_frame, with_end
from llmc.errors import DataError


@public
class TextDataset:
    """Texts, each an item of its own; a text longer than `block_size` is several items, one after the other.

    Nothing is thrown away and texts are never joined. Items are as long as their text; `llmc.data.collate` pads them,
    with -100 in the labels. Only the ids are kept in memory, four bytes each.

    Parameters
    ----------
    texts : iterable of str
    tokenizer : Tokenizer
        Its special tokens are put around each text, as `tokenizer.encode` does, but for those that the text begins or
        ends with itself.
    block_size : int
        The most tokens of an item, at least 2.
    append_eos : bool
        End each text with the tokenizer's `eos_token`, once, for models that shall learn where to stop.
    padding : False or "max_length"
        "max_length" pads every item to `block_size`.

    Raises
    ------
    DataError
        For a text without tokens, no texts at all, or an impossible `block_size`.

    Examples
    --------
    >>> data = TextDataset(["first text", "second text"], tokenizer, block_size=128)
    >>> data[0]
    {"input_ids": array([...]), "labels": array([...]), "attention_mask": array([...])}
    """

    def __init__(self, texts, tokenizer, block_size, *, append_eos=False, padding=False):
        if isinstance(texts, (str, bytes)):
            raise TypeError("texts is one string; a dataset takes several: pass [text], or its lines")
        if padding not in (False, "max_length"):
            raise DataError(f"padding is {padding!r}; a dataset pads to 'max_length' or not at all (collate does it)")
        if append_eos and tokenizer.eos_token_id is None:
            raise DataError("append_eos=True, but the tokenizer has no eos_token; set tokenizer.eos_token")
        self.block_size = check_block_size(block_size)
        self._pad_token_id = fallback_pad_id(tokenizer) if padding else None
        before, after = special_frame(tokenizer)
        after = with_end(tokenizer, after) if append_eos else after
        parts, bounds, total = [], [0], 0
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"texts[{number}] is {type(text).__name__}, not str")
            ids = np.concatenate([np.zeros(0, np.int64), *encode_document(tokenizer, [text])])
            if not len(ids):
                raise DataError(f"texts[{number}] is {text[:40]!r}, which has no tokens; leave it out")
            opening, closing = missing(before, ids, after)
            ids = np.concatenate([opening, ids, closing])
            parts.append(ids.astype(np.int32))
            bounds += [*range(total + self.block_size, total + len(ids), self.block_size), total + len(ids)]
            total += len(ids)
        if not parts:
            raise DataError("texts is empty; a dataset needs at least one text")
        self._ids = np.concatenate(parts)
        self._bounds = np.array(bounds)

    def __len__(self):
        return len(self._bounds) - 1

    def __getitem__(self, index):
        index = resolve_index(index, len(self))
        result = item(self._ids[self._bounds[index] : self._bounds[index + 1]])
        return result if self._pad_token_id is None else pad_item(result, self.block_size, self._pad_token_id)

    def count_targets(self):
        """How many tokens of each item are predicted, (N,)."""
        return np.diff(self._bounds) - 1

    def __repr__(self):
        return f"TextDataset({len(self)} items of at most {self.block_size} tokens, {len(self._ids)} in all)"
