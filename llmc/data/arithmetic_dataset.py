"""A dataset of the arithmetic task: expressions worked out step by step, of which all but the first is learnt."""

import numpy as np

from llmc.calls import public
from llmc.checks import whole
from llmc.data.arithmetic import EQUALS, PAD, field
from llmc.data.arithmetic_rows import draw_rows, most_rows
from llmc.data.items import item, resolve_index
from llmc.errors import ConfigError, DataError
from llmc.inputs import IGNORE


@public
class ArithmeticDataset:
    """Arithmetic in a prime field, worked out step by step: `(7+5)/3=12/3=4<eos>`.

    A row grows from a number: as often as there are operators, one of its numbers, each as likely, is replaced by an
    operation of the same value; it is written the other way round. The loss counts what follows the first `=`. Rows are
    distinct; the same arguments give the same rows (Feng et al., 2023; their generator counts operators).

    Parameters
    ----------
    operands : int
        Numbers of the first expression, at least 2.
    samples : int
        Rows.
    seed : int
    modulus : int
        A prime.
    exclude : ArithmeticDataset, or iterable of rows
        Rows that shall not come.

    Attributes
    ----------
    rows : list of tuple of int
        The ids of each row, without padding; `llmc.data.arithmetic.decode` reads them.
    operands, modulus : int

    Raises
    ------
    ConfigError
        For a modulus that is no prime, fewer than 2 operands, or rows to exclude that have another modulus.
    DataError
        When there are fewer rows than `samples`.
    """

    def __init__(self, operands=5, samples=50_000, seed=0, modulus=11, exclude=()):
        self.operands, self.modulus = whole(operands, "operands", 2), field(modulus)
        samples, seed = whole(samples, "samples", 1), whole(seed, "seed", most=None)
        excluded = _excluded(exclude, self.modulus)
        most = most_rows(self.operands, self.modulus)
        self.rows = draw_rows(self.operands, samples, seed, self.modulus, excluded) if samples <= most else []
        if len(self.rows) < samples:
            there = f"at most {most}" if samples > most else len(self.rows)
            beside = f" beside the {len(excluded)} that are excluded" if excluded else ""
            raise DataError(f"samples is {samples}, but of {self.operands} operands modulo {self.modulus} there are "
                            f"{there} rows{beside}; ask for fewer, or for more operands")
        self._ends = np.array([len(row) for row in self.rows])
        self._learnt = np.array([row.index(EQUALS) + 1 for row in self.rows])
        self._ids = np.full((samples, self._ends.max()), PAD, np.int32)
        self._ids[np.arange(self._ids.shape[1]) < self._ends[:, None]] = [token for row in self.rows for token in row]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        index = resolve_index(index, len(self.rows))
        result, end = item(self._ids[index]), self._ends[index]
        for name, padding in (("labels", IGNORE), ("attention_mask", 0)):
            result[name][end:] = padding
        result["labels"][: self._learnt[index]] = IGNORE
        return result

    def count_targets(self):
        """How many tokens of each row are predicted and count in the loss, (N,)."""
        return self._ends - self._learnt

    def __repr__(self):
        return (f"ArithmeticDataset({len(self)} rows of {self.operands} operands modulo {self.modulus}, of at most "
                f"{self._ids.shape[1]} tokens)")


def _excluded(rows, modulus):
    """The rows to exclude as a set."""
    if getattr(rows, "modulus", modulus) != modulus:
        raise ConfigError(f"exclude has rows modulo {rows.modulus}, these are modulo {modulus}")
    rows = getattr(rows, "rows", rows)
    if isinstance(rows, (str, bytes)) or not hasattr(rows, "__iter__"):
        raise TypeError(f"exclude must be a dataset or rows of ids, not {type(rows).__name__}")
    try:
        return {tuple(map(int, row)) for row in rows}
    except (TypeError, ValueError):
        raise TypeError("exclude must be a dataset, or rows that are each some ids") from None
