"""Words: the texts of token ids, where there is a tokenizer, and the tokens of the largest numbers."""

import numpy as np

from llmc.data.items import check_tokenizer


class Words:
    """The texts of token ids.

    Parameters
    ----------
    tokenizer : Tokenizer or None
    folders : list of path
        Where one is looked for, if it is None.
    """

    def __init__(self, tokenizer, folders=()):
        if tokenizer is not None:
            check_tokenizer(tokenizer)
        self.tokenizer = tokenizer or next(filter(None, map(_tokenizer_in, folders)), None)
        self._known = {}

    def text(self, number):
        """The text of an id; None without a tokenizer."""
        if self.tokenizer is None:
            return None
        if number not in self._known:
            self._known[number] = self.tokenizer.decode([number])
        return self._known[number]

    def largest(self, values, top, key):
        """The ids of the largest of (V,) values, `[{id, text, key: value}]`; of equal ones the first id first."""
        order = np.argsort(-values, kind="stable")[:top]
        return [{"id": number, "text": self.text(number), key: float(values[number])} for number in order.tolist()]


def _tokenizer_in(folder):
    from llmc.tokenizer import Tokenizer
    from llmc.tokenizer.tokenizer_files import holds_tokenizer

    return Tokenizer.from_pretrained(folder) if holds_tokenizer(folder) else None
