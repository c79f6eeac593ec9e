"""The flags of llmc train that are fields of TrainingArguments, made from that class itself."""

import argparse
import dataclasses
import json
import re
import types
import typing


FLAGS = {"overwrite_output_dir": "--overwrite"}  # those that are not called as their fields


def add(parser, other, when="from scratch"):
    """Add a flag for every field of TrainingArguments; none has a default here, so that what was given is known.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    other : dict
        Defaults of the command in place of the class's own.
    when : str
        When they hold, in the words of --help.
    """
    from llmc import TrainingArguments
    from llmc.train.arguments import STRATEGIES
    from llmc.train.schedule import SCHEDULES

    words = descriptions(TrainingArguments.__doc__)
    words["lr_scheduler_type"] = f"The schedule of the rate, one of {', '.join(SCHEDULES)}."
    words["eval_strategy"] += f" One of {', '.join(STRATEGIES)}."
    words["save_strategy"] += f" One of {', '.join(STRATEGIES)}."
    words["on_nonfinite"] += " One of raise, skip."
    group = parser.add_argument_group("training (transformers' TrainingArguments)")
    for field in dataclasses.fields(TrainingArguments):
        kind, flag = _kind(field.type), FLAGS.get(field.name, f"--{field.name.replace('_', '-')}")
        value = f"{field.default}; {when} {other[field.name]}" if field.name in other else field.default
        text = f"{words.get(field.name, '')} [{value}]".strip().replace("%", "%%")
        if kind is bool:
            action = argparse.BooleanOptionalAction if field.default else "store_true"
            group.add_argument(flag, dest=field.name, action=action, default=None, help=text)
        elif list in typing.get_args(field.type) and kind is float:
            parser.add_several(group, flag, _steps, "X…", text)
        else:
            group.add_argument(flag, type=_converter(kind), metavar="X", help=text)


def given(args):
    """{field: value} of the fields of TrainingArguments that were given."""
    from llmc import TrainingArguments

    names = [field.name for field in dataclasses.fields(TrainingArguments)]
    return {name: getattr(args, name) for name in names if getattr(args, name, None) is not None}


def descriptions(doc):
    """{parameter: what it is} of a numpydoc section "Parameters"; parameters without words share those before."""
    body = re.split(r"\n\s*(?:Raises|Returns|Attributes|Examples)\n\s*-+\n", doc.split("----------\n", 1)[1])[0]
    words, names = {}, []
    for line in body.splitlines():
        if match := re.match(r"    (\w+(?:, \w+)*) : (.*)", line):
            names = match[1].split(", ")
            words.update(dict.fromkeys(names, ""))
        elif line.strip():
            words.update({name: f"{words[name]} {line.strip()}".strip() for name in names})
    return words


def _kind(annotation):
    """The type of an annotation such as `float | None`."""
    if isinstance(annotation, types.UnionType):
        return next(member for member in typing.get_args(annotation) if member is not type(None))
    return annotation


def _steps(text):
    """A number of steps, "log", or the list of several."""
    from llmc.train.due import LOG

    words = text.split()
    if words == [LOG]:
        return LOG
    try:
        return _converter(float)(text) if len(words) == 1 else list(map(int, words))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of steps, no steps (0 10 100), nor {LOG}") from None


def _converter(kind):
    def convert(text):
        value = json.loads(text) if kind in (dict, list) else kind(text)
        return int(value) if kind is float and value.is_integer() else value

    words = {float: "number", int: "whole number", dict: "JSON object", list: "JSON list"}
    convert.__name__ = words.get(kind, kind.__name__)
    return convert
