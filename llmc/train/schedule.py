"""Learning-rate schedules: the rate of every optimizer step, those of transformers with its get_scheduler's values."""

import math
import numbers

from llmc.errors import ConfigError


def constant(step, rate, warmup_steps, max_steps):
    """Always the full rate; as in transformers, a warm-up has no part in it."""
    return 1.0


def constant_with_warmup(step, rate, warmup_steps, max_steps):
    """The full rate after the warm-up."""
    return 1.0


def linear(step, rate, warmup_steps, max_steps):
    """A straight line from the full rate to zero at `max_steps`."""
    return max(0.0, float(max_steps - step) / float(max(1, max_steps - warmup_steps)))


def cosine(step, rate, warmup_steps, max_steps, num_cycles=0.5):
    """The cosine from its top to its bottom (half a wave) at `max_steps`."""
    progress = _progress(step, warmup_steps, max_steps)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * float(num_cycles) * 2.0 * progress)))


def cosine_with_restarts(step, rate, warmup_steps, max_steps, num_cycles=1):
    """`num_cycles` half waves, each beginning again at the full rate."""
    progress = _progress(step, warmup_steps, max_steps)
    if progress >= 1.0:
        return 0.0
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * ((float(num_cycles) * progress) % 1.0))))


def cosine_with_min_lr(step, rate, warmup_steps, max_steps, num_cycles=0.5, min_lr=None, min_lr_rate=None):
    """The cosine down to `min_lr`, or to `min_lr_rate` times the full rate."""
    if (min_lr is None) == (min_lr_rate is None):
        raise ConfigError(f"cosine_with_min_lr: give one of min_lr and min_lr_rate, not {min_lr} and {min_lr_rate}")
    lowest = min_lr / rate if min_lr is not None else min_lr_rate
    wave = 0.5 * (1.0 + math.cos(math.pi * float(num_cycles) * 2.0 * _progress(step, warmup_steps, max_steps)))
    return max(0, wave * (1 - lowest) + lowest)


def cosine_with_floor(step, rate, warmup_steps, max_steps, floor=0.0):
    """The cosine where it lies above `floor` times the full rate, that share behind it (LIMe's authors train so)."""
    if isinstance(floor, bool) or not isinstance(floor, numbers.Real) or not 0 <= floor <= 1:
        raise ConfigError(f"cosine_with_floor: floor is {floor!r}, not a share of the rate, from 0 to 1")
    return max(floor, cosine(step, rate, warmup_steps, max_steps))


def polynomial(step, rate, warmup_steps, max_steps, lr_end=1e-7, power=1.0):
    """A power of the remaining share, from the full rate to `lr_end` at `max_steps`."""
    if not rate > lr_end:
        raise ConfigError(f"polynomial: lr_end {lr_end} is not below learning_rate {rate}")
    if step >= max_steps:
        return lr_end / rate
    remaining = 1 - (step - warmup_steps) / (max_steps - warmup_steps)
    return ((rate - lr_end) * remaining**power + lr_end) / rate


def inverse_sqrt(step, rate, warmup_steps, max_steps, timescale=None):
    """One over the square root of the steps, counted in `timescale` (the warm-up, or 10,000 without one)."""
    timescale = timescale if timescale is not None else warmup_steps or 10_000
    return 1.0 / math.sqrt((step + (timescale - warmup_steps)) / timescale)


SCHEDULES = {
    function.__name__: function
    for function in (
        linear, cosine, cosine_with_restarts, cosine_with_min_lr, cosine_with_floor, polynomial, constant,
        constant_with_warmup, inverse_sqrt,
    )
}


def schedule(name, step, *, learning_rate, warmup_steps=0, max_steps, **options):
    """The learning rate of one optimizer step.

    Parameters
    ----------
    name : str
        `linear`, `cosine`, `cosine_with_restarts`, `cosine_with_min_lr`, `cosine_with_floor`, `polynomial`,
        `constant`, `constant_with_warmup` or `inverse_sqrt`.
    step : int
        Optimizer steps already taken: 0 for the first one. The first step of a warm-up has rate 0.
    learning_rate : float
        The full rate.
    warmup_steps : int
        The rate rises in a straight line from 0 over this many steps; `constant` does not use it.
    max_steps : int
        Steps of the whole training.
    **options
        What the schedule itself takes: `num_cycles`, `min_lr`, `min_lr_rate`, `floor`, `lr_end`, `power`, `timescale`.

    Returns
    -------
    float
        Bit for bit what transformers' `get_scheduler` sets for that step, where it has the schedule.

    Raises
    ------
    ConfigError
        A name that is not there, a warm-up longer than the training, or an impossible number.
    TypeError
        An option that the schedule does not have.
    """
    return learning_rate * share(name, step, learning_rate=learning_rate, warmup_steps=warmup_steps,
                                 max_steps=max_steps, **options)  # fmt: skip


def share(name, step, *, learning_rate, warmup_steps=0, max_steps, **options):
    """The share of the full rate that `schedule` gives: what all rates of a training are multiplied by."""
    if name not in SCHEDULES:
        raise ConfigError(f"no learning-rate schedule is called {name!r}; there are {', '.join(SCHEDULES)}")
    for word, value, least in (("step", step, 0), ("warmup_steps", warmup_steps, 0), ("max_steps", max_steps, 1)):
        if not isinstance(value, numbers.Integral) or value < least:
            raise ConfigError(f"{word} is {value}, which is not a whole number of at least {least}")
    if not (math.isfinite(learning_rate) and learning_rate >= 0):
        raise ConfigError(f"learning_rate is {learning_rate}, which is not a finite number of at least 0")
    if warmup_steps > max_steps:
        raise ConfigError(f"warmup_steps {warmup_steps} is longer than the training, max_steps {max_steps}")
    function = SCHEDULES[name]
    try:
        factor = function(max(step, warmup_steps), learning_rate, warmup_steps, max_steps, **options)
    except TypeError as error:
        raise TypeError(f"{name} schedule: {error}") from None
    if step < warmup_steps and function is not constant:
        factor = float(step) / float(max(1, warmup_steps))
    return factor


def _progress(step, warmup_steps, max_steps):
    """The share of the steps after the warm-up that is done."""
    return float(step - warmup_steps) / float(max(1, max_steps - warmup_steps))
