"""Truth: logits and losses against the float64 reference, every gradient against the slope of the loss, in double."""

import numpy as np
import pytest
import reference
from conftest import EVERY, TINY, TOLERANCE
from tiny import CASES, close, close_relative, fields, random_ids, tiny_model

import llmc
from llmc.families.activations import ACTIVATIONS

LENGTH = 21  # beyond the 16 tokens the rope cases were trained with
WHOLE = [case for case in CASES if "padding token" not in case]  # by torch's custom its row's gradient is no slope
SMOOTH = [case for case in WHOLE if "relu" not in case]  # a corner has no slope


@pytest.fixture(params=EVERY)
def family(request):
    """The name of each family in turn."""
    return request.param


def left_mask(rows, length):
    """Row r has 3 r tokens of padding on its left."""
    return (np.arange(length)[None, :] >= 3 * np.arange(rows)[:, None]).astype(int)


def right_mask(rows, length):
    return left_mask(rows, length)[:, ::-1]


def truth(model, config, ids, **options):
    """Arguments of the reference: it computes no frequencies but the default ones, and those in float64."""
    positions = options.get("position_ids")
    inv_freq, factor = model._frequencies(ids.shape[1] if positions is None else int(positions.max()) + 1)
    params = model.state_dict()
    return dict(config=config, params=params, ids=ids, inv_freq=inv_freq, rope_factor=factor, **options)


# --- values


@pytest.mark.parametrize("case", WHOLE)
def test_double_logits_and_loss_are_the_references(case):
    config = fields(case)
    model = tiny_model(config, double=True)
    ids = random_ids(config, 2, LENGTH)
    given = truth(model, config, ids)
    close(model(ids), reference.model_logits(**given), TOLERANCE["double"], "logits")
    assert model.loss(ids) == pytest.approx(reference.model_loss(**given), abs=TOLERANCE["double"])


@pytest.mark.parametrize("case", WHOLE)
def test_float_logits_and_loss_are_the_references(case):
    config = fields(case)
    model = tiny_model(config)
    ids = random_ids(config, 2, LENGTH)
    given = truth(model, config, ids)
    close(model(ids), reference.model_logits(**given), TOLERANCE["logits"], "logits")
    assert model.loss(ids) == pytest.approx(reference.model_loss(**given), abs=TOLERANCE["loss"])


CORNERED = ("relu", "relu2", "relu6", "leaky_relu", "gelu_10")  # they have points without a slope


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_is_the_references_in_both_kinds_of_feed_forward(name):
    for family, field in (("gpt2", "activation_function"), ("llama", "hidden_act")):
        config = {**EVERY[family], field: name}
        model = tiny_model(config, double=True)
        ids = random_ids(config, 2, 9)
        tolerance = 1e-9 if name == "gelu_fast" else TOLERANCE["double"]  # its constant has ten digits
        close(model(ids), reference.model_logits(**truth(model, config, ids)), tolerance, family)
        run = model.run(2, 9, backward=True)
        if name not in CORNERED:
            assert_gradients_are_slopes(model, run, lambda: run.forward(ids, labels=ids), directions=1)


@pytest.mark.parametrize("mask_of", [left_mask, right_mask])
def test_masks_labels_and_positions_are_the_references(mask_of, family):
    config = EVERY[family]
    model = tiny_model(config, double=True)
    ids = random_ids(config, 4, LENGTH)
    mask = mask_of(4, LENGTH)
    logits = reference.model_logits(**truth(model, config, ids, attention_mask=mask))
    close(model(ids, attention_mask=mask)[mask == 1], logits[mask == 1], TOLERANCE["double"], "logits")
    loss = reference.model_loss(**truth(model, config, ids, attention_mask=mask))
    assert model.loss(ids, attention_mask=mask) == pytest.approx(loss, abs=TOLERANCE["double"])
    positions = np.random.default_rng(1).integers(0, 100, ids.shape)
    labels = np.where(random_ids(config, 4, LENGTH, seed=1) % 3 == 0, -100, ids)
    given = truth(model, config, ids, position_ids=positions, labels=labels, num_items_in_batch=17)
    run = model.run(4, LENGTH)
    loss = run.forward(ids, labels=labels, position_ids=positions, num_items_in_batch=17)
    assert loss == pytest.approx(reference.model_loss(**given), abs=TOLERANCE["double"])


def test_a_row_of_one_token_is_the_references(family):
    config = EVERY[family]
    model = tiny_model(config, double=True)
    ids = random_ids(config, 1, 1)
    close(model(ids), reference.model_logits(**truth(model, config, ids)), TOLERANCE["double"], "logits")


def test_a_long_row_is_the_references(family):
    """Longer than any block of queries, keys or rows that the kernels work in."""
    config = EVERY[family] | ({"sliding_window": 150} if family == "mistral" else {})
    model = tiny_model(config, double=True)
    ids = random_ids(config, 1, 215)
    close(model(ids), reference.model_logits(**truth(model, config, ids)), TOLERANCE["double"], "logits")


# --- gradients


def gradients(run, parameters):
    return {name: run.grad(name, copy=True) for name in parameters}


def slope(loss, step=3e-5):
    """The slope of `loss(by)` at 0, by central differences of fourth order."""
    return (8 * (loss(step) - loss(-step)) - (loss(2 * step) - loss(-2 * step))) / (12 * step)


