"""Merging: the weights that adapters make of a base's, and what storing them may lose."""

import math

import numpy as np

from llmc.errors import ConfigError, NonFiniteError
from llmc.lora.attached import copy_name
from llmc.weights.stored import Int8, writing

# How far the logits of a merged model may be from those of the attached adapter, of logits up to LARGE; of larger ones
# in proportion, as rounding is.
TOLERANCE = 1e-4
LARGE = 8
_PROBE = 32  # tokens


def require_wide(parameters):
    """Raise ConfigError when weights are stored as int8."""
    if any(isinstance(view, Int8) for view in parameters.values()):
        raise ConfigError("nothing is merged into weights stored as int8, whose rounding would swallow most of an "
                          "adapter: keep it attached, or open the model with dtype='bfloat16' or 'float32'")


def delta(A, B, scale, in_out=False):
    """What a branch adds to its weight: scale B A as (O, I), or as (I, O) where weights are stored so."""
    product = (B * B.dtype.type(scale)) @ A
    return product.T if in_out else product


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


def merged(base, changed):
    """The merged weights, as they are to be stored; said is what that loses, where it is narrower than float32.

    Parameters
    ----------
    base : mapping of str to array
    changed : dict
        What `changes` gives.

    Returns
    -------
    dict of str to array

    Raises
    ------
    NonFiniteError
        When a number is not finite.
    """
    found, rounding = {}, Rounding()
    for name, (copy, deltas) in changed.items():
        before = wide(base[name])
        exact = before.copy() if copy is None else copy.copy()
        for each in deltas:
            exact += delta(*each)
        found[name] = exact.astype(base[name].dtype)
        if not np.isfinite(found[name]).all():
            raise NonFiniteError(f"{name}: the merged weight is not finite, so the adapter is broken; nothing was "
                                 f"merged")
        if found[name].dtype.itemsize < exact.dtype.itemsize:
            rounding.add(found[name], exact, before)
    rounding.say()
    return found


def wide(array):
    """An array as float32, or as it is where it is wider."""
    return array.astype(np.promote_types(array.dtype, np.float32), copy=False)


class Rounding:
    """What storing merged weights narrower than float32 loses of what merging changes."""

    def __init__(self):
        self._dtype, self._lost, self._changed = None, 0.0, 0.0

    def add(self, stored, exact, base):
        """Count one weight."""
        self._dtype = stored.dtype
        self._lost += float(np.sum(np.square(stored.astype(exact.dtype) - exact), dtype=np.float64))
        self._changed += float(np.sum(np.square(exact - base), dtype=np.float64))

    @property
    def share(self):
        """|stored - exact| / |exact - base| over all weights counted, in percent; 0 where nothing is changed."""
        return 100 * math.sqrt(self._lost / self._changed) if self._changed else 0.0

    def say(self):
        """Print the share, if any weight was counted."""
        if self._dtype is not None:
            print(f"merged into {self._dtype} weights: rounding loses {self.share:.3g} % of what merging changes")


def replace(core, parameters, arrays, kept):
    """Write arrays over parameters, one by one, putting what they replace into the dict `kept`."""
    with writing(core):
        for name, array in arrays.items():
            kept[name] = parameters[name].copy()
            parameters[name][...] = array


def probe(config):
    """Token ids that the comparison is made on: (1, T), spread over the vocabulary."""
    length = min(_PROBE, config.max_position_embeddings)
    return np.random.default_rng(0).integers(0, config.vocab_size, (1, length))


def compare(before, after):
    """Raise ConfigError when two logits are further apart than merging into float32 may bring them."""
    largest = float(np.abs(before).max())
    most = TOLERANCE * max(1.0, largest / LARGE)
    apart = float(np.abs(before.astype(np.float64) - after).max())
    if not apart <= most:
        raise ConfigError(f"the logits of the merged model are {apart:.3g} from those with the adapter attached, more "
                          f"than {most:.3g} of logits up to {largest:.3g}; nothing was merged: keep the adapter "
                          f"attached")
