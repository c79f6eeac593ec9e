"""The pieces alone against the float64 reference, forwards and backwards: odd shapes, any layout, errors in words."""

import numpy as np
import pytest
import reference
from conftest import TOLERANCE

import llmc
from llmc import functional

RNG = np.random.default_rng(0)


def normal(*shape, scale=1.0):
    return np.asarray(scale * RNG.standard_normal(shape), dtype=np.float32)


def positions(rows, length):
    return RNG.integers(0, 3000, (rows, length))


def visible(rows, length):
    mask = RNG.integers(0, 4, (rows, length)) > 0
    mask[:, 0] = True
    return mask.astype(int)


QKV = {
    "one head": (normal(1, 5, 1, 4), normal(1, 5, 1, 4), normal(1, 5, 1, 4)),
    "shared keys": (normal(2, 13, 6, 10), normal(2, 13, 2, 10), normal(2, 13, 2, 10)),
    "odd heads": (normal(3, 7, 3, 5), normal(3, 7, 3, 5), normal(3, 7, 3, 5)),
    "more keys": (normal(2, 3, 4, 8), normal(2, 17, 1, 8), normal(2, 17, 1, 8)),
    "one query": (normal(2, 1, 4, 8), normal(2, 9, 4, 8), normal(2, 9, 4, 8)),
    "long": (normal(1, 301, 2, 33), normal(1, 301, 1, 33), normal(1, 301, 1, 33)),
    "loud": (normal(1, 9, 2, 64, scale=4), normal(1, 9, 2, 64, scale=4), normal(1, 9, 2, 64)),
}

# what: (function, arrays that have a gradient, the other arguments); the reference has the same names
CASES = {
    "embedding": ("embedding", lambda ids: [normal(11, 7)], dict(ids=RNG.integers(0, 11, (2, 5)))),
    "embedding of one id": ("embedding", lambda ids: [normal(3, 1)], dict(ids=np.array(2))),
    "rmsnorm": ("rmsnorm", lambda: [normal(2, 3, 17), normal(17)], {}),
    "rmsnorm, its epsilon": ("rmsnorm", lambda: [normal(5, 1), normal(1)], dict(eps=0.3)),
    "rmsnorm of one row": ("rmsnorm", lambda: [normal(1031), normal(1031)], {}),
    "layernorm": ("layernorm", lambda: [normal(2, 3, 17) + 5, normal(17), normal(17)], {}),
    "layernorm, its epsilon": ("layernorm", lambda: [normal(4, 1030), normal(1030), normal(1030)], dict(eps=0.3)),
    "linear": ("linear", lambda: [normal(2, 3, 17), normal(13, 17), normal(13)], {}),
    "linear without a bias": ("linear", lambda: [normal(5, 3), normal(1, 3)], {}),
    "linear of a vector": ("linear", lambda: [normal(129), normal(67, 129), normal(67)], {}),
    "linear of a long vector": ("linear", lambda: [normal(1031), normal(259, 1031), normal(259)], {}),
    "linear of three long rows": ("linear", lambda: [normal(3, 1031), normal(259, 1031)], {}),
    "linear of many rows": ("linear", lambda: [normal(257, 131), normal(135, 131)], {}),
    "linear of thousands of rows": ("linear", lambda: [normal(2601, 37), normal(23, 37), normal(23)], {}),
    "rope": ("rope", lambda: [normal(2, 5, 3, 8)], {}),
    "rope of given positions": ("rope", lambda: [normal(2, 5, 1, 2)], dict(positions=positions(2, 5), theta=500.0)),
    "rope of one row of positions": ("rope", lambda: [normal(3, 4, 2, 6)], dict(positions=np.array([7, 0, 99, 5]))),
    "gelu": ("gelu", lambda: [normal(3, 41, scale=3)], {}),
    "gelu through tanh": ("gelu", lambda: [normal(3, 41, scale=3)], dict(approximate="tanh")),
    "silu": ("silu", lambda: [normal(1033, scale=5)], {}),
    "silu of five dimensions": ("silu", lambda: [normal(1, 2, 3, 2, 3)], {}),
    "swiglu of six dimensions": ("swiglu", lambda: [normal(1, 2, 1, 2, 1, 3), normal(1, 2, 1, 2, 1, 3)], {}),
    "linear of five dimensions": ("linear", lambda: [normal(1, 2, 3, 2, 3), normal(4, 3), normal(4)], {}),
    "silu of a number": ("silu", lambda: [normal()], {}),
    "swiglu": ("swiglu", lambda: [normal(2, 3, 37, scale=3), normal(2, 3, 37)], {}),
} | {
    f"attention, {name}{what and ', '}{what}": ("attention", lambda qkv=qkv: list(qkv), options)
    for name, qkv in QKV.items()
    for what, options in {
        "": {},
        "everything": dict(causal=False),
        "window": dict(window=3),
        "wide window": dict(window=10_000),
        "mask": dict(attention_mask=visible(qkv[1].shape[0], qkv[1].shape[1])),
        "all at once": dict(window=4, scale=0.3, attention_mask=visible(qkv[1].shape[0], qkv[1].shape[1])),
    }.items()
}  # fmt: skip


