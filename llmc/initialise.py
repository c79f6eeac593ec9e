"""Initialisation: every parameter filled as the family's transformers model fills it."""

import hashlib
import math
import os
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from llmc.errors import UnknownNameError
from llmc.stored import GROUP

_BLOCK = 1 << 20  # numbers drawn at a time where they are rounded
_NORM = re.compile(r"(^|\.)(ln_\w+|norm|\w*layernorm)\.weight$")
_EMBEDDING = re.compile(r"(^|\.)(wte|tokens_embed|embed_tokens)\.weight$")
_PROJECTED = re.compile(r"\.c_proj\.weight$")
_CONV1D = re.compile(r"\.(c_attn|c_proj|c_fc)\.weight$")


def initialise(parameters, config, seed=0):
    """Fill every parameter in place.

    Weights are normal with deviation `initializer_range`, biases zero, norms one. GPT-2 divides the deviation of what
    is added to the residual stream (`c_proj`) by sqrt(2 L); GPT's attention and feed-forward have deviation 0.02
    whatever `initializer_range` says, as in transformers; LLaMA and Mistral zero the embedding of `pad_token_id`.

    A tensor depends on its name, its shape and the seed alone, not on the others or on their order.

    Parameters
    ----------
    parameters : dict
        {Hugging Face name: writable array}: float32, float64, or narrower ones, which round the float32 numbers block
        by block; a tied head may stand under both its names.
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
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in [pool.submit(_fill, name, values, config, seed) for name, values in parameters.items()]:
            done.result()


def _fill(name, values, config, seed):
    if name == "lm_head.weight" and config.tie_word_embeddings:
        return
    if name.endswith(".bias"):
        values[...] = 0
    elif _NORM.search(name):
        values[...] = 1
    else:
        _fill_normal(values, deviation(name, config), generator(name, seed))
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


def generator(name, seed):
    """Counter-based, so that the numbers are the same on every platform."""
    key = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))


def _fill_normal(values, scale, generator):
    if isinstance(values, np.ndarray) and values.dtype in (np.float32, np.float64) and values.flags.carray:
        generator.standard_normal(dtype=values.dtype, out=values)
        values *= values.dtype.type(scale)
        return
    dtype = values.dtype.type if values.dtype in (np.float32, np.float64) else np.float32
    rows = max(_BLOCK // math.prod(values.shape[1:]) // GROUP, 1) * GROUP
    for first in range(0, len(values), rows):
        shape = (min(rows, len(values) - first), *values.shape[1:])
        values[first : first + rows] = generator.standard_normal(shape, dtype=dtype) * dtype(scale)