def assert_gradients_are_slopes(model, run, call, directions=2):
    """Every parameter's gradient, projected onto random directions, is the slope of `call()` along them."""
    call()
    run.backward()
    found = gradients(run, model._parameters)
    rng = np.random.default_rng(7)
    for name, array in model._parameters.items():
        size = max(float(np.linalg.norm(found[name])), 1e-5)
        start = array.copy()
        for _ in range(directions):
            direction = rng.standard_normal(array.shape)

            def moved(by):
                array[...] = start + by * direction
                return call()

            difference = slope(moved) - float((found[name] * direction).sum())
            array[...] = start
            assert abs(difference) <= TOLERANCE["slope"] * size, f"{name}: {difference / size:.3g} of its size"


@pytest.mark.parametrize("case", SMOOTH)
def test_gradients_are_slopes(case):
    config = fields(case)
    model = tiny_model(config, double=True)
    ids = random_ids(config, 2, LENGTH)
    run = model.run(2, LENGTH, backward=True)
    assert_gradients_are_slopes(model, run, lambda: run.forward(ids, labels=ids), directions=1)


def test_gradients_are_slopes_behind_masks_and_ignored_labels(family):
    config = EVERY[family]
    model = tiny_model(config, double=True)
    ids = random_ids(config, 4, LENGTH)
    labels = np.where(random_ids(config, 4, LENGTH, seed=1) % 3 == 0, -100, ids)
    for mask in (left_mask(4, LENGTH), right_mask(4, LENGTH)):
        run = model.run(4, LENGTH, backward=True)
        assert_gradients_are_slopes(
            model, run, lambda: run.forward(ids, labels=labels, attention_mask=mask, num_items_in_batch=9)
        )


def with_dropout(family, rate=0.2):
    names = ("resid_pdrop", "embd_pdrop", "attn_pdrop") if "gpt" in family else ("attention_dropout",)
    return {**EVERY[family], **dict.fromkeys(names, rate)}


@pytest.mark.parametrize("keep", [None, "all"])
def test_gradients_are_slopes_under_one_draw_of_dropout(keep, family):
    config = with_dropout(family)
    model = tiny_model(config, double=True)
    ids = random_ids(config, 2, LENGTH)
    run = model.run(2, LENGTH, backward=True, dropout=True, seed=3, keep=keep)

    def call(**labels):
        run._core.set_dropout_key(5, 1)
        return run.forward(ids, **labels)

    call()
    assert np.abs(run.logits - model(ids)).max() > 0.01, "nothing was dropped"
    assert_gradients_are_slopes(model, run, lambda: call(labels=ids))


def test_gradients_are_slopes_when_blocks_and_branches_are_left_out(family):
    config = EVERY[family]
    model = tiny_model(config, double=True)
    ids = random_ids(config, 2, LENGTH)
    block, attention = ("transformer.h", "attn") if "gpt" in family else ("model.layers", "self_attn")
    skip = [f"{block}.1", f"{block}.0.mlp", f"{block}.2.{attention}"]
    run = model.run(2, LENGTH, backward=True)
    assert_gradients_are_slopes(model, run, lambda: run.forward(ids, labels=ids, skip=skip))
    for name in model._parameters:
        if name.startswith((f"{block}.1.", f"{block}.0.mlp.", f"{block}.2.{attention}.")):
            assert not run.grad(name).any(), name


def test_gradients_are_slopes_over_a_long_row(family):
    config = EVERY[family] | ({"sliding_window": 150} if family == "mistral" else {})
    model = tiny_model(config, double=True)
    ids = random_ids(config, 1, 215)
    run = model.run(1, 215, backward=True)
    assert_gradients_are_slopes(model, run, lambda: run.forward(ids, labels=ids), directions=1)


def test_the_gradient_at_a_module_is_the_slope_of_what_is_written_there(family):
    """d loss / d output: moving the kept output of a module moves the loss so."""
    config = EVERY[family]
    model = tiny_model(config, double=True)
    ids = random_ids(config, 2, LENGTH)
    run = model.run(2, LENGTH, backward=True, keep="all")
    run.forward(ids, labels=ids)
    run.backward()
    head = run.names()[-1]  # behind it comes the loss alone, so there is nothing to resume
    grads = {name: run.grad(name, copy=True) for name in run.names() if name != head}
    rng = np.random.default_rng(3)
    for name in grads:
        at = model.run(2, LENGTH, keep=[name])
        direction = rng.standard_normal(grads[name].shape)

        def loss(by):
            at.forward(ids, labels=ids, until=name)
            at.output(name)[...] += by * direction
            return at.resume()

        size = float(np.linalg.norm(grads[name]))
        difference = slope(loss) - float((grads[name] * direction).sum())
        assert abs(difference) <= TOLERANCE["slope"] * size, f"{name}: {difference / size:.3g} of its size"


@pytest.mark.parametrize("case", WHOLE)
def test_float_gradients_are_the_double_ones(case):
    config = fields(case)
    ids = random_ids(config, 2, LENGTH)
    found = []
    for double in (False, True):
        model = tiny_model(config)
        if double:
            wide = tiny_model(config, double=True)
            for name, array in wide._parameters.items():
                array[...] = model._parameters[name]
            model = wide
        run = model.run(2, LENGTH, backward=True)
        run.forward_backward(ids)
        found.append(gradients(run, model._parameters))
    for name, gradient in found[1].items():
        close_relative(found[0][name], gradient, TOLERANCE["gradient"], name)


def test_double_model_needs_no_double_files(family, tmp_path):
    """The double core is the same program: it opens float files and saves them."""
    model = tiny_model(EVERY[family])
    model.save_pretrained(tmp_path)
    wide = tiny_model(EVERY[family], double=True).__class__.from_pretrained(tmp_path)
    ids = random_ids(EVERY[family], 2, 7)
    close(model(ids), wide(ids), TOLERANCE["logits"], "logits")
    assert wide(ids).dtype == np.float64
    assert llmc.Model.from_pretrained(tmp_path)(ids).dtype == np.float32