def called(module, case, backward=False, layout=None):
    """The result of a case with the function of `module`, or its gradients as a list."""
    function, arrays, options = CASES[case]
    options = dict(options)
    first = [options.pop("ids")] if "ids" in options else []
    RNG.bit_generator.state = np.random.default_rng(len(case)).bit_generator.state
    arrays = arrays(*first)
    arrays = [layout(array) for array in arrays] if layout else arrays
    out = getattr(module, function)(*first, *arrays, **options)
    if not backward:
        return out
    dout = np.random.default_rng(1).standard_normal(np.shape(out))
    dout = layout(dout) if layout else dout
    found = getattr(module, f"{function}_backward")(dout, *first, *arrays, **options)
    found = found if isinstance(found, tuple) else (found,)
    return [gradient for gradient in found if gradient is not None]


def assert_close(ours, theirs, tolerance):
    theirs = np.asarray(theirs)
    assert isinstance(ours, np.ndarray) and ours.dtype == np.float32 and ours.shape == theirs.shape
    assert ours.flags.c_contiguous
    scale = max(1.0, float(np.abs(theirs).max(initial=0)))
    np.testing.assert_allclose(ours / scale, theirs / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize("case", CASES)
def test_forward_is_the_references(case):
    assert_close(called(functional, case), called(reference, case), TOLERANCE["piece"])


@pytest.mark.parametrize("case", CASES)
def test_backward_is_the_references(case):
    ours, theirs = called(functional, case, backward=True), called(reference, case, backward=True)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs):
        assert_close(a, b, TOLERANCE["piece"])


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def strided(array):
    wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype) if array.ndim else np.zeros((), array.dtype)
    view = wide[..., ::2] if array.ndim else wide
    view[...] = array
    return view


def unaligned(array):
    raw = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype) if array.size else array
    raw = raw.reshape(array.shape)
    raw[...] = array
    return raw


