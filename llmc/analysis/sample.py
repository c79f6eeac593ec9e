"""A sample of a text for two models: as many tokens as are wanted, in rows that fit a context."""

import numpy as np

from llmc.analysis.feeding import batches, is_single
from llmc.errors import ConfigError, DataError
from llmc.inputs import IGNORE

_LONGEST = 64  # characters of a token on the average; what is beyond max_tokens of them is not even read


class Chosen:
    """Some of the scenes of a SceneDataset, as one."""

    def __init__(self, data, indices):
        self._data, self._indices = data, indices
        self.scenes = [data.scenes[index] for index in indices]

    def __len__(self):
        return len(self._indices)

    def __getitem__(self, index):
        return self._data[self._indices[index]]

    def spans(self, index):
        """As of a SceneDataset."""
        return self._data.spans(self._indices[index])


def sample(text, tokenizer, max_tokens, context, vocab_size):
    """What a trace runs on.

    Parameters
    ----------
    text : str, list of str, ids as `lim` takes them, or a SceneDataset
    tokenizer : Tokenizer or None
    max_tokens : int
        In all: a text is cut where they end, a scene is whole or left out.
    context : int
        Longer rows become several.
    vocab_size : int

    Returns
    -------
    list of dict, or Chosen
        Items of `input_ids`, `labels`, `attention_mask`, each (T,).

    Raises
    ------
    ConfigError
        For texts without a tokenizer.
    DataError
        When there is no token, or no scene is short enough.
    """
    if hasattr(text, "spans") and hasattr(text, "scenes"):
        return _scenes(text, max_tokens)
    if isinstance(text, str) or isinstance(text, (list, tuple)) and text and all(isinstance(t, str) for t in text):
        rows = _of_texts([text] if isinstance(text, str) else text, tokenizer, max_tokens)
    else:
        rows = _of_ids(text, vocab_size)
    items, left = [], max_tokens
    for ids, labels in rows:
        ids, labels = ids[:left], labels[:left]
        left -= len(ids)
        for start in range(0, len(ids), context):
            part = slice(start, start + context)
            items.append({"input_ids": ids[part], "labels": labels[part], "attention_mask": np.ones_like(ids[part])})
        if left == 0:
            break
    if not items:
        raise DataError("text is empty: there is no token to look at")
    return items


def _scenes(data, max_tokens):
    chosen, left = [], max_tokens
    for index in range(len(data)):
        length = len(data[index]["input_ids"])
        if length <= left:
            chosen.append(index)
            left -= length
    if not chosen:
        raise DataError(f"no scene has at most max_tokens={max_tokens} tokens, and a scene is whole or left out")
    return Chosen(data, chosen)


def _of_texts(texts, tokenizer, max_tokens):
    if tokenizer is None:
        raise ConfigError("text is given in words, and neither side has a tokenizer; pass tokenizer=, or token ids")
    for text in texts:
        ids = np.array(tokenizer.encode(text[: _LONGEST * max_tokens]), np.int64)
        if len(ids):
            yield ids, ids


def _of_ids(ids, vocab_size):
    given = [ids] if is_single(ids) else ids
    for batch in batches(given, None, None, vocab_size):
        for row, labels, real in zip(batch.ids, batch.labels, batch.real):
            labels = np.where(np.arange(len(row)) == 0, row, labels)  # the first is nobody's label
            if real.any():
                yield row[real].astype(np.int64), np.where(labels < 0, IGNORE, labels)[real].astype(np.int64)
