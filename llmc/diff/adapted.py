"""Adapted: a side of a diff that is a base and a peft adapter, by peft's rules on names; nothing is merged."""

import os
import re
from dataclasses import dataclass

import numpy as np

from llmc import checkpoint
from llmc.checkpoint.names import bare_name
from llmc.checkpoint.roles import role
from llmc.diff.sides import Side
from llmc.errors import CheckpointError, ConfigError, ShapeError, hint, nearest
from llmc.lora import LoraConfig, adapter_files
from llmc.lora.merging import changes
from llmc.lora.presets import PRESETS
from llmc.lora.targets import is_saved, is_target, pattern_value
from llmc.weights.stored import Readable

FLOAT32 = np.dtype(np.float32)
_KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")


@dataclass
class Change:
    """What adapters make of one tensor.

    Attributes
    ----------
    copy : array or None
        What stands in the base's place: of `modules_to_save`, and trained biases.
    factors : list of (B, A)
        float32 (O, R), its scale multiplied in, and (R, I): their products are added, as (outputs, inputs).
    in_out : bool
        Whether the tensor is stored as (inputs, outputs).
    """

    copy: object
    factors: list
    in_out: bool

    def delta_rows(self, first, last):
        """What the factors add to rows [first, last) of the tensor as it is stored."""
        pieces = [B @ A[:, first:last] for B, A in self.factors] if self.in_out else \
            [B[first:last] @ A for B, A in self.factors]  # fmt: skip
        total = pieces[0]
        for piece in pieces[1:]:
            total = total + piece
        return np.ascontiguousarray(total.T if self.in_out else total)


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
        self._apart = [name for name in self._changes if name not in set(base.names())]

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


