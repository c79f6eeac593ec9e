"""The pieces alone: arrays in, arrays out. Every function has a `_backward` twin that takes the output's gradient first
and gives the gradients of the inputs, in their order.

Arrays of any float dtype and layout are taken; results are float32. B batch, T time, C width, H query heads, G
key/value heads, D head size, V vocabulary.
"""

import math

import numpy as np

from llmc.calls import public
from llmc.checks import LARGEST
from llmc.core import _core
from llmc.dtype_words import dtype_word as _dtype_word
from llmc.errors import ConfigError, DataError, ShapeError
from llmc.inputs import IGNORE

_FORWARD = object()  # no gradient is given: the result is asked for


def _real(x, name, ndim=None):
    array = np.asarray(x)
    if array.dtype.kind not in "fiuV" or array.dtype == object:
        raise TypeError(f"{name} must be numbers, not {array.dtype}")
    array = np.require(array, np.float32, "CA")
    if ndim is not None and array.ndim != ndim:
        raise ShapeError(f"{name} has shape {array.shape}; {ndim} dimensions are needed")
    return array


def _integers(x, name):
    array = np.asarray(x)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, not {array.dtype}")
    if array.size and (int(array.max()) > LARGEST or int(array.min()) < -LARGEST - 1):
        raise DataError(f"{name} holds {int(array.max())}, beyond 32 bits")
    return np.require(array, np.int32, "CA")


def _same(a, b, what):
    if a.shape != b.shape:
        raise ShapeError(f"{what}: shapes {a.shape} and {b.shape} differ")


def _apply(op, arrays, result, dout=_FORWARD, **numbers):
    """An array of shape `result`, or the gradients of `arrays` when `dout` is given."""
    arrays = tuple(arrays)
    if math.prod(result) == 0:
        if dout is _FORWARD:
            return np.zeros(result, np.float32)
        return tuple(a if a is None else np.zeros_like(a) for a in arrays)
    numbers.setdefault("shape", (1, 1))
    if dout is _FORWARD:
        out = np.empty(result, np.float32)
        _core.functional(op, arrays, (None,) * len(arrays), out.reshape(-1), None, out.size, **numbers)
        return out
    dout = _real(dout, "dout")
    if dout.shape != tuple(result):
        raise ShapeError(f"dout has shape {dout.shape}, the output has {tuple(result)}")
    gradients = tuple(a if a is None else np.zeros_like(a) for a in arrays)
    _core.functional(op, arrays, gradients, None, dout.reshape(-1), dout.size, **numbers)
    return gradients


# --- embedding -------------------------------------------------------------------------------------------------------
def _embedding(ids, weight, dout=_FORWARD):
    weight, ids = _real(weight, "weight", 2), _integers(ids, "ids")
    if ids.size and not (0 <= ids.min() and ids.max() < weight.shape[0]):
        raise DataError(f"ids reach from {ids.min()} to {ids.max()}, outside [0, {weight.shape[0]})")
    if ids.size == 0:
        return np.zeros((*ids.shape, weight.shape[1]), np.float32) if dout is _FORWARD else np.zeros_like(weight)
    shape = (*ids.shape, weight.shape[1])
    result = _apply("embedding", (None, weight), shape, dout, ids=ids.ravel(), shape=(1, ids.size))
    return result if dout is _FORWARD else result[1]


@public
def embedding(ids, weight):
    """Rows of `weight` (V, C) by `ids` (...): (..., C)."""
    return _embedding(ids, weight)


@public
def embedding_backward(dout, ids, weight):
    """The gradient of `weight` (V, C)."""
    return _embedding(ids, weight, dout)


# --- norms -----------------------------------------------------------------------------------------------------------
def _rmsnorm(x, weight, eps, dout=_FORWARD):
    x, weight = _real(x, "x"), _real(weight, "weight", 1)
    _of_width(x, weight=weight)
    return _apply("rmsnorm", (_rows(x), weight), x.shape, dout, number=_eps(eps))


@public
def rmsnorm(x, weight, eps=1e-6):
    """x / sqrt(mean(x^2) + eps) * weight over the last axis (Zhang and Sennrich, 2019). x (..., C), weight (C)."""
    return _rmsnorm(x, weight, eps)


@public
def rmsnorm_backward(dout, x, weight, eps=1e-6):
    """(dx, dweight)."""
    return _shaped(_rmsnorm(x, weight, eps, dout), x)


def _layernorm(x, weight, bias, eps, dout=_FORWARD):
    x, weight, bias = _real(x, "x"), _real(weight, "weight", 1), _real(bias, "bias", 1)
    _of_width(x, weight=weight, bias=bias)
    return _apply("layernorm", (_rows(x), weight, bias), x.shape, dout, number=_eps(eps))


@public
def layernorm(x, weight, bias, eps=1e-5):
    """(x - mean) / sqrt(var + eps) * weight + bias over the last axis (Ba et al., 2016). x (..., C)."""
    return _layernorm(x, weight, bias, eps)


