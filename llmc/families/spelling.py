"""Spelling: how files of a family's authors have a tensor under another name, in another order, or with others."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Spelling:
    """A tensor of such files, and those of ours that it holds.

    Attributes
    ----------
    name : str
        Theirs, as it stands below a block.
    of : tuple of str
        Ours, as they stand there; none: it follows from other things, and is left out.
    theirs, ours : tuple of str
        The axes of either, an axis being the letters of what it counts, slowest first: G and D of keys and values, H
        query heads, C width, n the tensors of ours, which are their first axis. Empty: the axes are the same.
    first_layer : int
        The layer from which on files are spelt so.
    """

    name: str
    of: tuple
    theirs: tuple = ()
    ours: tuple = ()
    first_layer: int = 0

    def shape(self, config, own):
        """The shape in a file; `own` is ours."""
        return self._lengths(self.theirs, config) if self.theirs else tuple(own)

    def cut(self, array, place, config):
        """The tensor `of[place]` of ours, from one of a file."""
        if not self.theirs:
            return array
        theirs, ours = "".join(self.theirs), "".join(self.ours)
        apart = array.reshape(self._lengths(theirs, config)).transpose([theirs.index(letter) for letter in ours])
        return apart[place].reshape(self._lengths(self.ours[1:], config))

    def join(self, arrays, config):
        """The tensor of a file, from those of ours."""
        import numpy as np

        if not self.theirs:
            return arrays[0]
        theirs, ours = "".join(self.theirs), "".join(self.ours)
        apart = np.stack(arrays).reshape(self._lengths(ours, config))
        return apart.transpose([ours.index(letter) for letter in theirs]).reshape(self._lengths(self.theirs, config))

    def _lengths(self, axes, config):
        counts = {"n": len(self.of), "C": config.hidden_size, "D": config.head_dim, "H": config.num_attention_heads,
                  "G": config.num_key_value_heads}  # fmt: skip
        return tuple(math.prod(counts[letter] for letter in axis) for axis in axes)
