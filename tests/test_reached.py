"""What a pass did not reach is never shown: outputs, inputs, logits and gradients raise, and say what to do."""

import signal
import threading
import time

import numpy as np
import pytest
from conftest import TINY
from tiny import random_ids, tiny_model

import llmc

B, T = 2, 21


@pytest.fixture
def tiny(family):
    """(model, ids, its blocks' path) of every family."""
    config = TINY[family]
    model = tiny_model(config)
    return model, random_ids(config, B, T), "transformer.h" if "gpt" in family else "model.layers"


def looks(run, name):
    return [lambda: run.output(name), lambda: run.input(name), lambda: run.output(name, copy=True)]


def test_before_any_pass_there_is_nothing_to_see(tiny):
    model, _, blocks = tiny
    run = model.run(B, T, keep="all", backward=True)
    for look in [*looks(run, f"{blocks}.1.mlp"), lambda: run.grad(f"{blocks}.1"), lambda: run.logits]:
        with pytest.raises(llmc.Error, match="there was no pass yet.*run.forward"):
            look()
    with pytest.raises(llmc.Error, match="there was no pass yet"):
        model.run(B, T).logits  # noqa: B018
    assert not run.grad(f"{model._model.embedding_name}.weight").any()


def test_a_stopped_pass_shows_what_it_reached_and_names_where_it_stopped(tiny):
    model, ids, blocks = tiny
    whole = model.run(B, T, keep="all", backward=True)
    whole.forward(ids, labels=ids)
    run = model.run(B, T, keep="all", backward=True)
    run.forward((ids + 1) % 101, labels=ids)  # older numbers, which must not be shown
    stop = f"{blocks}.1.mlp"
    assert run.forward(ids, labels=ids, until=stop) is None
    names = run.names()
    reached = names[: names.index(stop) + 1]
    for name in reached:
        np.testing.assert_array_equal(run.output(name), whole.output(name), name)
    for name in names[len(reached) :]:
        if not (name == f"{blocks}.1" or name.endswith(blocks.partition(".")[0])):
            for look in looks(run, name)[::2]:
                with pytest.raises(llmc.Error, match=f"stopped after '{stop}': '{name}' was not reached; run.resume"):
                    look()
    with pytest.raises(llmc.Error, match=f"stopped after '{stop}': 'lm_head' was not reached"):
        run.logits  # noqa: B018
    with pytest.raises(llmc.Error, match="no backward pass has"):
        run.grad(f"{blocks}.0")
    run.resume()
    for name in names:
        np.testing.assert_array_equal(run.output(name), whole.output(name), name)
    np.testing.assert_array_equal(run.logits, whole.logits)


def test_what_a_module_reads_is_shown_where_another_has_given_it(tiny):
    model, ids, blocks = tiny
    run = model.run(B, T, keep="all")
    run.forward(ids, until=f"{blocks}.0")
    np.testing.assert_array_equal(run.input(f"{blocks}.1"), run.output(f"{blocks}.0"))
    with pytest.raises(llmc.Error, match=f"'{blocks}.2' was not reached"):
        run.input(f"{blocks}.2")


def test_a_pass_that_was_refused_or_interrupted_shows_nothing(tiny):
    model, ids, blocks = tiny
    run = model.run(B, T, keep="all")
    run.forward(ids)
    with pytest.raises(llmc.UnknownNameError, match="nowhere"):
        run.forward(ids, until="nowhere")
    for look in [*looks(run, f"{blocks}.0"), lambda: run.logits]:
        with pytest.raises(llmc.Error, match="did not come to its end.*run.forward"):
            look()
    run.forward(ids)
    assert run.output(f"{blocks}.0").any()
    with pytest.raises(llmc.ShapeError):
        run.forward(random_ids(TINY[model.config.model_type], B, T + 1))
    assert run.output(f"{blocks}.0").any(), "a call that does not fit leaves the last pass as it is"


