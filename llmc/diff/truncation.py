"""Truncation: the best approximation of a matrix at a rank (Eckart & Young 1936), exact or by subspace iteration."""

from dataclasses import dataclass

import numpy as np

from llmc.diff.spectrum import LARGEST_EXACT, gram

METHODS = ("auto", "exact", "randomised")
OVERSAMPLED, PASSES = 8, 4
_NOTHING = 1e-8  # of the largest singular value: what is smaller is rounding of the smaller Gram matrix
_SLACK = 1e-12  # of a share, which is a sum in float64
_FIRST = 64  # singular values that are looked for at first where a share of the whole is asked for


@dataclass
class Truncation:
    """The first singular triples of a matrix.

    Attributes
    ----------
    U : (O, R) float64
    sigma : (R,) float64
    Vt : (R, I) float64
    following : float
        The singular value behind the last of them.
    squared : float
        The squared Frobenius norm of the whole matrix.
    """

    U: np.ndarray
    sigma: np.ndarray
    Vt: np.ndarray
    following: float
    squared: float

    @property
    def kept(self):
        """The share of the squared norm that they hold."""
        return min(1.0, float(self.sigma @ self.sigma) / self.squared)

    def factors(self):
        """(A (R, I), B (O, R)): B = U sqrt(sigma), A = sqrt(sigma) V^T."""
        root = np.sqrt(self.sigma)
        return root[:, None] * self.Vt, self.U * root


def truncate(delta, rank=None, energy=None, method="auto", seed=0):
    """The best approximation of a matrix that is not zero.

    Parameters
    ----------
    delta : (O, I) array, or a pair (B (O, K), A (K, I)) whose product it is
    rank : int, optional
        At most so many.
    energy : float, optional
        As few as hold this share of the squared norm.
    method : "auto", "exact" or "randomised"
        "auto": exact up to min(O, I) = 2048.
    seed : int
        Of "randomised".

    Returns
    -------
    Truncation
    """
    if isinstance(delta, tuple):
        return _cut(*_of_product(*delta), None, rank, energy)
    smaller = min(delta.shape)
    squared = _squared(delta)
    if method == "exact" or method == "auto" and smaller <= LARGEST_EXACT:
        return _cut(*_exact(delta, smaller if rank is None else min(rank, smaller)), squared, rank, energy)
    size = min(smaller, _FIRST if rank is None else rank)
    while True:
        found = _cut(*_randomised(delta, min(size + OVERSAMPLED, smaller), seed), squared, rank, energy)
        if energy is None or size >= min(smaller, rank or smaller) or found.kept >= energy - _SLACK:
            return found
        size = min(2 * size, smaller, rank or smaller)


def _cut(U, sigma, Vt, squared, rank, energy):
    """The leading triples that are asked for, of all that were found."""
    squared = float(sigma @ sigma) if squared is None else squared
    keep = int(np.count_nonzero(sigma > _NOTHING * sigma[0]))
    keep = keep if rank is None else min(keep, rank)
    if energy is not None:
        held = np.cumsum(sigma * sigma) / squared
        keep = min(keep, int(np.searchsorted(held, energy - _SLACK)) + 1)
    following = float(sigma[keep]) if keep < len(sigma) else 0.0
    return Truncation(U[:, :keep], sigma[:keep], Vt[:keep], following, squared)


def _exact(delta, rank):
    """All singular values, and the vectors of the first `rank`, by way of the smaller Gram matrix in float64."""
    values, vectors = np.linalg.eigh(gram(delta))
    sigma, vectors = np.sqrt(np.maximum(values[::-1], 0.0)), vectors[:, ::-1][:, :rank]
    tall = delta.shape[0] >= delta.shape[1]
    product = _product(delta if tall else delta.T, vectors)
    lengths = np.linalg.norm(product, axis=0)  # more exact than the root of an eigenvalue
    sigma[:rank] = lengths
    other = np.divide(product, lengths, out=np.zeros_like(product), where=lengths > 0)
    return (other, sigma, vectors.T) if tall else (vectors, sigma, other.T)


def _product(matrix, vectors):
    """matrix @ vectors in float64, some rows widened at a time."""
    blocks = np.array_split(matrix, -(-len(matrix) // 256))
    return np.concatenate([rows.astype(np.float64) @ vectors for rows in blocks])


def _randomised(delta, size, seed):
    """The triples within a subspace of `size` dimensions (Halko, Martinsson & Tropp 2011)."""
    start = np.random.default_rng(seed).standard_normal((delta.shape[1], size), dtype=np.float32)
    basis = np.linalg.qr(delta @ start.astype(delta.dtype, copy=False))[0]
    for _ in range(PASSES):
        basis = np.linalg.qr(delta @ np.linalg.qr(delta.T @ basis)[0])[0]
    basis = np.linalg.qr(basis.astype(np.float64))[0]
    U, sigma, Vt = np.linalg.svd(basis.T @ delta, full_matrices=False)
    return basis @ U, sigma, Vt


def _of_product(B, A):
    """All triples of B A, without forming it."""
    Q, R = np.linalg.qr(B.astype(np.float64))
    P, L = np.linalg.qr(A.T.astype(np.float64))
    U, sigma, Vt = np.linalg.svd(R @ L.T, full_matrices=False)
    return Q @ U, sigma, Vt @ P.T


def _squared(delta):
    """The squared Frobenius norm, in float64."""
    return sum(float(np.square(rows, dtype=np.float64).sum()) for rows in np.array_split(delta, -(-len(delta) // 512)))
