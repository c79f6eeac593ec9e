"""Weighted sums of adapters: what each `combination_type` makes of the deltas of one module.

A delta is what an adapter adds to a weight, s B A. Every type here does with the deltas what its name says, in double.
peft's differ in places, and are then wrong or mean something else: its `linear` sums A and B apart, so that the product
has cross terms (here: `peft_linear`); its `ties`, `dare_linear`, `dare_ties` and `magnitude_prune` treat A and B apart
too, where the papers treat deltas (its `…_svd` types do, and equal those here); one adapter alone is always `linear`
there; sources with use_rslora come out too large; and a name that is taken is passed over in silence.
"""

import math

import numpy as np

from llmc.checks import whole
from llmc.errors import ConfigError

EXACT = ("linear", "cat")
LOSSY = {  # how deltas are thinned, and whether a sign is elected
    "svd": (None, False), "ties": ("magnitude", True), "dare_linear": ("random", False), "dare_ties": ("random", True),
    "magnitude_prune": ("magnitude", False),
}  # fmt: skip
TYPES = (*EXACT, "peft_linear", *LOSSY, *(f"{name}_svd" for name in LOSSY if name != "svd"))


def check(combination_type, ranks, weights, svd_rank, svd_clamp, density, majority_sign_method):
    """Raise ConfigError unless the arguments of `add_weighted_adapter` are possible together.

    Returns
    -------
    (str, int or None)
        The type without "_svd", and the rank that `svd_rank` asks for.
    """
    if combination_type not in TYPES:
        raise ConfigError(f"combination_type {combination_type!r}: it is one of {', '.join(TYPES)}")
    kind = combination_type if combination_type == "svd" else combination_type.removesuffix("_svd")
    if not weights or len(ranks) != len(weights):
        raise ConfigError(f"{len(ranks)} adapters and {len(weights)} weights; each adapter needs one weight")
    for weight in weights:
        if isinstance(weight, (bool, str)) or not math.isfinite(weight):
            raise ConfigError(f"weights has {weight!r}; a weight is a finite number")
    if kind == "peft_linear" and len(set(ranks)) > 1:
        raise ConfigError(f"peft_linear needs adapters of one rank, not of {', '.join(map(str, ranks))}; take 'linear'")
    if kind not in LOSSY:
        return kind, None
    thinned, elected = LOSSY[kind]
    if thinned and (density is None or isinstance(density, (bool, str)) or not 0 < density <= 1):
        raise ConfigError(f"density is {density!r}; {combination_type} keeps that share of each delta, above 0 and at "
                          f"most 1")
    if elected and majority_sign_method not in ("total", "frequency"):
        raise ConfigError(f"majority_sign_method is {majority_sign_method!r}; it is 'total' or 'frequency'")
    if svd_clamp is not None and not 0 <= svd_clamp <= 1:
        raise ConfigError(f"svd_clamp is {svd_clamp!r}; it is a quantile, from 0 to 1")
    return kind, max(ranks) if svd_rank is None else whole(svd_rank, "svd_rank", 1)


