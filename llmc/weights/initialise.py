"""Initialisation: every parameter filled as the family's transformers model fills it."""

import hashlib
import math
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from llmc.core import get_num_threads
from llmc.errors import UnknownNameError
from llmc.weights.stored import GROUP

_BLOCK = 1 << 20  # numbers that have a generator of their own, so that threads share a large tensor
_NORM = re.compile(r"(^|\.)(ln_\w+|norm|\w*layernorm)\.weight$")
_EMBEDDING = re.compile(r"(^|\.)(wte|tokens_embed|embed_tokens)\.weight$")
_PROJECTED = re.compile(r"\.c_proj\.weight$")
_CONV1D = re.compile(r"\.(c_attn|c_proj|c_fc)\.weight$")


def initialise(parameters, config, seed=0):
    """Fill every parameter in place.

    Weights are normal with deviation `initializer_range`, biases zero, norms one. GPT-2 divides the deviation of what
    is added to the residual stream (`c_proj`) by sqrt(2 L); GPT's attention and feed-forward have deviation 0.02
    whatever `initializer_range` says, as in transformers; LLaMA and Mistral zero the embedding of `pad_token_id`.

    A tensor depends on its name, its shape and the seed alone: not on the others, on their order, on how many threads
    fill it, or on how it is stored, which only rounds its numbers.

    Parameters
    ----------
    parameters : dict
        {Hugging Face name: writable array, or a stored weight}, to which float32 numbers can be assigned row by row;
        a tied head may stand under both its names.
    config : Config
        The configuration the parameters belong to.
    seed : int
        Any whole number of at least 0.

    Raises
    ------
    UnknownNameError
        When a name ends neither in `.weight` nor in `.bias`.
    """
    for name in parameters:
        if not name.endswith((".weight", ".bias")):
            raise UnknownNameError(f"{name} is neither a .weight nor a .bias, so there is no rule for how it starts")
    normal = {}
    for name, values in parameters.items():
        if name.endswith(".bias"):
            values[...] = 0
        elif _NORM.search(name):
            values[...] = 1
        elif name != "lm_head.weight" or not config.tie_word_embeddings:
            normal[name] = values
    with ThreadPoolExecutor(get_num_threads()) as pool:
        blocks = ((name, values, rows) for name, values in normal.items() for rows in _blocks(values.shape))
        for _ in pool.map(lambda block: _fill(*block, deviation(block[0], config), seed), blocks):
            pass  # an error, or Ctrl-C, ends it here
    for name, values in normal.items():
        if config.padding_idx is not None and _EMBEDDING.search(name):
            values[config.padding_idx : config.padding_idx + 1] = 0


def deviation(name, config):
    """The standard deviation with which a weight starts.

    Parameters
    ----------
    name : str
        Hugging Face name of a weight that is not a norm's.
    config : Config

    Returns
    -------
    float
    """
    if _CONV1D.search(name):
        if config.model_type == "openai-gpt":
            return 0.02
        residual = math.sqrt(2 * config.num_hidden_layers) if _PROJECTED.search(name) else 1.0
        return config.initializer_range / residual
    return config.initializer_range or 0.02  # transformers takes 0 for "not given" here


def generator(name, seed, row=0):
    """The random numbers that belong to a tensor from one of its rows on, the same on every platform."""
    key = hashlib.blake2b(f"{seed}/{name}/{row}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.SFC64(int.from_bytes(key, "little")))


def _blocks(shape):
    """The rows of `shape`, cut into slices that stored weights can be filled by."""
    step = max(_BLOCK // math.prod(shape[1:]) // GROUP, 1) * GROUP
    return [slice(row, min(row + step, shape[0])) for row in range(0, shape[0], step)]


def _fill(name, values, rows, scale, seed):
    shape = (rows.stop - rows.start, *values.shape[1:])
    in_place = isinstance(values, np.ndarray) and values.dtype == np.float32 and values.flags.c_contiguous
    out = values[rows] if in_place else np.empty(shape, np.float32)
    generator(name, seed, rows.start).standard_normal(dtype=np.float32, out=out)
    out *= np.float32(scale)
    if not in_place:
        values[rows] = out
