"""AdamW: groups of their own rate and decay, settings that are checked whenever they are set, a state taken whole."""

import math
import warnings

import numpy as np
import pytest
import reference
from conftest import TINY
from tiny import random_ids, tiny_model

import llmc
from llmc.errors import UnknownNameError

LLAMA = TINY["llama"]
IDS = random_ids(LLAMA, 2, 9)
BETAS, EPS = (0.9, 0.95), 1e-8


@pytest.fixture
def model():
    return tiny_model(LLAMA, double=True)


def copies(arrays):
    return {name: array.copy() for name, array in arrays.items()}


def assert_same(arrays, before):
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, before[name], name)


def stepped(model, **options):
    """An optimizer and a run after one step; without clipping, so that every parameter moves on its own."""
    optimizer, run = llmc.AdamW(model, max_grad_norm=None, **options), model.run(2, 9, backward=True)
    run.forward_backward(IDS)
    optimizer.step(run)
    return optimizer, run


def state_of(optimizer):
    """A state whose moments are copies."""
    state = optimizer.state_dict()
    return state | {kind: copies(state[kind]) for kind in ("exp_avg", "exp_avg_sq")}


# --- groups


def test_without_groups_all_parameters_are_the_rest(model):
    optimizer = llmc.AdamW(model, lr=1e-3, weight_decay=0.2)
    assert optimizer.groups == [{"params": list(model._parameters), "lr": 1e-3, "weight_decay": 0.2}]


def test_every_parameter_is_updated_with_the_rate_and_decay_of_its_group(model):
    groups = [{"params": "*.mlp.*", "lr": 1e-2, "weight_decay": 0.0},
              {"params": ["model.embed_tokens.weight", "model.norm.weight"], "weight_decay": 0.3},
              {"params": "*o_proj*", "lr": 0.0}]
    run = model.run(2, 9, backward=True)
    before = copies(model._parameters)
    run.forward_backward(IDS)
    gradients = {name: run.grad(name, copy=True) for name in before}
    llmc.AdamW(model, lr=1e-3, weight_decay=0.1, max_grad_norm=None, groups=groups, betas=BETAS, eps=EPS).step(run)
    for name, array in model._parameters.items():
        rate, decay = 1e-3, 0.1 if array.ndim > 1 else 0.0
        if ".mlp." in name:
            rate, decay = 1e-2, 0.0
        elif name in groups[1]["params"]:
            decay = 0.3  # of a norm too: it was said
        elif "o_proj" in name:
            rate = 0.0
        zero = np.zeros_like(array)
        expected = reference.adamw_step(before[name], zero, zero, gradients[name], 1, lr=rate, betas=BETAS, eps=EPS,
                                        weight_decay=decay)[0]  # fmt: skip
        np.testing.assert_allclose(array, expected, rtol=0, atol=1e-12, err_msg=name)


def test_groups_that_say_what_the_optimizer_says_change_no_bit():
    bits = []
    for groups in (None, [{"params": "*"}], [{"params": "*proj*", "lr": 1e-3}, {"params": "*norm*"}]):
        model = tiny_model(LLAMA)
        stepped(model, lr=1e-3, groups=groups)
        bits.append(copies(model.state_dict()))
    assert_same(bits[1], bits[0])
    assert_same(bits[2], bits[0])


def test_the_first_group_that_matches_has_the_parameter(model):
    groups = [{"params": "*layers.0*", "lr": 1.0}, {"params": "*q_proj*", "lr": 2.0}]
    optimizer = llmc.AdamW(model, lr=1e-3, groups=groups)
    first, second, rest = optimizer.groups
    assert all("layers.0" in name for name in first["params"]) and len(first["params"]) == 9
    assert second["params"] == [f"model.layers.{layer}.self_attn.q_proj.weight" for layer in (1, 2)]
    assert len(rest["params"]) == len(model._parameters) - 11
    assert [group["lr"] for group in optimizer.groups] == [1.0, 2.0, 1e-3]


def test_rates_may_be_set_between_steps_and_a_groups_own_stays(model):
    optimizer = llmc.AdamW(model, lr=1e-3, groups=[{"params": "*norm*", "lr": 1e-2}, {"params": "*q_proj*"}])
    optimizer.lr = 5e-4
    assert [group["lr"] for group in optimizer.groups] == [1e-2, 5e-4, 5e-4]
    optimizer.groups[1]["lr"] = 7e-4
    optimizer.groups[0]["lr"] = 0.0
    optimizer.lr = 0.0
    assert [group["lr"] for group in optimizer.groups] == [0.0, 7e-4, 0.0]
    before, run = copies(model._parameters), model.run(2, 9, backward=True)
    run.forward_backward(IDS)
    optimizer.step(run)
    moved = {name for name, array in model._parameters.items() if (array != before[name]).any()}
    assert moved == {name for name in before if "q_proj" in name}
    optimizer.weight_decay = 0.4
    assert [group["weight_decay"] for group in optimizer.groups] == [0.4, 0.4, 0.4]


