"""What changed weights do by themselves: f'(x) - f(x) of one module, x being what the base's module reads.

Of linear maps and norms that is another linear map or norm, of the changed numbers: x dW^T + db, x/|x| dw. So a change
far smaller than the weights is measured as exactly as a large one, and weights that are the same give exactly 0.
"""

import numpy as np

from llmc.inputs import as_positions

_AT_ONCE = 1 << 21  # numbers of a weight whose change is formed at a time
_COMPARED = 64  # rows of two weights
_IN_DOUBLE = 1 << 15  # numbers that are squared in double at a time: they stay in the cache


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
    flat, total, room = array.reshape(-1), 0.0, np.empty(_IN_DOUBLE)
    for start in range(0, len(flat), _IN_DOUBLE):
        part = flat[start : start + _IN_DOUBLE]
        wide = room[: len(part)]
        wide[...] = part
        total += float(np.einsum("i,i->", wide, wide))
    return total


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
    if before.norm_eps != after.norm_eps:
        return squared(normed(after, x, name) - normed(before, x, name))
    (w, b), (w_new, b_new) = (_weight_and_bias(side, name, x.shape[-1]) for side in (before, after))
    return squared(_norm(after, x, w_new - w, b_new - b))


def normed(side, x, name):
    """What the norm `name` of a side gives for x (N, C), in float64."""
    return _norm(side, x, *_weight_and_bias(side, name, x.shape[-1]))


def _weight_and_bias(side, name, width):
    """In float64; those of a norm without parameters are ones and zeros."""
    weight, bias = side.array(f"{name}.weight"), side.array(f"{name}.bias")
    return (np.ones(width) if weight is None else weight.astype(np.float64),
            np.zeros(width) if bias is None else bias.astype(np.float64))  # fmt: skip


def _norm(side, x, weight, bias):
    x = x.astype(np.float64)
    if side.norm != "rms":
        x -= x.mean(axis=-1, keepdims=True)
    x *= weight / np.sqrt(np.einsum("nc,nc->n", x, x)[:, None] / x.shape[-1] + side.norm_eps)
    return x + bias


def _of_linear(name, x, before, after):
    """Over outputs of which both sides have the same number, or the common leading ones."""
    w, w_new = (_as_stored(side, name) for side in (before, after))
    outputs = min(w.shape[0], w_new.shape[0])
    bias = _bias_change(name, before, after, outputs)
    low, B = _branches(x, name, before, after, outputs)
    if bias is None and _are_equal(w[:outputs], w_new[:outputs]):
        return max(float(np.sum((low.T @ low) * (B.T @ B))), 0.0)  # |x A^T B^T|^2 without forming it
    step, total = max(_AT_ONCE // max(x.shape[1], 1), 1), 0.0
    for start in range(0, outputs, step):
        rows = slice(start, min(start + step, outputs))
        delta = np.subtract(w_new[rows], w[rows], dtype=np.float32)
        given = x @ delta.T
        if low.shape[1]:
            given = given + low @ B[rows].T
        if bias is not None:
            given += bias[rows]
        total += squared(given)
    return total


def _as_stored(side, name):
    """The weight of a linear seen as (O, I), in its own dtype where that is a plain array's."""
    weight = np.asarray(side.stored(f"{name}.weight"))
    return weight.T if side.is_in_out(name) else weight


def _are_equal(w, w_new):
    if w.ctypes.data == w_new.ctypes.data and w.dtype == w_new.dtype:  # one parameter, with an adapter beside it
        return True
    blocks = (slice(start, start + _COMPARED) for start in range(0, len(w), _COMPARED))
    return all(np.array_equal(w[rows], w_new[rows]) for rows in blocks)


def _branches(x, name, before, after, outputs):
    """(x A^T (N, R), B (O, R)) in float64, of the low-rank branches that one side alone has."""
    mine, theirs = before.branches(name), after.branches(name)
    apart = [(-1.0, *pair) for pair in mine if not _is_among(pair, theirs)]
    apart += [(1.0, *pair) for pair in theirs if not _is_among(pair, mine)]
    low, wide = np.zeros((len(x), 0)), np.zeros((outputs, 0))
    for sign, A, B in apart:
        low, wide = np.hstack([low, x @ A.T]), np.hstack([wide, sign * B[:outputs]])
    return low, wide


def _is_among(pair, others):
    return any(all(map(np.array_equal, pair, other)) for other in others)


def _bias_change(name, before, after, outputs):
    biases = [side.array(f"{name}.bias") for side in (before, after)]
    if all(bias is None for bias in biases):
        return None
    b, b_new = (np.zeros(outputs, np.float32) if bias is None else bias[:outputs] for bias in biases)
    return b_new - b if (b_new != b).any() else None
