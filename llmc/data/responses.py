"""A prompt and its response as one row of ids, of which the response alone is learnt."""

from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from llmc.data.pieces import encode_document, missing, special_frame, with_end


@dataclass(frozen=True)
class Row:
    """The ids of a text.

    Attributes
    ----------
    ids : (T,) int32
    opening : int
        How many of them the tokenizer puts before a text.
    told : int
        How many are not learnt: those, and the prompt's.
    """

    ids: np.ndarray
    opening: int
    told: int


class Responses:
    """What makes rows of prompts and responses, and of texts.

    The two stand one behind the other with nothing between. They are tokenized apart, as they are when the model is
    asked, where that reads as the two together do; a tokenizer that begins every text with a space (SentencePiece) gets
    them as one text, and a token that holds the end of the prompt and the beginning of the response is not learnt.

    Parameters
    ----------
    tokenizer : Tokenizer
        Its special tokens are put around each row, and its `eos_token` at the end, if it has one, unless the text
        begins or ends with them itself.
    """

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self._before, after = special_frame(tokenizer)
        self._after = with_end(tokenizer, after)

    def text(self, text):
        """The row of a text, all of which is learnt; None for one without tokens."""
        row = self._framed(self.encode(text), 0)
        return None if row is None else Row(row.ids, row.opening, 0)

    def row(self, prompt, response):
        """The row of a prompt and its response; None when the response has no tokens of its own."""
        told, learnt = self.encode(prompt), self.encode(response)
        apart = np.concatenate([told, learnt])
        text = self._tokenizer.decode(apart.tolist())
        if text != prompt + response:
            whole, starts = self._offsets(prompt + response)
            if text != self._tokenizer.decode(whole):
                return self._framed(np.array(whole, np.int64), sum(start < len(prompt) for start in starts))
        return self._framed(apart, len(told))

    def answered(self, prompt, learnt):
        """The row of a prompt before the learnt ids of another row, which stay."""
        told = self.encode(prompt)
        opening, _ = missing(self._before, np.concatenate([told, learnt]), [])
        ids = np.concatenate([opening, told, learnt]).astype(np.int32)
        return Row(ids, len(opening), len(opening) + len(told))

    def starts(self, row, prompt, response):
        """Where each token of a row's prompt begins: the character of `prompt` that its first byte stands in.

        Returns
        -------
        list of int
            One for each id from `row.opening` to `row.told`.
        """
        ids = row.ids[row.opening : row.told].tolist()
        sizes = [len(token) for token in self._tokenizer.convert_ids_to_tokens(ids)]
        places = [place for place, character in enumerate(prompt) for _ in character.encode("utf-8")]
        if sum(sizes) == len(places):  # byte-level tokens: a character of theirs is a byte of the text
            return [places[end - size] for size, end in zip(sizes, accumulate(sizes))]
        alone, starts = self._offsets(prompt)
        if alone != ids:
            _, starts = self._offsets(prompt + response)
        return starts[: len(ids)]

    def encode(self, text):
        """The ids of a text without anything around it, (N,)."""
        return np.concatenate([np.zeros(0, np.int64), *(encode_document(self._tokenizer, [text]) if text else ())])

    def _offsets(self, text):
        """(ids, the character that each begins at) of a text."""
        found = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return list(found["input_ids"]), [start for start, _ in found["offset_mapping"]]

    def _framed(self, ids, told):
        if told == len(ids):
            return None
        opening, closing = missing(self._before, ids, self._after)
        return Row(np.concatenate([opening, ids, closing]).astype(np.int32), len(opening), len(opening) + told)