def test_groups_of_adapters_go_by_their_names(model):
    model.add_adapter(llmc.LoraConfig(r=2, target_modules="mlp"))
    optimizer = llmc.AdamW(model, groups=[{"params": "*lora_B*", "lr": 1.0}])
    assert {name.split(".")[-2] for name in optimizer.groups[0]["params"]} <= {"lora_B", "default"}
    assert all("lora_A" in name for name in optimizer.groups[1]["params"])
    with pytest.raises(UnknownNameError, match="no parameter that is trained"):
        llmc.AdamW(model, groups=[{"params": "model.norm.weight"}])


@pytest.mark.parametrize("groups, error, words", [
    ([{"params": "*nowhere*"}], UnknownNameError, r"groups\[0\]: '\*nowhere\*' matches no parameter"),
    ([{"params": ["model.norm.weight", "model.nrm.weight"]}], UnknownNameError, "model.nrm.weight.*model.norm.weight"),
    ([{"params": "*", "rate": 1}], llmc.ConfigError, r"groups\[0\] has no key 'rate'"),
    ([{"lr": 1.0}], llmc.ConfigError, r"groups\[0\] has no 'params'"),
    ([{"params": "*"}, {"params": "*", "lr": -1.0}], llmc.ConfigError, r"lr of groups\[1\] is -1.0"),
    ([{"params": "*", "weight_decay": math.nan}], llmc.ConfigError, r"weight_decay of groups\[0\] is nan"),
    ([{"params": "*", "lr": "fast"}], TypeError, r"lr of groups\[0\] is 'fast', not a finite number"),
    ([{"params": 3}], TypeError, r"groups\[0\]: params must be a glob"),
    ([["*"]], TypeError, r"groups\[0\] must be a dict"),
    ({"params": "*"}, TypeError, "groups must be a list"),
    (3, TypeError, "groups must be a list"),
], ids=str)  # fmt: skip
def test_groups_that_cannot_be_are_refused_in_words(groups, error, words, model):
    with pytest.raises(error, match=words):
        llmc.AdamW(model, groups=groups)


def test_a_group_lets_its_rate_alone_be_set(model):
    group = llmc.AdamW(model).groups[0]
    for value, error in ((-1, llmc.ConfigError), (math.nan, llmc.ConfigError), ("x", TypeError)):
        with pytest.raises(error, match="lr of a group"):
            group["lr"] = value
    for key in ("params", "weight_decay", "eps"):
        with pytest.raises(llmc.ConfigError, match=f"'{key}' of a group cannot be set"):
            group[key] = 0.5
    with pytest.raises(llmc.ConfigError, match="cannot be removed"):
        del group["lr"]


# --- settings


@pytest.mark.parametrize("name, value, error", [
    ("betas", (2, 3), llmc.ConfigError), ("betas", (0.9, math.nan), llmc.ConfigError), ("betas", 0.9, llmc.ConfigError),
    ("betas", ("a", "b"), TypeError), ("lr", math.nan, llmc.ConfigError), ("lr", -1e-3, llmc.ConfigError),
    ("lr", math.inf, llmc.ConfigError), ("lr", "fast", TypeError), ("lr", True, TypeError), ("lr", None, TypeError),
    ("eps", -1, llmc.ConfigError), ("eps", math.nan, llmc.ConfigError), ("weight_decay", -0.1, llmc.ConfigError),
    ("weight_decay", [0.1], TypeError), ("max_grad_norm", 0, llmc.ConfigError), ("max_grad_norm", -1, llmc.ConfigError),
    ("max_grad_norm", math.nan, llmc.ConfigError), ("max_grad_norm", "1", TypeError),
    ("on_nonfinite", "stop", llmc.ConfigError), ("on_nonfinite", 3, llmc.ConfigError),
])  # fmt: skip
def test_settings_are_checked_when_made_and_when_set(name, value, error, model):
    with pytest.raises(error, match=name):
        llmc.AdamW(model, **{name: value})
    optimizer = llmc.AdamW(model)
    before = getattr(optimizer, name)
    with pytest.raises(error, match=name):
        setattr(optimizer, name, value)
    assert getattr(optimizer, name) == before


