"""The errors of llmc (what was wrong, where, the two values that disagree, and what to do), and the words in them."""

from itertools import islice

LIMIT = 200  # characters of a value in a message
SEARCHED = 2000  # names among which the nearest is looked for, where a file may hold any number


class Error(Exception):
    """Base of every error that llmc raises on purpose."""

    def __str__(self):  # KeyError would quote the message
        return str(self.args[0]) if self.args else ""


class ConfigError(Error, ValueError):
    """A configuration that is impossible, or that asks for what llmc does not do."""


class ShapeError(Error, ValueError):
    """Two shapes, or a shape and a size, that disagree."""


class CheckpointError(Error, ValueError):
    """A checkpoint file that is damaged, hostile, incomplete or not for this model."""


class DataError(Error, ValueError):
    """Token ids, labels, masks, texts or datasets that cannot be used."""


class UnknownNameError(Error, KeyError):
    """A hook point, tensor, adapter or module that is not there; the message lists the nearest names."""


class BusyError(Error, RuntimeError):
    """Another thread is using this object in a way that excludes this call."""


class NonFiniteError(Error, ArithmeticError):
    """A loss or a gradient norm that is not finite; nothing was changed."""


def nearest(name, names, count=3):
    """The `count` members of `names` most like `name`, as a phrase for an error message."""
    from difflib import get_close_matches

    close = get_close_matches(name, list(names), n=count, cutoff=0.4)
    return "nearest: " + ", ".join(close) if close else ""


def hint(name, names):
    """The nearest of `names`, which a file gave, as the end of a sentence; nothing where the search would take long."""
    if len(name) > LIMIT:
        return ""
    phrase = nearest(name, [other for other in islice(names, SEARCHED) if len(other) <= LIMIT])
    return f"; {phrase}" if phrase else ""


def shown(value):
    """A value as an error message shows it: never long, and never an error itself."""
    try:
        text = repr(value)
    except ValueError:  # Python does not print a whole number of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= LIMIT else text[:LIMIT] + " …"


def quoted(value):
    """A string that a file gave, its beginning if it is long; the type's name of anything else."""
    if not isinstance(value, str):
        return type(value).__name__
    return repr(value) if len(value) <= LIMIT else repr(value[:LIMIT])[:-1] + "…'"
