"""Checks of one value that a user gives: it comes back as it is used, or an error says what it is and what it is not.

Every message is "NAME is VALUE, not WHAT IS NEEDED". By default a value of another type is a TypeError and one of
another size a ConfigError; `mistyped` and `impossible` are the errors to raise instead.
"""

import math
import numbers
import operator

from llmc.errors import ConfigError, shown

LARGEST = 2**31 - 1  # the core counts in an int


def whole(value, name, least=0, most=LARGEST, mistyped=TypeError, impossible=ConfigError):
    """A whole number from `least` to `most` (None: without end), as an int."""
    try:
        found = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        found = None
    if found is None:
        raise mistyped(wrong(name, value, "a whole number"))
    if found < least:
        raise impossible(wrong(name, found, f"a whole number of at least {least}"))
    if most is not None and found > most:
        raise impossible(wrong(name, found, f"a whole number of at most {most}"))
    return found


def number(value, name, low=-math.inf, high=math.inf, open_low=False, open_high=False, mistyped=TypeError,
           impossible=ConfigError):  # fmt: skip
    """A finite number from `low` to `high`, themselves left out where they are open, as Python has it."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise mistyped(wrong(name, value, _a_number(low, high, open_low, open_high)))
    above = value > low if open_low else value >= low
    below = value < high if open_high else value <= high
    if not (above and below and _is_finite(value)):
        raise impossible(wrong(name, value, _a_number(low, high, open_low, open_high)))
    return value.item() if hasattr(value, "item") else value


def one_of(value, name, words):
    """One of some words."""
    if not isinstance(value, str) or value not in words:
        raise ConfigError(wrong(name, value, f"one of {', '.join(words)}"))
    return value


def flag(value, name, mistyped=TypeError):
    """True or false, as a bool."""
    if type(value).__name__ not in ("bool", "bool_"):
        raise mistyped(wrong(name, value, "true or false"))
    return bool(value)


def wrong(name, value, what):
    """The message of all checks."""
    return f"{name} is {shown(value)}, not {what}"


def _is_finite(value):
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def _a_number(low, high, open_low, open_high):
    least = "" if low == -math.inf else f" above {low}" if open_low else f" of at least {low}"
    if high == math.inf:
        return f"a finite number{least}"
    most = f"below {high}" if open_high else f"at most {high}"
    if least and not open_low and not open_high:
        return f"a number from {low} to {high}"
    return f"a number{least} and {most}" if least else f"a number {most}"
