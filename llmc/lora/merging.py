"""Merging: adding adapters to the weights they stand beside, checked by comparing logits."""

import numpy as np

from llmc.errors import ConfigError, NonFiniteError

# How far the logits of the merged model may be from those of the attached one, by how weights are stored.
TOLERANCE = {"float64": 1e-4, "float32": 1e-4, "bfloat16": 2e-2, "float16": 2e-2}
_PROBE = 32  # tokens


def delta(A, B, scale, in_out=False):
    """What a branch adds to its weight: scale B A as (O, I), or as (I, O) where weights are stored so."""
    product = (B * B.dtype.type(scale)) @ A
    return product.T if in_out else product


def merged(name, weight, deltas):
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
                          f"than {TOLERANCE[str(stored)]:g} for weights stored as {stored}; nothing was merged: keep the "
                          f"adapter attached, or merge into weights stored wider")
    return apart
