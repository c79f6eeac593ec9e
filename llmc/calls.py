"""Public calls: an argument that a call does not have is refused in words; `input_ids` is `ids` everywhere."""

import functools
import inspect

from llmc.errors import nearest


def public(thing):
    """Decorates a function, or the public methods of a class with its constructor and call.

    A keyword argument that the call does not have is a TypeError that names the call and the nearest word, whatever
    functions of ours stand behind it. What `**tokenizer(text)` gives goes where ids and a mask are taken.
    """
    if inspect.isclass(thing):
        for name, member in list(vars(thing).items()):
            if not name.startswith("_") or name in ("__init__", "__call__"):
                setattr(thing, name, _checked_member(member, thing.__name__))
        return thing
    return _checked(thing, thing.__name__)


def _checked_member(member, owner):
    if isinstance(member, (classmethod, staticmethod)):
        return type(member)(_checked(member.__func__, f"{owner}.{member.__func__.__name__}"))
    if not inspect.isfunction(member):
        return member
    name = member.__name__
    return _checked(member, owner if name in ("__init__", "__call__") else f"{owner}.{name}")


def _checked(function, name):
    parameters = inspect.signature(function).parameters.values()
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return function  # it knows its words itself
    known = frozenset(each.name for each in parameters if each.kind is not each.VAR_POSITIONAL)
    takes_ids = "ids" in known and "input_ids" not in known

    @functools.wraps(function)
    def checked(*args, **arguments):
        if not arguments.keys() <= known:
            if takes_ids and "input_ids" in arguments and "ids" not in arguments:
                arguments["ids"] = arguments.pop("input_ids")
            for argument in arguments.keys() - known:
                raise TypeError(f"{name} has no argument {argument!r}; {_words(argument, known)}")
        return function(*args, **arguments)

    return checked


def _words(argument, known):
    words = sorted(known - {"self", "cls"})
    return nearest(argument, words) or (f"there are {', '.join(words)}" if words else "it takes none")
