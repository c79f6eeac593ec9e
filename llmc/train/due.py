"""When a training evaluates or saves: every so many steps, or at steps that are listed, as a list or as "log"."""

from llmc.checks import number, whole, wrong
from llmc.errors import ConfigError

LOG = "log"  # 0, 1, 2, 4, 8 …
LISTS = list, tuple, range


def step_count(value, name, open_low=True):
    """A whole number of steps, or a share of all steps, which is below 1; `open_low`: not 0."""
    value = number(value, name, low=0, open_low=open_low)
    if value >= 1 and value != int(value):
        raise ConfigError(f"{name} is {value}, not a whole number, nor a share of all steps, which is below 1")
    return value


def steps_or_count(value, name):
    """That; or a list of steps, which comes back in order and each once; or "log"."""
    value = value.tolist() if hasattr(value, "tolist") else value  # NumPy's
    if isinstance(value, str):
        if value != LOG:
            raise ConfigError(wrong(name, value, 'a number of steps, a list of steps, or "log": 0, 1, 2, 4, 8 …'))
        return value
    if not isinstance(value, LISTS):
        return step_count(value, name)
    if not value:
        raise ConfigError(f"{name} is a list without a step; give some, or a strategy of 'no'")
    return sorted({whole(step, f"{name}[{place}]", most=None) for place, step in enumerate(value)})


def are_listed(value):
    """Whether `steps_or_count` gave steps, not a number of them."""
    return isinstance(value, (str, list))


def listed(value, max_steps):
    """The steps that a list or "log" means in a training of `max_steps`, and those that lie beyond it.

    Returns
    -------
    (frozenset of int, list of int)
    """
    if value == LOG:
        return frozenset([0, *(2**power for power in range(max_steps.bit_length()))]), []
    return frozenset(step for step in value if step <= max_steps), [step for step in value if step > max_steps]
