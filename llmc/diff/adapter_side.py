"""Adapted: a side of a diff that is a base and a peft adapter; nothing is merged."""

import os

import numpy as np

from llmc.diff.adapter_changes import read_changes
from llmc.diff.sides import FLOAT32, Side


class Adapted(Side):
    """A base with an adapter.

    Parameters
    ----------
    base : Side
    adapter : path
        peft's folder.
    owns : bool
        Whether the base is closed with it.
    """

    def __init__(self, base, adapter, owns=False):
        folder = os.fspath(adapter)
        super().__init__(f"{base.label} + {folder}", base.tensors, base.folder, base.config)
        self.base, self.adapter, self._owns = base, folder, owns
        self._changes = read_changes(base, folder)
        there = set(base.names())
        self._apart = [name for name in self._changes if name not in there]

    def names(self):
        """The base's, and a head that the adapter has and the base ties."""
        return [*self.base.names(), *self._apart]

    def shape(self, name):
        """As of a Side."""
        return tuple(self._changes[name].copy.shape) if name in self._apart else self.base.shape(name)

    def dtype(self, name):
        """The base's, whatever the adapter has."""
        return FLOAT32 if name in self._apart else self.base.dtype(name)

    def precision(self, name):
        """What an adapter changes is no narrower than float32."""
        return FLOAT32 if name in self._changes else self.base.precision(name)

    def lies_in_out(self, name):
        """As of a Side."""
        return name not in self._apart and self.base.lies_in_out(name)

    def change(self, name):
        """As of a Side."""
        return self._changes.get(name)

    def read_rows(self, name, first, last):
        """As of a Side, added up in float32."""
        change = self._changes.get(name)
        if change is None:
            return self.base.read_rows(name, first, last)
        rows = (self.base.read_rows(name, first, last) if change.copy is None else change.copy[first:last])
        rows = rows.astype(np.promote_types(rows.dtype, FLOAT32), copy=False)
        return rows + change.delta_rows(first, last) if change.factors else rows

    def read(self, name):
        """As of a Side."""
        change = self._changes.get(name)
        if change is None:
            return self.base.read(name)
        return self.read_rows(name, 0, self.shape(name)[0]) if self.shape(name) else change.copy

    def close(self):
        """Let go of the base, where it is its own."""
        if self._owns:
            self.base.close()
