"""What changed weights do by themselves: f'(x) - f(x) of one module, x being what the base's module reads.

Of linear maps and norms that is another linear map or norm, of the changed numbers: x dW^T + db, x/|x| dw. So a change
far smaller than the weights is measured as exactly as a large one, and weights that are the same give exactly 0.
"""

import numpy as np

from llmc.functional import layernorm, rmsnorm
from llmc.inputs import as_positions

_AT_ONCE = 1 << 22  # numbers of a weight whose change is formed at a time


def own_change(module, batch, read, before, after):
    """The squared Frobenius norm of f'(x) - f(x), over the tokens that are not padding.

    Parameters
    ----------
    module : llmc.analysis.modules.Module
    batch : llmc.analysis.feeding.Batch
    read : (N, I) float32, or None
        What the base's module read, padding left out; None for one that reads ids or positions.
    before, after : ComputedWeights

    Returns
    -------
    float or None
        None for what has no weights of its own.
    """
    weight = f"{module.name}.weight"
    if weight not in before or weight not in after:
        return None
    with np.errstate(invalid="ignore", over="ignore"):
        if module.kind == "embedding":
            return _of_embedding(module, batch, before.stored(weight), after.stored(weight))
        if module.kind == "norm":
            return _of_norm(module.name, read, before, after)
        return _of_linear(module.name, read, before, after)


def squared(array):
    """The sum of the squares of an array's numbers, in float64."""
    flat = array.astype(np.float64).ravel()
    return float(np.dot(flat, flat))


def _of_embedding(module, batch, before, after):
    rows = batch.ids
    if module.role == "positions":
        rows = as_positions(None, batch.mask, rows.shape, None)
    which, times = np.unique(rows[batch.real], return_counts=True)
    delta = _rows(after, which) - _rows(before, which)
    return float(times @ np.square(delta, dtype=np.float64).sum(axis=1))


def _rows(table, which):
    return np.asarray(np.asarray(table)[which], dtype=np.float32)


def _of_norm(name, x, before, after):
    weights = [(side.array(f"{name}.weight"), side.array(f"{name}.bias")) for side in (before, after)]
    if before.norm_eps != after.norm_eps:
        given = [_norm(side, x, *pair) for side, pair in zip((before, after), weights)]
        return squared(given[1] - given[0])
    (w, b), (w_new, b_new) = weights
    return squared(_norm(after, x, w_new - w, None if b is None else b_new - b))


def _norm(side, x, weight, bias):
    if side.norm == "bare":
        weight = np.ones(x.shape[-1], np.float32)
    if side.norm != "rms":
        return layernorm(x, weight, np.zeros_like(weight) if bias is None else bias, side.norm_eps)
    return rmsnorm(x, weight, side.norm_eps)


def normed(side, x, name):
    """What the norm `name` of a side gives for x (N, C)."""
    return _norm(side, x, side.array(f"{name}.weight"), side.array(f"{name}.bias"))


def _of_linear(name, x, before, after):
    """Over outputs of which both sides have the same number, or the common leading ones."""
    w, w_new = (_as_stored(side, name) for side in (before, after))
    outputs = min(w.shape[0], w_new.shape[0])
    bias = _bias_change(name, before, after, outputs)
    branches = _through(x, before, after, name, -1) + _through(x, after, before, name, 1)
    step, total = max(_AT_ONCE // max(x.shape[1], 1), 1), 0.0
    for start in range(0, outputs, step):
        rows = slice(start, min(start + step, outputs))
        given = _through_change(x, w, w_new, rows)
        for sign, low, B in branches:
            part = low @ B[rows].T
            given = sign * part if given is None else given + sign * part
        if bias is not None:
            given = bias[rows] if given is None else given + bias[rows]
        if given is not None:
            total += squared(np.broadcast_to(given, (len(x), rows.stop - start)))
    return total


def _as_stored(side, name):
    """The weight of a linear seen as (O, I), in its own dtype where that is a plain array's."""
    weight = np.asarray(side.stored(f"{name}.weight"))
    return weight.T if side.is_in_out(name) else weight


def _through_change(x, w, w_new, rows):
    """x dW^T over some outputs; None where the weights are the same."""
    if w.ctypes.data == w_new.ctypes.data and w.dtype == w_new.dtype:  # one parameter, with an adapter beside it
        return None
    delta = w_new[rows].astype(np.float32, copy=False) - w[rows].astype(np.float32, copy=False)
    return x @ delta.T if delta.any() else None


def _through(x, side, other, name, sign):
    """[(sign, x A^T, B)] of the low-rank branches that the other side has not."""
    theirs = other.branches(name)
    return [(sign, x @ A.T, B) for A, B in side.branches(name)
            if not any(np.array_equal(A, a) and np.array_equal(B, b) for a, b in theirs)]


def _bias_change(name, before, after, outputs):
    biases = [side.array(f"{name}.bias") for side in (before, after)]
    if all(bias is None for bias in biases):
        return None
    b, b_new = (np.zeros(outputs, np.float32) if bias is None else bias[:outputs] for bias in biases)
    return b_new - b if (b_new != b).any() else None
