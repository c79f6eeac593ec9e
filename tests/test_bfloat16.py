"""Products in bfloat16: operands rounded to the nearest, sums in float32. The truth is NumPy's product in double of the
operands as ml_dtypes rounds them: what may differ is the rounding of the float32 additions alone."""

import ml_dtypes
import numpy as np
import pytest
from conftest import TINY, needs_bfloat16
from tiny import random_ids, tiny_model

import llmc
from llmc import functional as F

UNIT = 2.0**-24  # of float32


def rounded(x):
    return x.astype(ml_dtypes.bfloat16).astype(np.float64)


def bound(a, b, additions):
    """Of a float32 sum of `additions` terms in any order (Higham, 2002, section 4.2)."""
    return additions * UNIT * (np.abs(a) @ np.abs(b)) + 1e-30


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


SHAPES = [(1, 1, 1), (5, 7, 3), (6, 64, 33), (12, 512, 32), (13, 513, 31), (33, 65, 47), (100, 1030, 77),
          (1, 1031, 259), (3, 1031, 259), (513, 96, 530), (2601, 37, 23)]  # fmt: skip


@needs_bfloat16
@pytest.mark.parametrize("M, I, O", SHAPES)
def test_a_product_is_that_of_the_rounded_operands(M, I, O):
    x, weight, dout = normal(0, M, I), normal(1, O, I), normal(2, M, O)
    a, w, d = rounded(x), rounded(weight), rounded(dout)
    dx, dweight = F.linear_backward(dout, x, weight, precision="bfloat16")
    assert np.all(np.abs(F.linear(x, weight, precision="bfloat16") - a @ w.T) <= bound(a, w.T, I + 2))
    assert np.all(np.abs(dx - d @ w) <= bound(d, w, O + 2))
    assert np.all(np.abs(dweight - d.T @ a) <= bound(d.T, a, M + 2))


@needs_bfloat16
def test_infinities_and_nans_come_through():
    x = np.array([[np.inf, 1.0], [np.nan, 1.0], [3.4e38, 0.0]], np.float32)  # 3.4e38 rounds to infinity
    out = F.linear(x, np.ones((1, 2), np.float32), precision="bfloat16")
    assert out[0] == np.inf and np.isnan(out[1]) and out[2] == np.inf


@needs_bfloat16
def test_attention_multiplies_rounded_operands():
    q, k, v, dout = (normal(i, 2, 70, 4, 16) for i in range(4))
    exact = F.attention(q, k, v)
    close = F.attention(q, k, v, precision="bfloat16")
    assert 0 < np.abs(close - exact).max() < 0.03
    rough_gradients = F.attention_backward(dout, q, k, v, precision="bfloat16")
    for rough, true in zip(rough_gradients, F.attention_backward(dout, q, k, v)):
        assert np.linalg.norm(rough - true) < 0.01 * np.linalg.norm(true)


def test_an_unknown_precision_is_refused_in_words():
    config = llmc.Config(model_type="llama", vocab_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
                         intermediate_size=16)
    with pytest.raises(llmc.ConfigError, match="'float32' or in 'bfloat16'"):
        llmc.Model(config, precision="float8")
    with pytest.raises(llmc.ConfigError, match="'float32' or in 'bfloat16'"):
        F.linear(np.ones((1, 1)), np.ones((1, 1)), precision="half")


@needs_bfloat16
@pytest.mark.parametrize("family", TINY)
def test_what_is_kept_as_float32_or_saved_as_bfloat16_gives_the_same_bits(family):
    model = tiny_model(TINY[family], precision="bfloat16")
    ids = random_ids(TINY[family], 2, 33)
    saved, kept = (model.run(batch=2, length=33, backward=True, keep=keep) for keep in (None, "all"))
    assert saved.forward_backward(ids, labels=ids) == kept.forward_backward(ids, labels=ids)
    for name in model._parameters:
        assert np.array_equal(saved.grad(name), kept.grad(name)), name


@needs_bfloat16
@pytest.mark.parametrize("family", TINY)
def test_operands_saved_for_the_backward_pass_take_half_the_memory(family):
    wide, narrow = (tiny_model(TINY[family], precision=precision) for precision in ("float32", "bfloat16"))
    forecast = [model.estimate(batch=4, length=60)["activations"] for model in (wide, narrow)]
    assert forecast[1] < forecast[0]


@needs_bfloat16
@pytest.mark.parametrize("family", TINY)
def test_gradients_are_those_of_float32_nearly(family):
    exact, rough = (tiny_model(TINY[family], precision=precision) for precision in ("float32", "bfloat16"))
    ids = random_ids(TINY[family], 2, 33)
    runs = [model.run(batch=2, length=33, backward=True) for model in (exact, rough)]
    losses = [run.forward_backward(ids, labels=ids) for run in runs]
    assert abs(losses[0] - losses[1]) < 2e-2
    for name in exact._parameters:
        true, near = (run.grad(name) for run in runs)
        assert np.linalg.norm(near - true) <= 0.05 * np.linalg.norm(true) + 1e-6, name


@needs_bfloat16
@pytest.mark.parametrize("family", TINY)
def test_a_cache_takes_half_the_memory_and_gives_the_text_that_no_cache_gives(family):
    wide, half = tiny_model(TINY[family]), tiny_model(TINY[family], precision="bfloat16")
    sizes = [model.estimate(batch=3, length=8, generate=64)["cache"] for model in (wide, half)]
    assert sizes[0] / 2 <= sizes[1] < 0.6 * sizes[0]  # whole lines
    ids = random_ids(TINY[family], 3, 8)
    with_cache, without = (half.generate(ids, max_new_tokens=40, use_cache=use) for use in (True, False))
    np.testing.assert_array_equal(with_cache, without)


@needs_bfloat16
@pytest.mark.parametrize("family", TINY)
def test_the_rows_of_a_pattern_sum_to_one(family):
    model = tiny_model(TINY[family], precision="bfloat16")
    run = model.run(2, 33, keep=["*.pattern"])
    run.forward(random_ids(TINY[family], 2, 33))
    for name in run.names():
        if name.endswith("pattern"):
            np.testing.assert_allclose(run.output(name).sum(axis=-1), 1, atol=1e-5)
