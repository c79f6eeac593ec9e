"""Initialisation: every parameter filled as the family's transformers model fills it."""

import functools
import hashlib
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from llmc.core import get_num_threads
from llmc.weights.stored import GROUP

_BLOCK = 1 << 20  # numbers that have a generator of their own, so that threads share a large tensor


def initialise(parameters, layout, config, seed=0):
    """Fill every parameter in place.

    Biases are zero, norms one, other weights as the family's row says of their part, or normal with the deviation that
    it gives the part, by default `initializer_range`; a family that pads zeroes the embedding of `pad_token_id`.

    A tensor depends on its name, its shape and the seed alone: not on the others, on their order, on how many threads
    fill it, or on how it is stored, which only rounds its numbers.

    Parameters
    ----------
    parameters : dict
        {Hugging Face name: writable array, or a stored weight}, to which float32 numbers can be assigned row by row.
    layout : dict
        {name: (part, layer, inputs, outputs)}, as the core declares them.
    config : Config
        The configuration the parameters belong to.
    seed : int
        Any whole number of at least 0.
    """
    random = []
    for name, values in parameters.items():
        part, layer = layout[name][:2]
        if name.endswith(".bias"):
            values[...] = 0
        elif part == "norm":
            values[...] = 1
        else:
            random.append((name, values, layer, _start(part, name, config)))
    with ThreadPoolExecutor(get_num_threads()) as pool:
        blocks = ((*weight, rows) for weight in random for rows in _blocks(weight[1].shape))
        for _ in pool.map(lambda block: _fill(*block, seed), blocks):
            pass  # an error, or Ctrl-C, ends it here
    for name, values, *_ in random:
        if config.padding_idx is not None and layout[name][0] == "embed":
            values[config.padding_idx : config.padding_idx + 1] = 0


def deviation(part, config):
    """The standard deviation with which the weights of a part start.

    Parameters
    ----------
    part : str
    config : Config

    Returns
    -------
    float
    """
    own = config._family.deviations.get(part)
    return own(config) if own else config.initializer_range or 0.02  # transformers takes 0 for "not given" here


def _start(part, name, config):
    """What fills rows of a weight: the family's own start of it, or of the part, or normal numbers."""
    starts = config._family.starts
    own = starts.get((part, name.rpartition(".")[2])) or starts.get(part)
    start = own(config) if own else None
    return start or functools.partial(_normal, np.float32(deviation(part, config)))


def _normal(scale, generator, out, rows, layer):
    generator.standard_normal(dtype=np.float32, out=out)
    out *= scale


def generator(name, seed, row=0):
    """The random numbers that belong to a tensor from one of its rows on, the same on every platform."""
    key = hashlib.blake2b(f"{seed}/{name}/{row}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.SFC64(int.from_bytes(key, "little")))


def _blocks(shape):
    """The rows of `shape`, cut into slices that stored weights can be filled by."""
    step = max(_BLOCK // math.prod(shape[1:]) // GROUP, 1) * GROUP
    return [slice(row, min(row + step, shape[0])) for row in range(0, shape[0], step)]


def _fill(name, values, layer, start, rows, seed):
    shape = (rows.stop - rows.start, *values.shape[1:])
    in_place = isinstance(values, np.ndarray) and values.dtype == np.float32 and values.flags.c_contiguous
    out = values[rows] if in_place else np.empty(shape, np.float32)
    start(generator(name, seed, rows.start), out, rows, layer)
    if not in_place:
        values[rows] = out
