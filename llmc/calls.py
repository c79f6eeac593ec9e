"""Public calls: words they do not have, and None, are refused in words; warnings point at the line of the call."""

import functools
import inspect
import math
import os
import sys
import warnings
from itertools import chain

from llmc.errors import nearest

_PACKAGE = os.path.dirname(__file__) + os.sep
_KNOW_THEMSELVES = ("self", "cls", "ids")  # `as_ids` has words of its own for what are no ids


def public(thing, may_be_none=()):
    """Decorates a function, or a class: its constructor, its call and its public methods, inherited ones too.

    A keyword argument that the call does not have is a TypeError that names the call and the nearest word, whatever
    functions of ours stand behind it; so is None for an argument that has to be given or has another default, unless
    it is in `may_be_none` or that default is an empty tuple; so are arguments that are missing or one too many.
    `input_ids`, as a tokenizer gives it, is `ids` everywhere. An attribute that a class does not have is an
    AttributeError with the nearest, or with what its `_ELSEWHERE` says of a word of another library.
    """
    if not inspect.isclass(thing):
        return _checked(thing, thing.__name__, may_be_none)
    for name in dir(thing):
        owner = next(each for each in thing.__mro__ if name in vars(each))
        if owner.__module__.startswith("llmc") and (not name.startswith("_") or name in ("__init__", "__call__")):
            setattr(thing, name, _checked_member(vars(owner)[name], name, thing.__name__, may_be_none))
    if not hasattr(thing, "__getattr__"):
        thing.__getattr__ = _no_attribute
    return thing


def warn(message, category=UserWarning):
    """A warning at the line outside of the package that led here."""
    frame, level = sys._getframe(), 1
    while frame and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def _checked_member(member, name, owner, may_be_none):
    called = owner if name.startswith("_") else f"{owner}.{name}"
    if isinstance(member, (classmethod, staticmethod)):
        return type(member)(_checked(member.__func__, called, may_be_none))
    return _checked(member, called, may_be_none) if inspect.isfunction(member) else member


def _checked(function, called, may_be_none):
    parameters = list(inspect.signature(function).parameters.values())
    open_ended = parameters and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD  # it knows its words itself
    parameters = parameters[:-1] if open_ended else parameters
    ordered = [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
    known = frozenset(each.name for each in parameters)
    needed = {each.name: each.default for each in parameters if each.name not in {*_KNOW_THEMSELVES, *may_be_none}
              and (each.default is each.empty or not open_ended and each.default not in (None, ()))}  # fmt: skip
    must = [each.name for each in parameters if each.default is each.empty and each.kind is not each.VAR_POSITIONAL]
    most = math.inf if any(each.kind is each.VAR_POSITIONAL for each in parameters) else len(ordered)
    takes_ids = "ids" in known
    if open_ended and not needed:
        return function

    @functools.wraps(function)
    def checked(*given, **named):
        if takes_ids and "input_ids" in named and "ids" not in named:
            named["ids"] = named.pop("input_ids")
        if not open_ended and not named.keys() <= known:
            raise TypeError(_unknown(called, next(name for name in named if name not in known), known))
        if len(given) > most or len(given) < len(must) and not named.keys() >= set(must[len(given) :]):
            raise TypeError(_miscounted(called, given, named, ordered, must))
        for name, value in chain(zip(ordered, given), named.items()):
            if value is None and name in needed:
                raise TypeError(_missing(called, name, needed[name]))
        return function(*given, **named)

    return checked


def _unknown(called, name, known):
    words = sorted(known - {"self", "cls"})
    near = nearest(name, words) or (f"there are {', '.join(words)}" if words else "it takes none")
    return f"{called} has no argument {name!r}; {near}"


def _miscounted(called, given, named, ordered, must):
    if len(given) > len(ordered):
        words = [name for name in ordered if name not in ("self", "cls")]
        listed = f"in their order: {', '.join(words)}" if words else "with a name"
        return f"{called} takes {len(words) or 'no'} arguments without a name, {listed}"
    return f"{called}: {next(name for name in must[len(given) :] if name not in named)} is missing; it has to be given"


def _no_attribute(self, name):
    """`__getattr__` of public classes that have none of their own: Python asks it for what is not there."""
    kind = type(self).__name__
    if name.startswith("_"):
        raise AttributeError(f"{kind} has no attribute {name!r}")
    elsewhere = getattr(type(self), "_ELSEWHERE", {}).get(name)
    words = sorted(word for word in dir(self) if not word.startswith("_"))
    remedy = elsewhere or nearest(name, words) or f"there are {', '.join(words)}"
    raise AttributeError(f"{kind} has no {name!r}; {remedy}")


def _missing(called, name, default):
    remedy = "it has to be given" if default is inspect.Parameter.empty else f"leave it out for {default!r}"
    return f"{called}: {name} is None; {remedy}"
