"""What the models of a reproduction read: the text that every Python carries, and rows of arithmetic."""

from functools import lru_cache

import numpy as np

from llmc.data import ArithmeticDataset, TextDataset, builtin_text, split_text
from llmc.errors import DataError
from llmc.tokenizer import Tokenizer

HELD_OUT = 0.2  # of the text
WORDS = (" is", " are", " was", " were", " be", " has", " have", " can", " may", " will")  # the paper's, and their kin
WORD_COUNT, LEAST = 4, 20  # so many words, of so many occurrences each


@lru_cache(maxsize=2)
def texts(vocabulary):
    """(tokenizer, text to train on, text held out); the tokenizer has seen the former alone."""
    text, held_out = split_text(builtin_text(), HELD_OUT)
    return Tokenizer.train([text], vocab_size=vocabulary), text, held_out


@lru_cache(maxsize=4)
def text_data(vocabulary, length):
    """(dataset to train on, dataset held out), of rows of `length` tokens."""
    tokenizer, *parts = texts(vocabulary)
    return tuple(TextDataset([part], tokenizer, length) for part in parts)


@lru_cache(maxsize=4)
def arithmetic_data(operands, rows, held_out, seed):
    """(dataset to train on, dataset held out), of different rows."""
    learnt = ArithmeticDataset(operands, rows, seed=2 * seed)
    return learnt, ArithmeticDataset(operands, held_out, seed=2 * seed + 1, exclude=learnt)


def analysed_ids(vocabulary, length, sequences):
    """The text that analyses read, (B, length): the first whole rows of what is held out."""
    _, held_out = text_data(vocabulary, length)
    rows = [held_out[row]["input_ids"] for row in range(len(held_out))]
    return np.stack([row for row in rows if len(row) == length][:sequences])


def words_in(tokenizer, ids):
    """{token: word} of similar words that are one token each and frequent enough, at most four, in the paper's order.

    Raises
    ------
    DataError
        When there are not two.
    """
    found = {}
    for word in WORDS:
        tokens = tokenizer.encode(word, add_special_tokens=False)
        if len(tokens) == 1 and np.count_nonzero(ids == tokens[0]) >= LEAST:
            found[int(tokens[0])] = word
    if len(found) < 2:
        raise DataError(f"of the words{','.join(WORDS)} fewer than two are one token and occur {LEAST} times in "
                        f"{ids.size:,} tokens of text")  # fmt: skip
    return dict(list(found.items())[:WORD_COUNT])