LAYOUTS = {
    "read-only": read_only,
    "strided": strided,
    "unaligned": unaligned,
    "columns first": np.asfortranarray,
    "other byte order": lambda array: array.astype(array.dtype.newbyteorder()),
    "double": lambda array: array.astype(np.float64),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", [case for case in CASES if case.count(",") < 2 and "long" not in case])
def test_any_layout_gives_the_same_bits(case, layout):
    change = LAYOUTS[layout]
    np.testing.assert_array_equal(called(functional, case, layout=change), called(functional, case))
    for a, b in zip(called(functional, case, True, change), called(functional, case, True)):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("case", CASES)
def test_inputs_are_left_as_they_were(case):
    function, arrays, options = CASES[case]
    options = dict(options)
    first = [options.pop("ids")] if "ids" in options else []
    arrays = arrays(*first)
    before = [array.copy() for array in arrays]
    out = getattr(functional, function)(*first, *arrays, **options)
    dout = np.ones(np.shape(out), np.float32)
    getattr(functional, f"{function}_backward")(dout, *first, *arrays, **options)
    for a, b in zip(arrays, before):
        np.testing.assert_array_equal(a, b)
    assert (dout == 1).all()


# --- softmax and the loss, whose backward twins take other things than the reference's

LOGITS = {"few": (3, 7), "batch": (2, 3, 101), "one": (1, 1), "wide": (2, 5003), "a vector": (11,)}


@pytest.mark.parametrize("shape", LOGITS.values(), ids=LOGITS)
@pytest.mark.parametrize("scale", [1.0, 30.0, 1e-3])
def test_softmax_is_the_references(shape, scale):
    x, dout = normal(*shape, scale=scale), normal(*shape)
    assert_close(functional.softmax(x), reference.softmax(x), TOLERANCE["piece"])
    expected = reference.softmax_backward(dout, reference.softmax(x))
    assert_close(functional.softmax_backward(dout, x), expected, TOLERANCE["piece"])


@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 101), (1, 1), (130, 5003)], ids=str)
def test_cross_entropy_is_the_references(shape):
    logits = normal(*shape, scale=4)
    targets = RNG.integers(0, shape[-1], shape[:-1])
    targets.flat[::3] = -100 if targets.size > 1 else 0
    loss = functional.cross_entropy(logits, targets)
    assert isinstance(loss, float)
    assert loss == pytest.approx(reference.cross_entropy(logits, targets), abs=TOLERANCE["loss"])
    ours = functional.cross_entropy_backward(0.7, logits, targets)
    assert_close(ours, reference.cross_entropy_backward(0.7, logits, targets), TOLERANCE["piece"])


def test_cross_entropy_of_nothing_is_zero_and_has_no_gradient():
    logits, targets = normal(3, 5), np.full(3, -100)
    assert functional.cross_entropy(logits, targets) == 0
    assert not functional.cross_entropy_backward(1.0, logits, targets).any()


def test_large_logits_do_not_overflow():
    logits = np.array([[1e4, -1e4, 0.0], [3e38, 0.0, -3e38]], np.float32)
    np.testing.assert_array_equal(functional.softmax(logits), [[1, 0, 0], [1, 0, 0]])
    assert functional.cross_entropy(logits, [0, 0]) == 0
    assert functional.cross_entropy(logits[:1], [1]) == pytest.approx(2e4)
    x = np.array([-1e30, -100, 100, 1e30], np.float32)
    np.testing.assert_array_equal(functional.gelu(x), [0, 0, 100, np.float32(1e30)])
    assert np.isfinite(functional.silu(x)).all()


def test_query_without_keys_gives_zeros():
    q, k, v = QKV["odd heads"]
    mask = np.ones((3, 7), int)
    mask[:, :2] = 0
    out = functional.attention(q, k, v, attention_mask=mask)
    assert not out[:, :2].any() and out[:, 2:].all()
    for gradient in functional.attention_backward(np.ones_like(out), q, k, v, attention_mask=mask):
        assert np.isfinite(gradient).all() and not gradient[:, :2].any()


def test_empty_arrays_give_empty_arrays():
    assert functional.silu(normal(0, 3)).shape == (0, 3)
    assert functional.linear(normal(0, 3), normal(2, 3)).shape == (0, 2)
    assert functional.embedding(np.empty((2, 0), int), normal(5, 3)).shape == (2, 0, 3)
    dx, dweight = functional.rmsnorm_backward(normal(0, 3), normal(0, 3), normal(3))
    assert dx.shape == (0, 3) and not dweight.any()


def test_every_function_has_a_backward_twin():
    names = ["embedding", "rmsnorm", "layernorm", "linear", "rope", "attention", "gelu", "silu", "swiglu", "softmax",
             "cross_entropy"]  # fmt: skip
    for name in names:
        assert callable(getattr(functional, name)) and callable(getattr(functional, f"{name}_backward"))
        assert getattr(functional, name).__doc__