@public
def layernorm_backward(dout, x, weight, bias, eps=1e-5):
    """(dx, dweight, dbias)."""
    return _shaped(_layernorm(x, weight, bias, eps, dout), x)


def _eps(eps):
    if not 0 <= eps < math.inf:
        raise ConfigError(f"eps is {eps}; it must be finite and at least 0")
    return float(eps)


def _rows(x):
    """x as (N, C); the core has no need of the other dimensions."""
    if x.ndim == 0:
        raise ShapeError("x is a single number; a last axis is needed")
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _of_width(x, **vectors):
    for name, vector in vectors.items():
        if vector.shape != x.shape[-1:]:
            raise ShapeError(f"{name} has shape {vector.shape}, x has {x.shape}; one number for each of its last axis")


def _shaped(gradients, x):
    return (gradients[0].reshape(np.shape(x)), *gradients[1:])


# --- linear ----------------------------------------------------------------------------------------------------------
def _linear(x, weight, bias, precision, dout=_FORWARD):
    x, weight = _real(x, "x"), _real(weight, "weight", 2)
    operands = (_rows(x), weight) if bias is None else (_rows(x), weight, _real(bias, "bias", 1))
    if x.shape[-1] != weight.shape[1]:
        raise ShapeError(f"linear: x has width {x.shape[-1]}, weight has shape {weight.shape} (out, in)")
    if bias is not None and operands[2].shape != weight.shape[:1]:
        raise ShapeError(f"linear: bias has shape {operands[2].shape}, weight has shape {weight.shape} (out, in)")
    return _apply("linear", operands, (*x.shape[:-1], weight.shape[0]), dout, precision=_dtype_word(precision))


@public
def linear(x, weight, bias=None, precision="float32"):
    """x weight^T + bias. x (..., I), weight (O, I), bias (O): (..., O).

    precision "bfloat16": x and weight are rounded as they are multiplied, sums are float32; a processor without such
    products computes in float32 (`llmc doctor`).
    """
    return _linear(x, weight, bias, precision)


@public
def linear_backward(dout, x, weight, bias=None, precision="float32"):
    """(dx, dweight), and dbias when there is a bias."""
    return _shaped(_linear(x, weight, bias, precision, dout), x)


# --- rope ------------------------------------------------------------------------------------------------------------
def _rope(x, positions, theta, dout=_FORWARD):
    x = _real(x, "x", 4)
    B, T, H, D = x.shape
    if D % 2:
        raise ShapeError(f"rope: heads of size {D}; an even size is needed")
    if not 1 < theta < math.inf:
        raise ConfigError(f"rope: theta is {theta}; it must be finite and above 1")
    positions = _integers(np.arange(T) if positions is None else positions, "positions")
    try:
        positions = np.ascontiguousarray(np.broadcast_to(positions, (B, T)))
    except ValueError:
        raise ShapeError(f"rope: positions have shape {positions.shape}, x has (B, T) = {(B, T)}") from None
    flat = x.reshape(B, T, H * D)
    return _apply("rope", (flat,), x.shape, dout, shape=(B, T), ids=positions, heads=H, size=D, number=float(theta))


@public
def rope(x, positions=None, theta=10000.0):
    """Rotary positions, rotate-half form (Su et al., 2021). x (B, T, H, D), positions (T,) or (B, T)."""
    return _rope(x, positions, theta)


@public
def rope_backward(dout, x, positions=None, theta=10000.0):
    """dx."""
    return _rope(x, positions, theta, dout)[0].reshape(np.shape(x))


# --- attention -------------------------------------------------------------------------------------------------------
def _attention(q, k, v, causal, window, attention_mask, scale, precision, dout=_FORWARD):
    q, k, v = (_real(x, name, 4) for x, name in ((q, "q"), (k, "k"), (v, "v")))
    (B, T, H, D), (keys, G) = q.shape, k.shape[1:3]
    _same(k, v, "attention: k and v")
    if k.shape[0] != B or k.shape[3] != D or G < 1 or H % G:
        raise ShapeError(f"attention: q {q.shape} and k {k.shape} do not go together as (B, T, H, D) and (B, T, G, D)")
    if causal and keys < T:
        raise ShapeError(f"attention: {T} causal queries need at least as many keys, there are {keys}")
    if window is not None and window < 1:
        raise ConfigError(f"attention: window is {window}; it must be at least 1, or None")
    mask = None
    if attention_mask is not None:
        mask = np.asarray(attention_mask)
        if mask.shape != (B, keys):
            raise ShapeError(f"attention_mask has shape {mask.shape}, the keys have (B, T) = {(B, keys)}")
        mask = np.ascontiguousarray(mask != 0, dtype=np.uint8)
    operands = (q.reshape(B, T, H * D), k.reshape(B, keys, G * D), v.reshape(B, keys, G * D))
    return _apply("attention", operands, q.shape, dout, shape=(B, T), mask=mask, heads=H, groups=G, size=D,
                  window=window or 0, causal=bool(causal), number=float(scale or 1 / math.sqrt(D)),
                  precision=_dtype_word(precision))  # fmt: skip


