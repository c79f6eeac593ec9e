"""Spectrum: the singular values of a change, exact or by subspace iteration, and what they say of its rank."""

import math

import numpy as np

METHODS = ("auto", "exact", "randomised")
LARGEST_EXACT = 2048  # min(out, in), for "auto"
LISTED = 64
ENERGY_RANKS = (1, 2, 4, 8, 16, 32, 64)
NEGLIGIBLE = 1e-9  # share of delta_norm² that an exact spectrum may count as 0
ENOUGH = 0.9999  # share of delta_norm² that must be found before an effective rank is told
FOUND = 128  # singular values that subspace iteration finds
_OVERSAMPLED, _PASSES, _SKETCHED = 32, 4, 72
_BLOCK = 1 << 21  # numbers that are widened at a time
_COMPARED, _LIKE = 10, 0.5  # left singular vectors of tuned, and the |cosine| from which on two are alike
_LEAST = 1e-6  # of σ₁: smaller ones are no signal
_NOISE = 1.5  # times s (√out + √in), the largest σ that noise of deviation s has


def measure(delta, norm, noise, method="auto"):
    """The spectral keys of a diff's row.

    Parameters
    ----------
    delta : (M, N) array, or a pair (B, A) of factors with B A = Δ
    norm : float
        Frobenius, of Δ.
    noise : float
        The deviation that rounding alone gives a number of Δ.
    method : "auto", "exact" or "randomised"

    Returns
    -------
    dict
    """
    shape = (len(delta[0]), delta[1].shape[1]) if isinstance(delta, tuple) else delta.shape
    method = _method(method, min(shape))
    if not norm:
        return {"spectrum_method": method, **nothing()}
    sigma = from_factors(*delta) if isinstance(delta, tuple) else \
        exact(delta, norm) if method == "exact" else randomised(delta, norm)  # fmt: skip
    return {"spectrum_method": method, **described(sigma, norm, noise, shape, method == "exact")}


def nothing():
    """The spectrum of a matrix that did not change."""
    return {"spectral_norm": 0.0, "stable_rank": None, "effective_rank": None, "rank_90": 0, "rank_95": 0, "rank_99": 0,
            "signal_rank": 0, "singular_values": [], "energy": None}  # fmt: skip


def described(sigma, norm, noise, shape, all_found):
    """What singular values (descending) say; where not `all_found`, what they cannot say is None."""
    held = np.cumsum(sigma * sigma) / (norm * norm)
    share = float(held[-1])
    limit = max(_LEAST * sigma[0], noise_limit(noise, shape))
    signal = int(np.sum(sigma > limit))
    p = sigma[sigma > 0] / sigma.sum()
    enough = all_found or share >= ENOUGH
    return {
        "spectral_norm": float(sigma[0]),
        "stable_rank": float(norm * norm / sigma[0] ** 2),
        "effective_rank": float(np.exp(-(p * np.log(p)).sum())) if enough else None,
        **{f"rank_{percent}": _rank(held, percent / 100, all_found) for percent in (90, 95, 99)},
        "signal_rank": signal if all_found or signal < len(sigma) else None,
        "singular_values": [float(each) for each in sigma[:LISTED]],
        "energy": [min(1.0, float(held[min(rank, len(held)) - 1])) for rank in ENERGY_RANKS],
    }


def noise_limit(noise, shape):
    """The singular value up to which rounding of deviation `noise` explains a matrix."""
    return _NOISE * noise * (math.sqrt(shape[0]) + math.sqrt(shape[1]))


def _rank(held, share, all_found):
    """The smallest k whose first k values hold a share; of an exact spectrum the last holds all."""
    at = int(np.searchsorted(held, share))
    return at + 1 if at < len(held) else len(held) if all_found else None


def _method(method, smaller):
    return ("exact" if smaller <= LARGEST_EXACT else "randomised") if method == "auto" else method


def exact(delta, norm):
    """All singular values of Δ, descending: of a sketch that holds nearly all of it, else of the smaller Gram matrix.

    Returns
    -------
    (K,) float64
        K is min(M, N), or less where the rest counts as 0.
    """
    if min(delta.shape) > 2 * _SKETCHED:
        sigma = _of_sketch(delta, _subspace(delta, _SKETCHED, passes=0))
        if norm * norm - float(np.sum(sigma * sigma)) <= NEGLIGIBLE * norm * norm:
            return sigma
    return np.sqrt(np.maximum(np.linalg.eigvalsh(gram(delta))[::-1], 0.0))


