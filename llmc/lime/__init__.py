"""LIMe's paper: its models, how they are trained, the tasks they are compared on, and all of it again in one call."""

from llmc.lime.paper import TASKS, arguments, config

__all__ = ["TASKS", "arguments", "config", "reproduce"]


def __getattr__(name):
    if name != "reproduce":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from llmc.lime.reproduction import reproduce  # brings the analyses with it, so it loads when named

    globals()[name] = reproduce
    return reproduce


def __dir__():
    return sorted({*globals(), *__all__})