def test_an_interrupted_pass_shows_nothing_of_the_one_before():
    config = {**TINY["llama"], "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8}
    model = llmc.Model(llmc.Config(**config))
    ids = random_ids(config, 2, 200)
    run = model.run(2, 200, keep=["model.layers.7"], backward=True)
    run.forward_backward(ids)
    view, kept = run.grad("lm_head.weight"), run.grad("lm_head.weight", copy=True)
    for call in (lambda: run.forward(ids, labels=ids), lambda: run.forward_backward(ids)):
        timer = threading.Timer(0.02, lambda: signal.raise_signal(signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            for _ in range(100):
                call()
            time.sleep(1)
        timer.join()
        for look in (lambda: run.output("model.layers.7"), lambda: run.grad("model.layers.7")):
            with pytest.raises(llmc.Error, match="did not come to its end"):
                look()
        run.zero_grad()
    assert view.shape == kept.shape


def test_gradients_of_hook_points_are_those_of_this_pass(tiny):
    model, ids, blocks = tiny
    name, weight = f"{blocks}.1.mlp", f"{model._model.embedding_name}.weight"
    run = model.run(B, T, keep=[name], backward=True)
    run.forward_backward(ids)
    first, of_weight = run.grad(name, copy=True), run.grad(weight, copy=True)
    run.forward((ids + 1) % 101, labels=ids)
    with pytest.raises(llmc.Error, match=f"no backward pass has formed the gradient of '{name}'.*run.backward"):
        run.grad(name)
    np.testing.assert_array_equal(run.grad(weight), of_weight)  # a sum over backward passes is always shown
    run.backward()
    assert np.abs(run.grad(name) - first).max() > 0
    run.forward(ids)
    with pytest.raises(llmc.Error, match="no backward pass has.*labels"):
        run.grad(name)


def test_what_the_loss_does_not_depend_on_has_no_gradient(tiny):
    model, ids, blocks = tiny
    run = model.run(B, T, keep="all", backward=True)
    run.forward(ids, labels=ids, until=f"{blocks}.1")
    run.resume()
    run.backward()
    with pytest.raises(llmc.Error, match=f"'{blocks}.0' has no gradient: the loss of this pass does not depend on it"):
        run.grad(f"{blocks}.0")
    assert run.grad(f"{blocks}.1").any() and run.grad(f"{blocks}.2").any()


def test_views_taken_earlier_stay_windows(tiny):
    model, ids, blocks = tiny
    name = f"{blocks}.2"
    run = model.run(B, T, keep=[name])
    run.forward(ids)
    view = run.output(name)
    seen = view.copy()
    run.forward(ids[:, ::-1], until=f"{blocks}.0")
    assert view.shape == seen.shape
    run.resume()
    np.testing.assert_array_equal(run.output(name), model_output(model, ids[:, ::-1], name))


def model_output(model, ids, name):
    run = model.run(*ids.shape, keep=[name])
    run.forward(ids)
    return run.output(name, copy=True)


def test_what_modules_did_is_observed_of_complete_passes_alone(tiny):
    model, ids, blocks = tiny
    run = llmc.run.Run(model, B, T, observe=True)
    with pytest.raises(llmc.Error, match="no pass yet"):
        run.observed()
    run.forward(ids, until=f"{blocks}.0")
    with pytest.raises(llmc.Error, match=f"stopped after '{blocks}.0', before its end; run.resume"):
        run.observed()
    run.resume()
    assert all(np.isfinite(sums).all() for sums in run.observed().values())


def test_logits_that_a_pass_does_not_form_say_so_also_where_it_stopped(tiny):
    model, ids, blocks = tiny
    run = model.run(B, T)
    run.forward(ids, labels=ids, until=f"{blocks}.0")
    with pytest.raises(llmc.UnknownNameError, match="logits were not formed"):
        run.logits  # noqa: B018


def test_a_run_made_before_adapters_changed_says_so_where_its_gradients_are_asked_for():
    model = tiny_model(TINY["llama"])
    run = model.run(B, T, backward=True)
    model.add_adapter(llmc.LoraConfig(r=2, target_modules="mlp"))
    with pytest.raises(llmc.Error, match="adapters changed since this run was made.*model.run"):
        run.grad("lm_head.weight")