def gram(delta):
    """The smaller of Δ Δᵀ and Δᵀ Δ, in float64."""
    tall = delta if delta.shape[0] >= delta.shape[1] else delta.T
    total = np.zeros((tall.shape[1],) * 2)
    step = max(1, _BLOCK // max(1, tall.shape[1]))
    for first in range(0, len(tall), step):
        block = tall[first : first + step].astype(np.float64)
        total += block.T @ block
    return total


def randomised(delta, norm):
    """The first `FOUND` singular values, by subspace iteration (Halko, Martinsson & Tropp 2011), always the same."""
    sigma = _of_sketch(delta, _subspace(delta, FOUND + _OVERSAMPLED, _PASSES))
    return sigma[:FOUND]


def from_factors(B, A):
    """The singular values of B A, without forming it; those that are rounding's are left out."""
    B, A = B.astype(np.float64), A.astype(np.float64)
    small = np.linalg.qr(B, mode="r") @ np.linalg.qr(A.T, mode="r").T
    sigma = np.linalg.svd(small, compute_uv=False)
    return sigma[sigma > sigma[0] * 1e-14] if sigma[0] else sigma[:1]


def _subspace(delta, size, passes):
    """An orthonormal basis (M, size) of what Δ does to a few random vectors, `passes` times over."""
    size = min(size, *delta.shape)
    start = np.random.default_rng(0).standard_normal((delta.shape[1], size), dtype=np.float32)
    basis = np.linalg.qr(delta @ start.astype(delta.dtype, copy=False))[0]
    for _ in range(passes):
        basis = np.linalg.qr(delta @ np.linalg.qr(delta.T @ basis)[0])[0]
    return np.linalg.qr(basis.astype(np.float64))[0]


def _of_sketch(delta, basis):
    """The singular values of basisᵀ Δ, in float64."""
    rows = np.zeros((basis.shape[1], delta.shape[1]))
    step = max(1, _BLOCK // max(1, delta.shape[1]))
    for first in range(0, len(delta), step):
        rows += basis[first : first + step].T @ delta[first : first + step].astype(np.float64)
    return np.linalg.svd(rows, compute_uv=False)


def intruders(read_base, read_tuned):
    """How many of the first 10 left singular vectors of tuned the base has none like, and how like its likest is.

    Shuttleworth et al. 2024 (arXiv 2410.21228): one is an intruder where no left singular vector of the base has a
    |cosine| of 0.5 with it.

    Parameters
    ----------
    read_base, read_tuned : callable
        Give the matrices (out, in), one after the other.

    Returns
    -------
    (int, list of float)
    """
    vectors = _first_left(read_tuned(), _COMPARED)
    likeness = np.abs(_along_left(read_base(), vectors)).max(axis=0)
    return int(np.sum(likeness < _LIKE)), [min(1.0, float(each)) for each in likeness]


def _first_left(matrix, count):
    """The first left singular vectors (out, count), in float64."""
    values, vectors = np.linalg.eigh(gram(matrix))
    values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count]
    if matrix.shape[0] < matrix.shape[1]:
        return vectors
    kept = _told(values)
    return _product(matrix, vectors[:, kept]) / np.sqrt(values[kept])


def _along_left(matrix, vectors):
    """The components of vectors (out, K) along all left singular vectors of a matrix, which need not be formed."""
    values, own = np.linalg.eigh(gram(matrix))
    if matrix.shape[0] < matrix.shape[1]:
        return own.T @ vectors
    kept = _told(values)
    return (own[:, kept].T @ _product(matrix.T, vectors)) / np.sqrt(values[kept])[:, None]


def _told(values):
    """Which eigenvalues of a Gram matrix are more than its rounding."""
    return values > 1e-14 * max(float(values.max()), np.finfo(float).tiny)


def _product(matrix, vectors):
    """matrix @ vectors in float64, a few rows at a time."""
    step = max(1, _BLOCK // max(1, matrix.shape[1]))
    return np.concatenate([matrix[first : first + step].astype(np.float64) @ vectors
                           for first in range(0, len(matrix), step)])
