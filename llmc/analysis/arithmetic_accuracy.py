"""How often a model works out an expression rightly, writing freely."""

import numpy as np

from llmc.calls import public
from llmc.checks import whole
from llmc.data.arithmetic import EOS, EQUALS, PAD, ZERO, evaluate
from llmc.errors import DataError


@public
def arithmetic_accuracy(model, data, batch_size=256):
    """The share of rows whose expression a model works out: it reads up to the first `=` and writes greedily.

    Right is a row whose last token before `<eos>` is the value, however it was come to. A row may become as long as
    the longest of `data`, and is wrong when it has not ended there.

    Parameters
    ----------
    model : Model
    data : ArithmeticDataset
        Or anything with `rows` of ids and their `modulus`.
    batch_size : int
        Rows that are written at once.

    Returns
    -------
    dict
        "accuracy": float, "correct": int, "count": int.

    Raises
    ------
    DataError
        When there are no rows, or one has no `=`.
    """
    batch_size = whole(batch_size, "batch_size", 1)
    longest, prompts = _prompts(data)
    correct = 0
    for length, same in prompts.items():  # of one length, so that nothing is padding and each row ends where it may
        for start in range(0, len(same), batch_size):
            batch = same[start : start + batch_size]
            ids = model.generate(np.array(batch), max_new_tokens=longest - length, do_sample=False, eos_token_id=EOS,
                                 pad_token_id=PAD, repetition_penalty=1.0, min_new_tokens=0)  # fmt: skip
            values = np.array([evaluate(prompt, data.modulus) for prompt in batch])
            correct += int((_answers(ids[:, length - 1 :]) == values).sum())
    count = sum(map(len, prompts.values()))
    return {"accuracy": correct / count, "correct": correct, "count": count}


def _prompts(data):
    """The length of the longest row, and {length: the prompts of this length}."""
    for name in ("rows", "modulus"):
        if not hasattr(data, name):
            raise TypeError(f"data is {type(data).__name__} without {name}; give an llmc.data.ArithmeticDataset")
    prompts = {}
    for number, row in enumerate(data.rows):
        row = [int(token) for token in row]
        if EQUALS not in row:
            raise DataError(f"row {number} has no '=' that its expression ends with")
        prompt = row[: row.index(EQUALS) + 1]
        prompts.setdefault(len(prompt), []).append(prompt)
    if not prompts:
        raise DataError("there are no rows to work out")
    return max(map(len, data.rows)), prompts


def _answers(written):
    """The number before the first end of each row (B, T), which begins with the `=`; -1 where there is none."""
    ends = written == EOS
    before = np.maximum(ends.argmax(axis=1) - 1, 0)
    answers = written[np.arange(len(written)), before] - ZERO
    return np.where(ends.any(axis=1) & (answers >= 0), answers, -1)
