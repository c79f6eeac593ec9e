"""LIMe's paper: its models, how they are trained, and the tasks they are compared on."""

from llmc.lime.paper import TASKS, arguments, config

__all__ = ["TASKS", "arguments", "config"]
