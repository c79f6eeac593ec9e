"""The truth of a diff: every number of a row from two whole arrays, in float64 NumPy, with no thought of memory."""

import ml_dtypes
import numpy as np

RANKS = (1, 2, 4, 8, 16, 32, 64)


def ulp(values, dtype):
    """The spacing of a dtype at each value; 0 for 0."""
    info = ml_dtypes.finfo(dtype)
    values = np.abs(values.astype(np.float64))
    exponent = np.floor(np.log2(np.where(values > 0, values, 1.0)))
    return np.where(values > 0, 2.0 ** (np.maximum(exponent, info.minexp) - info.nmant), 0.0)


def change(base, tuned):
    """The keys from base_norm to rounding_floor."""
    kind = min((base.dtype, tuned.dtype), key=lambda dtype: ml_dtypes.finfo(dtype).nmant)
    wide = np.float64 if np.float64 in (base.dtype, tuned.dtype) else np.float32
    delta = (tuned.astype(wide) - base.astype(wide)).astype(np.float64)
    b, t = base.astype(np.float64), tuned.astype(np.float64)
    norm = np.linalg.norm
    return {
        "base_norm": norm(b), "tuned_norm": norm(t), "delta_norm": norm(delta),
        "relative_change": norm(delta) / norm(b) if b.any() else None,
        "cosine": float((b * t).sum() / norm(b) / norm(t)) if b.any() and t.any() else None,
        "max_abs": np.abs(delta).max(), "max_at": list(np.unravel_index(np.abs(delta).argmax(), delta.shape)),
        "mean": delta.mean(), "std": delta.std(),
        "rounding_floor": np.sqrt((ulp(base, kind) ** 2).sum() / 12) / norm(b) if b.any() else None,
    }  # fmt: skip


def spectrum(delta, noise):
    """The keys from spectral_norm to energy, of Δ as (out, in)."""
    sigma = np.linalg.svd(delta.astype(np.float64), compute_uv=False)
    held = np.cumsum(sigma**2) / (sigma**2).sum()
    p = sigma[sigma > 0] / sigma.sum()
    limit = max(1e-6 * sigma[0], 1.5 * noise * (np.sqrt(delta.shape[0]) + np.sqrt(delta.shape[1])))
    return {
        "spectral_norm": sigma[0], "stable_rank": (sigma**2).sum() / sigma[0] ** 2,
        "effective_rank": np.exp(-(p * np.log(p)).sum()),
        **{f"rank_{percent}": int(np.argmax(held >= percent / 100)) + 1 for percent in (90, 95, 99)},
        "signal_rank": int((sigma > limit).sum()), "singular_values": sigma[:64],
        "energy": [held[min(rank, len(held)) - 1] for rank in RANKS],
    }  # fmt: skip


def units(base, delta, count, axis):
    """(units_90, [(index, base_norm, change, share)], largest first) of `count` equal units along an axis."""
    pieces = [np.split(matrix.astype(np.float64), count, axis) for matrix in (base, delta)]
    norms, changes = (np.array([np.linalg.norm(piece) for piece in each]) for each in pieces)
    order = np.argsort(-changes, kind="stable")
    shares = changes**2 / (changes**2).sum()
    return int(np.argmax(np.cumsum(shares[order]) >= 0.9)) + 1, [(i, norms[i], changes[i], shares[i]) for i in order]
