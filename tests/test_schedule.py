"""Learning-rate schedules: transformers' values, bit for bit, and impossible requests refused in words."""

import warnings

import pytest

from llmc.errors import ConfigError
from llmc.train.schedule import SCHEDULES, schedule

OPTIONS = {
    "linear": [{}],
    "cosine": [{}, {"num_cycles": 1.3}],
    "cosine_with_restarts": [{}, {"num_cycles": 3}],
    "cosine_with_min_lr": [{"min_lr": 1e-5}, {"min_lr_rate": 0.1}, {"min_lr": 1e-5, "num_cycles": 0.7}],
    "polynomial": [{}, {"lr_end": 1e-5, "power": 2.5}],
    "constant": [{}],
    "constant_with_warmup": [{}],
    "inverse_sqrt": [{}, {"timescale": 7}],
}


def rates(name, warmup_steps, max_steps, learning_rate=3e-4, **options):
    return [
        schedule(name, step, learning_rate=learning_rate, warmup_steps=warmup_steps, max_steps=max_steps, **options)
        for step in range(max_steps)
    ]


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "cosine_with_floor"])  # ours alone
@pytest.mark.parametrize("warmup_steps, max_steps", [(0, 17), (5, 17), (1, 2), (17, 17), (0, 1)])
def test_rates_are_those_of_transformers_bit_for_bit(peers, name, warmup_steps, max_steps):
    for options in OPTIONS[name]:
        parameter = peers.torch.nn.Parameter(peers.torch.zeros(1))
        optimizer = peers.torch.optim.SGD([parameter], lr=3e-4)
        kwargs = None if name in ("constant", "constant_with_warmup") else options
        scheduler = peers.transformers.get_scheduler(name, optimizer, warmup_steps, max_steps, kwargs)
        expected = []
        for _ in range(max_steps):
            expected.append(optimizer.param_groups[0]["lr"])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                optimizer.step()
                if len(expected) < max_steps:
                    scheduler.step()
        assert rates(name, warmup_steps, max_steps, **options) == expected


def test_first_step_of_a_warm_up_has_rate_zero():
    assert rates("linear", 4, 8, learning_rate=1.0) == [0.0, 0.25, 0.5, 0.75, 1.0, 0.75, 0.5, 0.25]


def test_cosine_starts_full_and_ends_near_zero():
    values = rates("cosine", 0, 100, learning_rate=1.0)
    assert values[0] == 1.0 and values[50] == pytest.approx(0.5) and 0 < values[99] < 1e-3


@pytest.mark.parametrize("warmup_steps", [0, 3])
def test_a_floor_holds_the_cosine_where_it_would_fall_below(warmup_steps):
    bare = rates("cosine", warmup_steps, 20, learning_rate=0.5)
    assert rates("cosine_with_floor", warmup_steps, 20, learning_rate=0.5) == bare
    expected = [rate if step < warmup_steps else max(0.1, rate) for step, rate in enumerate(bare)]
    assert rates("cosine_with_floor", warmup_steps, 20, learning_rate=0.5, floor=0.2) == expected
    assert min(expected[warmup_steps:]) == 0.1 < max(expected)


@pytest.mark.parametrize("floor", [-1e-9, 1.1, float("nan"), True, None, "0"])
def test_a_floor_that_is_no_share_is_refused(floor):
    with pytest.raises(ConfigError, match="floor is .*from 0 to 1"):
        schedule("cosine_with_floor", 0, learning_rate=1e-3, max_steps=10, floor=floor)


def test_constant_has_no_warm_up_as_in_transformers():
    assert rates("constant", 3, 5, learning_rate=0.5) == [0.5] * 5


def test_steps_after_the_end_stay_at_the_lowest_rate():
    for name, lowest in (("linear", 0.0), ("polynomial", 1e-7), ("cosine_with_restarts", 0.0)):
        assert schedule(name, 99, learning_rate=1e-3, warmup_steps=2, max_steps=10) == pytest.approx(lowest, rel=1e-12)


def test_unknown_name_lists_the_ones_there_are():
    with pytest.raises(ConfigError, match="'cosin'.*linear, cosine, .*constant_with_warmup"):
        schedule("cosin", 0, learning_rate=1e-3, warmup_steps=0, max_steps=10)


def test_backlog_60_warm_up_longer_than_the_training_is_refused():
    with pytest.raises(ConfigError, match="warmup_steps 100 .*max_steps 10"):
        schedule("linear", 0, learning_rate=1e-3, warmup_steps=100, max_steps=10)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"step": -1}, "step is -1"),
        ({"warmup_steps": 1.5}, "warmup_steps is 1.5"),
        ({"warmup_steps": float("nan")}, "warmup_steps is nan"),
        ({"max_steps": float("inf")}, "max_steps is inf"),
        ({"max_steps": 0}, "max_steps is 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"learning_rate": -1e-3}, "learning_rate is -0.001"),
    ],
)
def test_impossible_numbers_are_refused_with_the_value(change, words):
    arguments = {"step": 0, "learning_rate": 1e-3, "warmup_steps": 0, "max_steps": 10, **change}
    with pytest.raises(ConfigError, match=words):
        schedule("linear", arguments.pop("step"), **arguments)


def test_options_that_a_schedule_does_not_have_are_a_type_error():
    with pytest.raises(TypeError, match="linear schedule.*power"):
        schedule("linear", 0, learning_rate=1e-3, max_steps=10, power=2)


def test_minimum_rate_must_be_given_once():
    for options in ({}, {"min_lr": 1e-5, "min_lr_rate": 0.1}):
        with pytest.raises(ConfigError, match="one of min_lr and min_lr_rate"):
            schedule("cosine_with_min_lr", 0, learning_rate=1e-3, max_steps=10, **options)


def test_polynomial_must_end_below_its_start():
    with pytest.raises(ConfigError, match="lr_end 0.1 is not below learning_rate 0.001"):
        schedule("polynomial", 0, learning_rate=1e-3, max_steps=10, lr_end=0.1)