def test_settings_set_by_hand_are_those_of_the_next_step():
    made, set_by_hand = tiny_model(LLAMA), tiny_model(LLAMA)
    settings = dict(lr=2e-3, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.3, max_grad_norm=0.5)
    optimizer = llmc.AdamW(set_by_hand)
    for name, value in settings.items():
        setattr(optimizer, name, value)
    for model, stepper in ((made, llmc.AdamW(made, **settings)), (set_by_hand, optimizer)):
        run = model.run(2, 9, backward=True)
        for _ in range(2):
            run.forward_backward(IDS)
            stepper.step(run)
    assert_same(made.state_dict(), set_by_hand.state_dict())


# --- its state


def test_a_state_goes_on_where_it_was_taken(model):
    groups = [{"params": "*norm*", "lr": 1e-2}]
    optimizer, run = stepped(model, lr=2e-3, groups=groups)
    optimizer.groups[1]["lr"] = 3e-3
    state, weights = state_of(optimizer), copies(model._parameters)
    run.forward_backward(IDS)
    optimizer.step(run)
    expected = copies(model._parameters)
    for name, array in model._parameters.items():
        array[...] = weights[name]
    other = llmc.AdamW(model, groups=groups)
    other.load_state_dict(state)
    assert other.updates == 1 and other.groups == optimizer.groups
    run.forward_backward(IDS)
    other.step(run)
    assert_same(model._parameters, expected)


def spoiled(state, model):
    """{what is wrong: (the state, the error, its words)}."""
    name = "model.norm.weight"
    first, second = state["exp_avg"], state["exp_avg_sq"]
    without = lambda key: {k: v for k, v in state.items() if k != key}  # noqa: E731
    return {
        "no step": (without("step"), llmc.ConfigError, "has 'step'; this one has exp_avg"),
        "no moments": (without("exp_avg_sq"), llmc.ConfigError, "has 'exp_avg_sq'"),
        "nothing": ({}, llmc.ConfigError, "this one has nothing"),
        "negative step": (state | {"step": -1}, llmc.ConfigError, "step is -1"),
        "half a step": (state | {"step": 1.5}, TypeError, "step is 1.5, not a whole number"),
        "betas": (state | {"betas": (2, 3)}, llmc.ConfigError, "betas is 2"),
        "one beta": (state | {"betas": 0.9}, llmc.ConfigError, "betas are 0.9"),
        "rate": (state | {"lr": math.nan}, llmc.ConfigError, "lr is nan"),
        "rate in words": (state | {"lr": "fast"}, TypeError, "lr is 'fast', not a finite number"),
        "decay": (state | {"weight_decay": -1.0}, llmc.ConfigError, "weight_decay is -1.0"),
        "eps": (state | {"eps": math.inf}, llmc.ConfigError, "eps is inf"),
        "norm": (state | {"max_grad_norm": 0.0}, llmc.ConfigError, "max_grad_norm is 0"),
        "missing": (state | {"exp_avg": {k: v for k, v in first.items() if k != name}}, UnknownNameError,
                    f"exp_avg: '{name}' is missing"),
        "surplus": (state | {"exp_avg_sq": second | {"model.nrm.weight": second[name]}}, UnknownNameError,
                    "exp_avg_sq: 'model.nrm.weight' is surplus; nearest.*model.norm.weight"),
        "shape": (state | {"exp_avg_sq": second | {name: np.zeros(3)}}, llmc.ShapeError,
                  rf"exp_avg_sq: '{name}'.*\(3,\)"),
        "not finite": (state | {"exp_avg": first | {name: first[name] * np.nan}}, llmc.NonFiniteError,
                       f"exp_avg: '{name}' is not finite"),
        "negative square": (state | {"exp_avg_sq": second | {name: -1 - second[name]}}, llmc.ConfigError,
                            f"exp_avg_sq: '{name}' holds -"),
        "words": (state | {"exp_avg": first | {name: np.full(first[name].shape, "x")}}, TypeError, "dtype <U1"),
        "a list": (state | {"exp_avg": list(first.values())}, TypeError, "exp_avg must be"),
        "no state": ([1, 2], TypeError, "not list"),
        "groups": (state | {"groups": [{"params": ["model.norm.weight"]}, {"params": []}]}, llmc.ConfigError, "groups"),
        "a rate of a group": (state | {"groups": [{**state["groups"][0], "lr": -1.0}]}, llmc.ConfigError,
                              r"lr of groups\[0\] is -1.0"),
        "groups in words": (state | {"groups": "all"}, TypeError, "groups of a state must be a list"),
    }  # fmt: skip


@pytest.mark.parametrize("what", spoiled({"exp_avg": {"model.norm.weight": np.ones(1)}, "groups": [{}],
                                          "exp_avg_sq": {"model.norm.weight": np.ones(1)}}, None))  # fmt: skip
