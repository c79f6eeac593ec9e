"""Pair: a tensor of the base and its counterpart, and what of them everything else is measured on.

This is the seam that a diff, an extraction and a trace share: `pairs_of` (pairing.py) gives the pairs, `blocks` the
numbers of both sides, `delta` and `factors` the change of a matrix as (outputs, inputs).
"""

import math
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np

from llmc.checkpoint.roles import layer, part, role
from llmc.core import get_num_threads
from llmc.diff.sides import FLOAT32, is_float
from llmc.diff.view import View, steps

WORDS = ("renamed", "tied", "fused", "split", "transposed", "reshaped", "resized", "dtype")
ALONE = 1 << 18  # fewer numbers are read sooner than a thread begins


@dataclass
class Pair:
    """A tensor of the base and its counterpart; one of them is None where there is none.

    Attributes
    ----------
    base, tuned : View or None
        As they are compared: of the same shape, in the base's layout; of an incomparable pair as they are.
    structure : list of str
        How the two stand differently, words of `WORDS` in their order.
    added : list of int or None
        Of a resized tensor: per axis of the base's layout, how much more the tuned one has.
    comparable : bool
    title : str or None
        What the row is called, where that is neither side's own name for it.
    """

    base: View | None
    tuned: View | None
    structure: list = field(default_factory=list)
    added: list | None = None
    comparable: bool = True
    title: str | None = None

    @property
    def name(self):
        """What the row is called."""
        return self.title or (self.base or self.tuned).label

    @property
    def tuned_name(self):
        """The tuned one's name; None where it is missing."""
        return self.tuned.label if self.tuned else None

    @property
    def stem(self):
        """The name by which role, layer and part are told."""
        return self.title or (self.base or self.tuned).name

    @property
    def role(self):
        """As of a Checkpoint."""
        return role(self.stem)

    @property
    def layer(self):
        """As of a Checkpoint."""
        return layer(self.stem)

    @property
    def part(self):
        """As of a Checkpoint."""
        return part(self.stem)

    @property
    def is_matrix(self):
        """Whether it is seen as (outputs, inputs)."""
        return len((self.base or self.tuned).shape) == 2

    @property
    def in_out(self):
        """Whether the base's layout is (inputs, outputs)."""
        view = self.base or self.tuned
        return self.is_matrix and view.side.lies_in_out(view.name) != view.transposed

    @property
    def shape(self):
        """The shape that is compared, in the base's layout."""
        return self.base.shape

    @property
    def wide(self):
        """The dtype in which the two are subtracted: float32, or float64 where one is stored so or holds no floats."""
        narrow = all(is_float(view.dtype) and view.dtype.itemsize <= 4 for view in (self.base, self.tuned))
        return FLOAT32 if narrow else np.dtype(np.float64)

    @property
    def is_rounded(self):
        """Whether both sides are floats whose spacing is known."""
        kinds = [view.side.precision(view.name) for view in (self.base, self.tuned)]
        return all(kind is not None and is_float(kind) for kind in kinds)

    def add(self, word):
        """Say that the two stand differently in this way."""
        self.structure = [each for each in WORDS if each in (*self.structure, word)]

    def own_change(self):
        """The Change of the adapter that alone makes tuned of base; None where the two are read apart."""
        base, tuned = self.base, self.tuned
        if base is None or tuned is None or getattr(tuned.side, "base", None) is not base.side:
            return None
        if (tuned.name, tuned.piece, tuned.transposed) != (base.name, base.piece, base.transposed) or self.added:
            return None
        change = tuned.side.change(tuned.name)
        return change if change is not None and change.copy is None and base.piece is None else None

    def blocks(self):
        """(first row, base's rows, tuned's rows, whether the latter are Δ itself) of the layout that is compared.

        Rows are (rows, all the rest of the shape), contiguous, in the stored dtypes; Δ is what an adapter's factors
        make. One block is in memory at a time, but what is turned or reshaped is read whole. Both sides of large ones
        are read at once.
        """
        change = self.own_change()
        apart = change is None and get_num_threads() > 1 and math.prod(self.shape) >= ALONE
        with ThreadPoolExecutor(1) if apart else nullcontext() as beside:
            reader = self.base.reader()
            other = change.delta_rows if change else self.tuned.reader()
            for first, last in steps(self.shape):
                late = beside and beside.submit(other, first, last)
                base = reader(first, last)
                yield first, base, late.result() if late else other(first, last), change is not None

    def delta(self):
        """Δ = tuned − base of a matrix as (outputs, inputs), float32 (float64 where one side is stored so)."""
        out = np.empty(self.shape, self.wide)
        for first, base, other, is_delta in self.blocks():
            rows = out[first : first + len(base)]
            if is_delta:
                rows[...] = other
            else:
                np.subtract(other, base, out=rows, dtype=self.wide, casting="unsafe")
        return out.T if self.in_out else out

    def factors(self):
        """(B (outputs, R), A (R, inputs)) with B A = Δ where adapters alone make the change; otherwise None."""
        change = self.own_change()
        if change is None:
            return None
        return np.concatenate([B for B, _ in change.factors], 1), np.concatenate([A for _, A in change.factors])
