"""The pattern of attention, stopped at and written into: what stands there is multiplied, and has a gradient."""

import numpy as np
import pytest
from conftest import TINY, needs_bfloat16
from test_truth import left_mask, right_mask, slope, with_dropout
from tiny import random_ids, tiny_model

import llmc

B, T = 4, 21
LAYER = 1


def attention_of(model, layer=LAYER):
    return f"transformer.h.{layer}.attn" if "gpt" in model.config.model_type else f"model.layers.{layer}.self_attn"


def values_of(run, model):
    """(B, G, T, D): what attention weighs in layer 1."""
    c, name = model.config, attention_of(model)
    heads, groups = c.num_attention_heads, getattr(c, "num_key_value_heads", None) or c.num_attention_heads
    if "gpt" in c.model_type:
        values = run.output(f"{name}.c_attn")[..., -c.hidden_size :]
    else:
        values = run.output(f"{name}.v_proj")
    return values.reshape(*values.shape[:2], groups, -1).transpose(0, 2, 1, 3), heads // groups


def projection_of(model):
    return f"{attention_of(model)}.{'c_proj' if 'gpt' in model.config.model_type else 'o_proj'}"


def computed_from_it(model):
    """Parameters whose gradient does not pass the pattern of layer 1: what comes after it, and its values."""
    block, names = attention_of(model).rpartition(".")[0], list(model._parameters)
    at_once = ("v_proj", "o_proj", "c_proj", "mlp.", "ln_2", "post_attention_layernorm")
    if model.config.model_type == "openai-gpt":
        at_once += ("ln_1",)
    later = names[names.index([name for name in names if name.startswith(f"{block}.")][-1]) + 1 :]
    own = [name for name in names if name.startswith(f"{block}.") and any(part in name for part in at_once)]
    assert len(own) > 5 and len(later) > 5
    return own + later


def stopped(model, ids, **options):
    """A run that stands behind the pattern of layer 1, and the pattern."""
    run = model.run(*ids.shape, backward=True, keep=["*_proj", "*c_attn"])
    name = f"{attention_of(model)}.pattern"
    run.forward(ids, labels=ids, until=name, **options)
    return run, run.output(name)


MASKS = {"no padding": lambda rows, length: None, "padding on the left": left_mask, "padding on the right": right_mask}


@pytest.fixture(params=MASKS)
def mask(request):
    return MASKS[request.param](B, T)


def test_a_pattern_left_as_it_is_changes_nothing(mask, family):
    model = tiny_model(TINY[family], double=True)
    ids = random_ids(TINY[family], B, T)
    name = attention_of(model)
    fused = model.run(B, T, backward=True, keep=["*.pattern"])
    loss = fused.forward(ids, labels=ids, attention_mask=mask)
    fused.backward()
    run, pattern = stopped(model, ids, attention_mask=mask)
    np.testing.assert_array_equal(pattern, fused.output(f"{name}.pattern"))
    assert run.resume() == pytest.approx(loss, abs=1e-12)
    run.backward()
    for parameter in computed_from_it(model):
        np.testing.assert_allclose(run.grad(parameter), fused.grad(parameter), rtol=0, atol=1e-9, err_msg=parameter)


def test_queries_and_keys_have_no_part_in_a_pattern_that_is_cut(family):
    model = tiny_model(TINY[family], double=True)
    run, _ = stopped(model, random_ids(TINY[family], B, T))
    run.resume()
    run.backward()
    name, c = attention_of(model), model.config
    if "gpt" in family:
        gradient = run.grad(f"{name}.c_attn.weight")
        assert not gradient[:, : 2 * c.hidden_size].any() and gradient[:, 2 * c.hidden_size :].any()
    else:
        assert not run.grad(f"{name}.q_proj.weight").any() and not run.grad(f"{name}.k_proj.weight").any()
        assert run.grad(f"{name}.v_proj.weight").any()


def test_attention_multiplies_what_was_written(mask, family):
    """Every number of it counts, also where a query would see nothing."""
    model = tiny_model(TINY[family], double=True)
    run, pattern = stopped(model, random_ids(TINY[family], B, T), attention_mask=mask)
    pattern[...] = np.random.default_rng(0).standard_normal(pattern.shape)
    values, group = values_of(run, model)
    mixed = np.einsum("bhts,bhsd->bthd", pattern, values.repeat(group, axis=1)).reshape(B, T, -1)
    run.resume()
    np.testing.assert_allclose(run.input(projection_of(model)), mixed, rtol=0, atol=1e-12)


def test_its_gradient_is_the_slope_of_what_is_written_there(mask, family):
    model = tiny_model(TINY[family], double=True)
    ids = random_ids(TINY[family], B, T)
    name = f"{attention_of(model)}.pattern"
    run, pattern = stopped(model, ids, attention_mask=mask)
    rng = np.random.default_rng(5)
    start = pattern + 0.1 * rng.standard_normal(pattern.shape)
    direction = rng.standard_normal(pattern.shape)

    def loss(by):
        run.forward(ids, labels=ids, attention_mask=mask, until=name)
        run.output(name)[...] = start + by * direction
        return run.resume()

    loss(0)
    run.backward()
    gradient = run.grad(name, copy=True)
    difference = slope(loss) - float((gradient * direction).sum())
    assert abs(difference) <= 1e-7 * np.linalg.norm(gradient)