def test_a_state_is_taken_whole_or_not_at_all(what, model):
    optimizer, _ = stepped(model, lr=2e-3)
    other = state_of(optimizer)
    other |= {"step": 7, "lr": 0.5, "betas": (0.1, 0.2), "eps": 0.1, "weight_decay": 0.5, "max_grad_norm": 3.0}
    for kind in ("exp_avg", "exp_avg_sq"):
        other[kind] = {name: array + 1 for name, array in other[kind].items()}
    before = state_of(optimizer)
    state, error, words = spoiled(other, model)[what]
    with pytest.raises(error, match=words):
        optimizer.load_state_dict(state)
    after = optimizer.state_dict()
    for kind in ("exp_avg", "exp_avg_sq"):
        assert_same(after[kind], before[kind])
    assert {k: v for k, v in after.items() if "avg" not in k} == {k: v for k, v in before.items() if "avg" not in k}


def test_moments_and_a_step_alone_leave_the_settings(model):
    optimizer, _ = stepped(model, lr=2e-3)
    state = state_of(optimizer)
    other = llmc.AdamW(model, lr=5e-3, groups=[{"params": "*norm*", "lr": 1e-2}])
    other.load_state_dict({key: state[key] for key in ("step", "exp_avg", "exp_avg_sq")})
    assert (other.updates, other.lr, other.groups[0]["lr"]) == (1, 5e-3, 1e-2)


# --- nothing to learn


@pytest.mark.parametrize("together", [True, False])
def test_a_step_without_a_single_target_updates_nothing_and_says_so_once(together, model):
    optimizer, run = stepped(model, lr=0.1, weight_decay=0.5)
    before, state = copies(model._parameters), state_of(optimizer)
    ignored = np.full_like(IDS, -100)
    with pytest.warns(RuntimeWarning, match="no label counted.*nothing was updated"):
        if together:
            run.forward_backward(IDS, labels=ignored)
        else:
            run.forward(IDS, labels=ignored)
            run.backward()
        assert optimizer.step(run) == 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.forward_backward(IDS, labels=ignored)
        assert optimizer.step(run) == 0.0
    assert_same(model._parameters, before)
    assert optimizer.updates == 1 and optimizer.skipped == 0
    for kind in ("exp_avg", "exp_avg_sq"):
        assert_same(optimizer.state_dict()[kind], state[kind])
    with pytest.raises(llmc.Error, match="there are no gradients"):
        optimizer.step(run)
    run.forward_backward(IDS)
    assert optimizer.step(run) > 0 and optimizer.updates == 2


def test_a_micro_batch_without_targets_counts_as_nothing_beside_one_with_them():
    bits = []
    for batches in ([IDS], [IDS, np.full_like(IDS, -100)], [np.full_like(IDS, -100), IDS]):
        model = tiny_model(LLAMA)
        run = model.run(2, 9, backward=True)
        for labels in batches:
            run.forward_backward(IDS, labels=labels, num_items_in_batch=16)
        assert llmc.AdamW(model, lr=1e-2).step(run) > 0
        bits.append(copies(model.state_dict()))
    assert_same(bits[1], bits[0])
    assert_same(bits[2], bits[0])


def test_runs_that_share_gradients_share_what_counts(model):
    run = model.run(2, 9, backward=True)
    other = model.run(2, 9, backward=True, gradients=run)
    other.forward_backward(IDS)
    run.forward_backward(IDS, labels=np.full_like(IDS, -100))
    assert llmc.AdamW(model).step(run) > 0


# --- all of them as one row


def test_gradients_and_parameters_lie_in_one_row_each_at_the_same_places(model):
    run = model.run(2, 9, backward=True)
    assert not run._core.gradient_arena.any()
    run.forward_backward(IDS)
    gradients, parameters = run._core.gradient_arena, model._model.parameter_arena
    assert gradients.shape == parameters.shape and gradients.ndim == 1 and gradients.flags.writeable
    for name, array in model._parameters.items():
        at = (array.ctypes.data - parameters.ctypes.data) // parameters.itemsize
        assert at * parameters.itemsize % 64 == 0
        np.testing.assert_array_equal(parameters[at : at + array.size], array.ravel(), name)
        np.testing.assert_array_equal(gradients[at : at + array.size], run.grad(name).ravel(), name)
    norm = llmc.AdamW(model).step(run)
    run.forward_backward(IDS)
    gradients[:] = 0
    assert not run.grad("lm_head.weight").any() and norm > 0


def test_rows_are_shown_where_there_are_some(model):
    assert model.run(2, 9)._core.gradient_arena is None
    assert tiny_model(LLAMA | {"dtype": "float32"}).run(1, 1, backward=True)._core.gradient_arena.size > 0
    assert llmc.Model(llmc.Config(**LLAMA), dtype="int8")._model.parameter_arena is None