class ModelSide(Side):
    """A Model, as it computes: merged weights as they are, attached adapters that are active added."""

    def __init__(self, model):
        self._parameters, adapters, core = model._parameters, model.adapters, model._model
        path = model._name_or_path
        super().__init__(path or "a model", Readable(model._parameters),
                         path if path and os.path.isdir(path) else None, model.config.to_dict())  # fmt: skip
        names = adapters.computing()
        changed = changes({name: adapters[name] for name in names},
                          {name: adapters.parameters(name) for name in names}, adapters._is_in_out)
        self._changes = {name: Change(copy, [_scaled(*each[:3]) for each in deltas], any(each[3] for each in deltas))
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
        rows = (self._parameters[name] if change is None or change.copy is None else change.copy)
        rows = np.asarray(rows)[first:last]
        if change is None or not change.factors:
            return rows
        return rows.astype(np.promote_types(rows.dtype, FLOAT32)) + change.delta_rows(first, last)

    def read(self, name):
        """As of a Side."""
        return self.read_rows(name, 0, self.shape(name)[0])


def of_model(model):
    """The side that a Model is."""
    return ModelSide(model)


def read_changes(base, folder):
    """What an adapter's files make of a base's tensors, all checked.

    Parameters
    ----------
    base : Side
    folder : path

    Returns
    -------
    dict of str to Change
        By the base's names; a copy of a head that the base ties stands under its own name.

    Raises
    ------
    FileNotFoundError
        When there is no adapter.
    ConfigError
        When it computes what llmc does not.
    CheckpointError, ShapeError
        When it is damaged, or of another base; the message names tensors and shapes.
    """
    folder = adapter_files.find(folder, "default")
    config = LoraConfig.from_pretrained(folder)
    path = adapter_files.weights_in(folder)
    with checkpoint.open(path) as stored:
        tensors = {key: adapter_files.numbers(path, stored, name) for key, name in adapter_files.keys_in(stored).items()}
    base_names = {bare_name(name): name for name in base.names()}
    factors, copies = _sort(path, config, tensors, base, base_names)
    found = {name: _branch(path, config, module, base, name, halves) for module, (name, halves) in factors.items()}
    _check_targets(path, config, base, base_names, factors)
    for name, copy in copies.items():
        there = base.shape(name) if name in base_names.values() else copy.shape
        if copy.shape != there:
            raise ShapeError(f"{path}: {name} has shape {copy.shape}, the base's has {there}: the adapter is of another "
                             f"base")
        found[name] = Change(copy, found[name].factors if name in found else [], False)
    return found


def _sort(path, config, tensors, base, base_names):
    """({module: (base's name, {"A", "B"})}, {base's name: copy}) of an adapter's tensors."""
    factors, copies = {}, {}
    for key, array in tensors.items():
        match = _KEY.fullmatch(key)
        module = match[1] if match else key.removeprefix(adapter_files.PREFIX).rpartition(".")[0]
        leaf = "weight" if match else key.rpartition(".")[2]
        own = bare_name(f"{module.removesuffix('.base_layer')}.{leaf}")
        name = base_names.get(own)
        if "lora_" in key and not match:
            raise CheckpointError(f"{path}: {key} is no factor of a linear, which alone can carry an adapter here")
        if match:
            if name is None:
                raise CheckpointError(f"{path}: {key}: the base has no tensor {module}.weight"
                                      f"{hint(f'{module}.weight', base_names.values())}; the adapter is of another base")
            factors.setdefault(module, (name, {}))[1][match[2]] = array
        elif is_saved(config, module) or leaf == "bias" and config.bias != "none":
            copies[name or f"{module}.{leaf}"] = array
            if name is None and role(f"{module}.{leaf}") != "head":
                raise CheckpointError(f"{path}: {key}: the base has no such tensor{hint(own, base_names)}; the adapter "
                                      f"is of another base")
        elif name is None or role(name) not in ("embedding", "head"):
            raise CheckpointError(f"{path}: {key} is surplus: its adapter_config.json asks for no such tensor")
        else:
            _check_beside(path, key, array, base, name)
    return factors, copies


def _check_beside(path, key, array, base, name):
    """Raise CheckpointError unless a weight of the base that peft stored along is this base's."""
    same = array.shape == base.shape(name) and np.allclose(base.read(name).astype(array.dtype), array, rtol=0, atol=1e-6)
    if not same:
        raise CheckpointError(f"{path}: {key} is a weight of the base, and not this one's: the adapter was trained on "
                              f"another base, or on one that was resized")


def _branch(path, config, module, base, name, halves):
    """The Change that the two halves of a module make."""
    for half in "AB":
        if half not in halves:
            raise CheckpointError(f"{path}: missing {adapter_files.PREFIX}{module}.lora_{half}.weight, of which the other "
                                  f"half is there")
    A, B = halves["A"], halves["B"]
    rank, shape = pattern_value(config.rank_pattern, module, config.r), base.shape(name)
    in_out = base.lies_in_out(name)
    outputs, inputs = shape[::-1] if in_out else shape if len(shape) == 2 else (None, None)
    for half, array, wanted in (("A", A, (rank, inputs)), ("B", B, (outputs, rank))):
        if array.shape != wanted:
            raise ShapeError(f"{path}: {adapter_files.PREFIX}{module}.lora_{half}.weight has shape {array.shape}, this "
                             f"base needs {wanted}: the adapter is of another base, or its adapter_config.json is of "
                             f"another adapter")
    scale = config.scale(rank, pattern_value(config.alpha_pattern, module, config.lora_alpha))
    return Change(None, [_scaled(A, B, scale)], in_out)


def _scaled(A, B, scale):
    return B * B.dtype.type(scale), A


def _check_targets(path, config, base, base_names, factors):
    """Raise CheckpointError where the config means other modules than the file has factors for."""
    targets = config.target_modules
    if targets is None or isinstance(targets, str) and (targets in PRESETS or targets.lower() == "all-linear"):
        return
    for module in factors:
        if not is_target(config, module):
            raise CheckpointError(f"{path}: surplus {adapter_files.PREFIX}{module}.lora_A.weight: target_modules "
                                  f"{targets!r} does not mean {module}")
    known = {bare_name(f"{module}.weight") for module in factors}
    prefix = _prefix(factors)
    for own, name in base_names.items():
        module = prefix + own.removesuffix(".weight")
        if own.endswith(".weight") and own not in known and len(base.shape(name)) == 2 and is_target(config, module):
            near = nearest(module, factors)
            raise CheckpointError(f"{path}: missing {adapter_files.PREFIX}{module}.lora_A.weight"
                                  f"{f' ({near})' if near else ''}: target_modules {targets!r} means it, and this base "
                                  f"has it; the adapter is of another base")


def _prefix(modules):
    """What stands before the names of a base's modules in an adapter's: "model." or "transformer.", or nothing."""
    module = next(iter(modules), "")
    return module.removesuffix(bare_name(f"{module}.weight").removesuffix(".weight"))
