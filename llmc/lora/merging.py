"""Merging: adding adapters to the weights they stand beside, checked by comparing logits."""

import numpy as np

from llmc.errors import ConfigError, NonFiniteError
from llmc.lora.attached import copy_name
from llmc.weights.stored import Int8, writing

# How far the logits of the merged model may be from those of the attached one, by how weights are stored.
TOLERANCE = {"float64": 1e-4, "float32": 1e-4, "bfloat16": 2e-2, "float16": 2e-2}
_PROBE = 32  # tokens


def delta(A, B, scale, in_out=False):
    """What a branch adds to its weight: scale B A as (O, I), or as (I, O) where weights are stored so."""
    product = (B * B.dtype.type(scale)) @ A
    return product.T if in_out else product


def add(name, weight, deltas):
    """`weight` plus every delta, as it is stored, and the largest part of the deltas that storing lost.

    Raises
    ------
    NonFiniteError
        When a number is not finite.
    """
    exact = weight.astype(np.promote_types(weight.dtype, np.float32))
    for each in deltas:
        exact += each
    stored = exact.astype(weight.dtype)
    if not np.isfinite(stored).all():
        raise NonFiniteError(f"{name}: the merged weight is not finite, so the adapter is broken; nothing was merged")
    return stored, float(np.abs(stored.astype(exact.dtype) - exact).max(initial=0.0))


def probe(config):
    """Token ids that the comparison is made on: (1, T), spread over the vocabulary."""
    length = min(_PROBE, config.max_position_embeddings)
    return np.random.default_rng(0).integers(0, config.vocab_size, (1, length))


def compare(before, after, stored):
    """How far two logits are apart.

    Raises
    ------
    ConfigError
        When it is more than merging may change.
    """
    apart = float(np.abs(before.astype(np.float64) - after).max())
    if not apart <= TOLERANCE[str(stored)]:
        raise ConfigError(f"the logits of the merged model are {apart:.3g} from those with the adapter attached, more "
                          f"than {TOLERANCE[str(stored)]:g} for weights stored as {stored}; nothing was merged: keep "
                          f"the adapter attached, or merge into weights stored wider")
    return apart


def require_wide(parameters):
    """Raise ConfigError when weights are stored as int8."""
    if any(isinstance(view, Int8) for view in parameters.values()):
        raise ConfigError("nothing is merged into weights stored as int8, whose rounding would swallow most of an "
                          "adapter: keep it attached, or open the model with dtype='bfloat16' or 'float32'")


def changes(adapters, tensors, is_in_out):
    """What adapters make of the base's parameters.

    Parameters
    ----------
    adapters : dict of str to Attached
    tensors : dict of str to dict
        {tensor: array} of each.
    is_in_out : callable
        Does the weight of the linear at this path lie as (I, O)?

    Returns
    -------
    dict
        {parameter: (the copy that takes its place, or None, [arguments of `delta`])}
    """
    copies, deltas = {}, {}
    for name, adapter in adapters.items():
        for path, branch in adapter.branches.items():
            A, B = (tensors[name][f"{path}.lora_{half}.{name}.weight"] for half in "AB")
            deltas.setdefault(f"{path}.weight", []).append((A, B, branch.scale, is_in_out(path)))
        copies |= {parameter: tensors[name][copy_name(parameter, name)] for parameter in adapter.copies}
    return {parameter: (copies.get(parameter), deltas.get(parameter, ()))
            for parameter in dict.fromkeys([*copies, *deltas])}


class Overwritten:
    """The weights of a base whose place merged ones have taken, to be put back to the bit.

    Parameters
    ----------
    parameters : dict of str to array
        The base's.
    """

    def __init__(self, parameters):
        self._parameters, self._kept = parameters, {}

    def __len__(self):
        return len(self._kept)

    def write(self, core, changed):
        """Write what `changes` gives, keeping what it replaces; after a failure `restore` is due."""
        lost = 0.0
        with writing(core):
            for name, (copy, deltas) in changed.items():
                view = self._parameters[name]
                stored, loss = add(name, view if copy is None else copy, (delta(*each) for each in deltas))
                lost = max(lost, loss)
                self._kept[name] = view.copy()
                view[...] = stored
        if view.dtype.itemsize < 4:
            print(f"merged into {view.dtype} weights: rounding lost up to {lost:.3g}")

    def restore(self, core):
        """Put back what was replaced."""
        with writing(core):
            for name, array in self._kept.items():
                self._parameters[name][...] = array
        self._kept = {}
