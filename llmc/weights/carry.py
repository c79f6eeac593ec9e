"""Carrying parameters over into a model whose vocabulary has another size, or whose head is no longer tied."""

import numpy as np

from llmc.weights.stored import Int8


def carry(old, new):
    """Write parameters into those of the same names, to the bit; rows that are new are the mean of the old.

    Parameters
    ----------
    old, new : dict of str to array
        Stored alike, of shapes that differ in their rows alone.
    """
    for name, view in new.items():
        source, rows = old[name], min(len(old[name]), len(view))
        if isinstance(view, Int8):
            every = slice(None) if source.shape == view.shape else slice(rows)  # a transposed one has no rows to cut
            view.numbers[every], view.scales[every] = source.numbers[every], source.scales[every]
        else:
            view[:rows] = source[:rows]
        if len(view) > rows:
            view[rows:] = np.mean(np.asarray(source), axis=0, dtype=np.float64)