def test_gradients_of_values_behind_a_written_pattern_are_slopes(family):
    model = tiny_model(TINY[family], double=True)
    ids = random_ids(TINY[family], B, T)
    name = attention_of(model)
    weight = f"{name}.{'c_attn' if 'gpt' in family else 'v_proj'}.weight"
    array = model._parameters[weight]
    run, pattern = stopped(model, ids)
    written = pattern[:, :, ::-1].copy()
    start, direction = array.copy(), np.random.default_rng(2).standard_normal(array.shape)

    def loss(by):
        array[...] = start + by * direction
        run.forward(ids, labels=ids, until=f"{name}.pattern")
        run.output(f"{name}.pattern")[...] = written
        return run.resume()

    loss(0)
    run.backward()
    gradient = run.grad(weight, copy=True)
    difference = slope(loss) - float((gradient * direction).sum())
    assert abs(difference) <= 1e-7 * np.linalg.norm(gradient)


def test_dropout_meets_a_written_pattern_as_it_meets_any(family):
    config = with_dropout(family)
    model = tiny_model(config, double=True)
    ids = random_ids(config, B, T)
    name = f"{attention_of(model)}.pattern"
    run = model.run(B, T, backward=True, dropout=True, seed=3)

    def forward(**options):
        run._core.set_dropout_key(5, 1)
        return run.forward(ids, labels=ids, **options)

    expected = forward()
    forward(until=name)
    np.testing.assert_allclose(run.output(name).sum(axis=-1), 1, atol=1e-12)  # it is shown before it is dropped
    assert run.resume() == pytest.approx(expected, abs=1e-12)
    start = run.output(name, copy=True)
    direction = np.random.default_rng(2).standard_normal(start.shape)

    def loss(by):
        forward(until=name)
        run.output(name)[...] = start + by * direction
        return run.resume()

    loss(0)
    run.backward()
    gradient = run.grad(name, copy=True)
    assert 0.1 < np.mean(gradient == 0) < 0.3  # what is dropped has none
    difference = slope(loss) - float((gradient * direction).sum())
    assert abs(difference) <= 1e-7 * np.linalg.norm(gradient)


def test_a_long_pattern_is_read_in_blocks(family):
    config = TINY[family] | ({"sliding_window": 150} if family == "mistral" else {})
    model = tiny_model(config, double=True)
    ids = random_ids(config, 1, 215)
    fused = model.run(1, 215, backward=True, keep=["*.pattern"])
    loss = fused.forward(ids, labels=ids)
    fused.backward()
    run, pattern = stopped(model, ids)
    np.testing.assert_array_equal(pattern, fused.output(f"{attention_of(model)}.pattern"))
    assert run.resume() == pytest.approx(loss, abs=1e-12)
    run.backward()
    for leaf in (("c_proj.weight",) if "gpt" in family else ("o_proj.weight", "v_proj.weight")):
        parameter = f"{attention_of(model)}.{leaf}"
        np.testing.assert_allclose(run.grad(parameter), fused.grad(parameter), rtol=0, atol=1e-9, err_msg=parameter)


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=needs_bfloat16)])
def test_single_and_half_precision_round_as_the_fused_step_does(precision, family):
    model = llmc.Model(llmc.Config(**TINY[family]), seed=0, precision=precision)
    ids = random_ids(TINY[family], B, T)
    fused = model.run(B, T, keep=["*.pattern"])
    loss = fused.forward(ids, labels=ids)
    run, pattern = stopped(model, ids)
    np.testing.assert_array_equal(pattern, fused.output(f"{attention_of(model)}.pattern"))
    assert run.resume() == pytest.approx(loss, abs=1e-5 if precision == "float32" else 1e-2)
    run.backward()
    assert np.isfinite(run.grad(f"{attention_of(model)}.pattern")).all()


def test_a_pattern_that_is_only_kept_says_where_its_gradient_is_had(family):
    model = tiny_model(TINY[family])
    ids = random_ids(TINY[family], B, T)
    name = f"{attention_of(model)}.pattern"
    run = model.run(B, T, backward=True, keep=["*.pattern"])
    for passes in (lambda: run.forward(ids, labels=ids), run.backward):
        passes()
        with pytest.raises(llmc.Error, match=f"'{name}' has no gradient.*until='{name}'.*run.resume.*run.backward"):
            run.grad(name)
    run.forward(ids, labels=ids, until=name)
    run.resume()
    run.backward()
    assert run.grad(name).shape == run.output(name).shape and run.grad(name).any()
    with pytest.raises(llmc.Error, match="has no gradient"):
        run.grad(f"{attention_of(model, 2)}.pattern")


def test_any_number_of_threads_gives_the_same_pattern_and_gradient(family):
    model = tiny_model(TINY[family])
    ids = random_ids(TINY[family], B, T)
    found = []
    threads = llmc.get_num_threads()
    try:
        for count in (1, 2, 5):
            llmc.set_num_threads(count)
            run, pattern = stopped(model, ids)
            pattern *= 0.5
            loss = run.resume()
            run.backward()
            found.append((loss, run.grad(f"{attention_of(model)}.pattern", copy=True)))
    finally:
        llmc.set_num_threads(threads)
    for loss, gradient in found[1:]:
        assert loss == found[0][0]
        np.testing.assert_array_equal(gradient, found[0][1])