ERRORS = {
    "an id outside": (lambda: functional.embedding([5], normal(5, 3)), llmc.DataError, r"5.*\[0, 5\)"),
    "ids that are no integers": (lambda: functional.embedding([0.5], normal(5, 3)), TypeError, "integers"),
    "a weight of one dimension": (lambda: functional.linear(normal(3), normal(3)), llmc.ShapeError, r"\(3,\).*2 dim"),
    "widths that differ": (lambda: functional.linear(normal(2, 3), normal(5, 4)), llmc.ShapeError, r"3.*\(5, 4\)"),
    "a bias of another length": (
        lambda: functional.linear(normal(2, 3), normal(5, 3), normal(3)), llmc.ShapeError, r"bias.*\(3,\).*\(5, 3\)",
    ),
    "a norm of another width": (lambda: functional.rmsnorm(normal(2, 3), normal(4)), llmc.ShapeError, "3.*4|4.*3"),
    "a layernorm of another width": (
        lambda: functional.layernorm(normal(2, 3), normal(3), normal(4)), llmc.ShapeError, "3.*4|4.*3",
    ),
    "a negative epsilon": (lambda: functional.rmsnorm(normal(2, 3), normal(3), eps=-1), llmc.ConfigError, "eps is -1"),
    "an odd head": (lambda: functional.rope(normal(1, 2, 1, 3)), llmc.ShapeError, "3.*even"),
    "three dimensions": (lambda: functional.rope(normal(1, 2, 4)), llmc.ShapeError, "4 dim"),
    "positions of another length": (
        lambda: functional.rope(normal(1, 2, 1, 4), [0, 1, 2]), llmc.ShapeError, r"\(3,\).*\(1, 2\)",
    ),
    "an impossible base": (lambda: functional.rope(normal(1, 2, 1, 4), theta=0), llmc.ConfigError, "theta is 0"),
    "heads that do not divide": (
        lambda: functional.attention(normal(1, 2, 3, 4), *[normal(1, 2, 2, 4)] * 2), llmc.ShapeError, "do not go tog",
    ),
    "keys and values that differ": (
        lambda: functional.attention(*[normal(1, 2, 2, 4)] * 2, normal(1, 3, 2, 4)), llmc.ShapeError, "k and v",
    ),
    "fewer keys than queries": (
        lambda: functional.attention(normal(1, 3, 2, 4), *[normal(1, 2, 2, 4)] * 2), llmc.ShapeError, "3.*2",
    ),
    "an empty window": (
        lambda: functional.attention(*[normal(1, 3, 2, 4)] * 3, window=0), llmc.ConfigError, "window is 0",
    ),
    "a mask of another shape": (
        lambda: functional.attention(*[normal(1, 3, 2, 4)] * 3, attention_mask=[1]), llmc.ShapeError, "attention_mask",
    ),
    "an unknown approximation": (lambda: functional.gelu(normal(3), "erf"), llmc.ConfigError, "'erf'"),
    "halves that differ": (lambda: functional.swiglu(normal(3), normal(4)), llmc.ShapeError, r"\(3,\).*\(4,\)"),
    "softmax of a number": (lambda: functional.softmax(1.0), llmc.ShapeError, "single number"),
    "a target outside": (lambda: functional.cross_entropy(normal(1, 3), [3]), llmc.DataError, r"3.*\[0, 3\)"),
    "a target that is negative": (lambda: functional.cross_entropy(normal(1, 3), [-1]), llmc.DataError, "-1"),
    "targets of another shape": (
        lambda: functional.cross_entropy(normal(2, 3), [1]), llmc.ShapeError, r"\(2, 3\).*\(1,\)",
    ),
    "a gradient of another shape": (
        lambda: functional.silu_backward(normal(2), normal(3)), llmc.ShapeError, r"dout.*\(2,\).*\(3,\)",
    ),
    "words": (lambda: functional.silu(["a"]), TypeError, "numbers"),
    "complex numbers": (lambda: functional.silu([1j]), TypeError, "numbers"),
}  # fmt: skip


@pytest.mark.parametrize("what", ERRORS)
def test_what_cannot_be_is_refused_in_words(what):
    call, error, words = ERRORS[what]
    with pytest.raises(error, match=words):
        call()
