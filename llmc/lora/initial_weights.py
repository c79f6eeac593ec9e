"""How A and B start: peft's distributions, the same numbers for the same seed and module."""

import math

import numpy as np

from llmc.errors import ConfigError
from llmc.weights.initialise import generator

_LOADED_ONLY = {
    "eva": "it needs activations of the data to be trained on",
    "lora_ga": "it needs gradients of the data to be trained on",
    "mica": "its B is not trained",
}


def check(kind, rank):
    """Raise ConfigError when llmc cannot start an adapter so."""
    if kind in _LOADED_ONLY:
        raise ConfigError(f"init_lora_weights {kind!r}: {_LOADED_ONLY[kind]}; start it in peft and load it, or take "
                          f"True")
    if kind == "orthogonal" and rank % 2:
        raise ConfigError(f"init_lora_weights 'orthogonal' needs an even rank, not {rank}")


def start(A, B, kind, key, seed=0):
    """Fill a zero pair in place.

    Parameters
    ----------
    A : (R, I) array
    B : (O, R) array
    kind : True, False, "gaussian" or "orthogonal"
        True: A uniform within 1/sqrt(I), B zero. "gaussian": A normal with deviation 1/R, B zero. False: B too is
        uniform, within 1/sqrt(R). "orthogonal": both random in orthogonal subspaces, so that B A is zero.
    key : str
        The module's path; with the seed it decides the numbers.
    seed : int
    """
    rank, inputs = A.shape
    random = generator(f"{key}.lora", seed)
    if kind == "gaussian":
        A[...] = random.normal(0.0, 1 / rank, A.shape)
    elif kind == "orthogonal":
        Q, _ = np.linalg.qr(random.standard_normal((rank, rank)))
        A[...] = (random.standard_normal((inputs, rank // 2)) @ Q[0::2]).T / 10
        B[...] = random.standard_normal((len(B), rank // 2)) @ Q[1::2] / 10
    else:
        A[...] = random.uniform(-1, 1, A.shape) / math.sqrt(inputs)
        if kind is False:
            B[...] = random.uniform(-1, 1, B.shape) / math.sqrt(rank)