@public
def attention(q, k, v, causal=True, window=None, attention_mask=None, scale=None, precision="float32"):
    """softmax(scale q k^T) v without ever forming the pattern (Dao et al., 2022).

    Parameters
    ----------
    q : (B, T, H, D)
    k, v : (B, keys, G, D)
        Query head h reads key/value head h // (H // G). With causal, query t sits at key t + keys - T.
    window : int, optional
        Keys a query sees, its own included.
    attention_mask : (B, keys) of 0 and 1, optional
    scale : float, optional
        By default 1 / sqrt(D).
    precision : "float32" or "bfloat16"
        Of the two products, as for `linear`.

    Returns
    -------
    (B, T, H, D) float32
        Zeros where a query sees no key.
    """
    return _attention(q, k, v, causal, window, attention_mask, scale, precision)


@public
def attention_backward(dout, q, k, v, causal=True, window=None, attention_mask=None, scale=None,
                       precision="float32"):  # fmt: skip
    """(dq, dk, dv)."""
    gradients = _attention(q, k, v, causal, window, attention_mask, scale, precision, dout)
    return tuple(g.reshape(np.shape(x)) for g, x in zip(gradients, (q, k, v)))


# --- activations -----------------------------------------------------------------------------------------------------
def _activation(x, kind, dout=_FORWARD):
    x = _real(x, "x")
    return _apply("activation", (x.reshape(1, -1),), x.shape, dout, act=kind)


def _gelu_kind(approximate):
    if approximate not in ("none", "tanh"):
        raise ConfigError(f"gelu: approximate is {approximate!r}; it is 'none' or 'tanh'")
    return "gelu" if approximate == "none" else "gelu_tanh"


@public
def gelu(x, approximate="none"):
    """x Phi(x) (Hendrycks and Gimpel, 2016), exact or by tanh."""
    return _activation(x, _gelu_kind(approximate))


@public
def gelu_backward(dout, x, approximate="none"):
    """dx."""
    return _activation(x, _gelu_kind(approximate), dout)[0].reshape(np.shape(x))


@public
def silu(x):
    """x sigmoid(x)."""
    return _activation(x, "silu")


@public
def silu_backward(dout, x):
    """dx."""
    return _activation(x, "silu", dout)[0].reshape(np.shape(x))


def _swiglu(gate, up, dout=_FORWARD):
    gate, up = _real(gate, "gate"), _real(up, "up")
    _same(gate, up, "swiglu: gate and up")
    return _apply("gate", (gate.reshape(1, -1), up.reshape(1, -1)), gate.shape, dout, act="silu")


@public
def swiglu(gate, up):
    """silu(gate) * up (Shazeer, 2020)."""
    return _swiglu(gate, up)


@public
def swiglu_backward(dout, gate, up):
    """(dgate, dup)."""
    return tuple(g.reshape(np.shape(gate)) for g in _swiglu(gate, up, dout))


# --- softmax and loss ------------------------------------------------------------------------------------------------
def _softmax(x, dout=_FORWARD):
    x = _real(x, "x")
    return _apply("softmax", (_rows(x),), x.shape, dout)


@public
def softmax(x):
    """exp(x) / sum(exp(x)) over the last axis."""
    return _softmax(x)


@public
def softmax_backward(dout, x):
    """dx."""
    return _softmax(x, dout)[0].reshape(np.shape(x))


def _cross_entropy(logits, targets, dout=_FORWARD):
    logits, targets = _real(logits, "logits"), _integers(targets, "targets")
    if logits.ndim == 0 or logits.shape[:-1] != targets.shape:
        raise ShapeError(f"cross_entropy: logits have shape {logits.shape}, targets {targets.shape}")
    bad = targets[((targets < 0) & (targets != IGNORE)) | (targets >= logits.shape[-1])]
    if bad.size:
        raise DataError(f"cross_entropy: target {bad[0]} is neither {IGNORE} nor in [0, {logits.shape[-1]})")
    items = np.count_nonzero(targets >= 0)
    rows = _rows(logits)[None]
    losses = (1, rows.shape[1])
    ones = _FORWARD if dout is _FORWARD else np.ones(losses)
    result = _apply("cross_entropy", (rows,), losses, ones, ids=targets.ravel(), shape=losses, number=float(items))
    if dout is _FORWARD:
        return float(result.sum(dtype=np.float64) / items) if items else 0.0
    return result[0].reshape(logits.shape) * np.float32(dout)


@public
def cross_entropy(logits, targets):
    """The mean of logsumexp(logits) - logits[target] over the targets that are not -100; nothing is shifted.

    Parameters
    ----------
    logits : (..., V)
    targets : (...) integers

    Returns
    -------
    float
        0 when every target is ignored.
    """
    return _cross_entropy(logits, targets)


@public
def cross_entropy_backward(dout, logits, targets):
    """The gradient of `logits`; `dout` is a number."""
    return _cross_entropy(logits, targets, dout)
