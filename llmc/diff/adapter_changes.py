"""Changes: what an adapter makes of a base's tensors, read from peft's files by its rules on names."""

import re
from dataclasses import dataclass

import numpy as np

from llmc import checkpoint
from llmc.checkpoint.names import bare_name
from llmc.checkpoint.roles import role
from llmc.errors import CheckpointError, ShapeError, hint, nearest
from llmc.lora import LoraConfig, adapter_files
from llmc.lora.presets import PRESETS
from llmc.lora.targets import is_saved, is_target, pattern_value

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
        keys = adapter_files.keys_in(stored)
        tensors = {key: adapter_files.numbers(path, stored, name) for key, name in keys.items()}
    base_names = {bare_name(name): name for name in base.names()}
    factors, copies = _sort(path, config, tensors, base, base_names)
    found = {name: _branch(path, config, module, base, name, halves) for module, (name, halves) in factors.items()}
    _check_targets(path, config, base, base_names, factors)
    for name, copy in copies.items():
        there = base.shape(name) if name in base_names.values() else copy.shape
        if copy.shape != there:
            raise ShapeError(f"{path}: {name} has shape {copy.shape}, the base's has {there}: the adapter is of "
                             f"another base")
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
                weight = f"{module}.weight"
                raise CheckpointError(f"{path}: {key}: the base has no tensor {weight}"
                                      f"{hint(weight, base_names.values())}; the adapter is of another base")
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
    same = array.shape == base.shape(name) and np.allclose(base.read(name).astype(array.dtype), array, rtol=0,
                                                           atol=1e-6)
    if not same:
        raise CheckpointError(f"{path}: {key} is a weight of the base, and not this one's: the adapter was trained on "
                              f"another base, or on one that was resized")


def _branch(path, config, module, base, name, halves):
    """The Change that the two halves of a module make."""
    for half in "AB":
        if half not in halves:
            raise CheckpointError(f"{path}: missing {adapter_files.PREFIX}{module}.lora_{half}.weight, of which the "
                                  f"other half is there")
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
    return Change(None, [scaled(A, B, scale)], in_out)


def scaled(A, B, scale):
    """(B, A) of a branch, with its scale multiplied into B."""
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
