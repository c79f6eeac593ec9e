"""ModelSide: a side of a diff that is a Model, as it computes."""

import os

import numpy as np

from llmc.diff.adapter_changes import Change, scaled
from llmc.diff.sides import FLOAT32, Side
from llmc.lora.merging import changes
from llmc.weights.stored import Readable


class ModelSide(Side):
    """A Model, as it computes: merged weights as they are, attached adapters that are active added."""

    def __init__(self, model):
        self._parameters, adapters = model._parameters, model.adapters
        path = model._name_or_path
        super().__init__(path or "a model", Readable(model._parameters),
                         path if path and os.path.isdir(path) else None, model.config.to_dict())  # fmt: skip
        self._last = None, None
        names = adapters.computing()
        changed = changes({name: adapters[name] for name in names},
                          {name: adapters.parameters(name) for name in names}, adapters._is_in_out)
        self._changes = {name: Change(copy, [scaled(*each[:3]) for each in deltas], any(each[3] for each in deltas))
                         for name, (copy, deltas) in changed.items()}

    def names(self):
        """As they are saved: a tied head stands under the embedding's name alone."""
        return [*self._parameters, *(name for name in self._changes if name not in self._parameters)]

    def shape(self, name):
        """As of a Side."""
        return tuple((self._parameters[name] if name in self._parameters else self._changes[name].copy).shape)

    def dtype(self, name):
        """As it is stored; int8 counts as float32."""
        return np.dtype(self._parameters[name].dtype) if name in self._parameters else FLOAT32

    def precision(self, name):
        """None of int8, which is no spacing but one by groups."""
        if name in self._changes:
            return FLOAT32
        return self.dtype(name) if isinstance(self._parameters[name], np.ndarray) else None

    def change(self, name):
        """As of a Side."""
        return self._changes.get(name)

    def read_rows(self, name, first, last):
        """As of a Side."""
        change = self._changes.get(name)
        rows = self._wide(name) if change is None or change.copy is None else change.copy
        rows = rows[first:last]
        if change is None or not change.factors:
            return rows
        return rows.astype(np.promote_types(rows.dtype, FLOAT32)) + change.delta_rows(first, last)

    def _wide(self, name):
        """A parameter as an array; what int8 is made of for it is kept until the next one."""
        if isinstance(self._parameters[name], np.ndarray):
            return self._parameters[name]
        if self._last[0] != name:
            self._last = name, np.asarray(self._parameters[name])
        return self._last[1]

    def read(self, name):
        """As of a Side."""
        return self.read_rows(name, 0, self.shape(name)[0])