def combine(kind, pairs, weights, rank=None, density=None, majority_sign_method="total", clamp=None, random=None):
    """One module's A and B, whose product is the combination of deltas.

    Parameters
    ----------
    kind : str
        As `check` gives it.
    pairs : list of (A, B, scale)
        A (R, I), B (O, R); R may differ.
    weights : list of float
    rank : int
        Of what is left of the combination, for the types that are not exact.
    density, majority_sign_method, clamp
        As for `add_weighted_adapter`.
    random : numpy.random.Generator
        Of the types that drop at random.

    Returns
    -------
    (A, B, kept)
        float64 (R, I) and (O, R), and the share of the combination's squared norm that rank R holds.
    """
    pairs = [(np.asarray(A, np.float64), np.asarray(B, np.float64), scale) for A, B, scale in pairs]
    factors = [weight * scale for weight, (_, _, scale) in zip(weights, pairs)]
    if kind in EXACT:
        return np.vstack([f * A for f, (A, _, _) in zip(factors, pairs)]), np.hstack([B for _, B, _ in pairs]), 1.0
    if kind == "peft_linear":
        roots = [math.sqrt(abs(f)) for f in factors]
        A = sum(math.copysign(root, f) * A for root, f, (A, _, _) in zip(roots, factors, pairs))
        return A, sum(root * B for root, (_, B, _) in zip(roots, pairs)), 1.0
    if kind == "svd":
        A, B, _ = combine("linear", pairs, weights)
        return truncate(*_svd_of_product(B, A), rank, clamp)
    thinned, elected = LOSSY[kind]
    deltas = [_thin(scale * (B @ A), density, thinned, random) for A, B, scale in pairs]
    return truncate(*svd(_elect(deltas, weights, majority_sign_method) if elected else _sum(deltas, weights), rank),
                    rank, clamp)


def _sum(deltas, weights):
    return sum(weight * delta for weight, delta in zip(weights, deltas))


def _thin(delta, density, how, random):
    """Keep a share `density`: the largest numbers, or random ones, which are then scaled up (Yu et al., 2024)."""
    if density == 1:
        return delta
    if how == "random":
        return np.where(random.random(delta.shape) < density, delta / density, 0.0)
    kept = int(density * delta.size)
    thinned = np.zeros(delta.size)
    if kept:
        largest = np.argpartition(np.abs(delta).ravel(), delta.size - kept)[delta.size - kept:]
        thinned[largest] = delta.ravel()[largest]
    return thinned.reshape(delta.shape)


def _elect(deltas, weights, method):
    """TIES (Yadav et al., 2023): the mean, over the deltas that agree with the elected sign, of the weighted deltas."""
    votes = sum(deltas) if method == "total" else sum(map(np.sign, deltas))
    elected = np.where(votes >= 0, 1.0, -1.0)
    agree = [np.sign(delta) == elected for delta in deltas]
    total = _sum([delta * mask for delta, mask in zip(deltas, agree)], weights)
    return total / np.maximum(sum(mask.astype(np.float64) for mask in agree), 1)


def svd(delta, rank):
    """The `rank` largest singular triples of a matrix: (U, S, Vh), and the squared norm of all of it."""
    tall = delta.shape[0] >= delta.shape[1]
    small = delta.T @ delta if tall else delta @ delta.T
    _, vectors = np.linalg.eigh(small)
    vectors = vectors[:, ::-1][:, :rank]
    product = delta @ vectors if tall else delta.T @ vectors
    S = np.linalg.norm(product, axis=0)
    other = np.divide(product, S, out=np.zeros_like(product), where=S > 0)
    U, V = (other, vectors) if tall else (vectors, other)
    return U, S, V.T, float(np.sum(delta * delta))


def _svd_of_product(B, A):
    """The singular triples of B A, by way of its small core."""
    Q, R = np.linalg.qr(B)
    P, L = np.linalg.qr(A.T)
    U, S, Vh = np.linalg.svd(R @ L.T)
    k = len(S)
    return Q @ U[:, :k], S, Vh[:k] @ P.T, float(np.sum(S * S))


def truncate(U, S, Vh, squared, rank, clamp=None):
    """(A, B, kept): peft's split of a truncated SVD, A = Vh and B = U S, filled up with zeros to the rank."""
    k = min(rank, len(S))
    A, B = np.zeros((rank, Vh.shape[1])), np.zeros((U.shape[0], rank))
    A[:k], B[:, :k] = Vh[:k], U[:, :k] * S[:k]
    kept = float(np.sum(S[:k] ** 2)) / squared if squared > 0 else 1.0
    if clamp is not None:
        high = np.quantile(np.concatenate([A[:k].ravel(), B[:, :k].ravel()]), clamp)
        A, B = np.clip(A, -high, high), np.clip(B, -high, high)
    return A, B, min(kept, 1.0)
