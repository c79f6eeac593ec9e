"""The parser of a command's words: argparse, with errors in one line that name the nearest flag."""

import argparse
import re

from llmc import checks
from llmc.cli.outcome import Usage, say
from llmc.dtype_words import dtype_word
from llmc.errors import ConfigError, nearest

_NUMBER = re.compile(r"[-+]?\d[\d_.]*")


class Sentences(argparse.RawDescriptionHelpFormatter):
    """Lays out --help: what a flag does is a sentence, with what it may be, and in brackets what it is by default."""

    def _get_help_string(self, action):
        text, bracket, default = action.help.rpartition(" [") if action.help.endswith("]") else (action.help, "", "")
        unsaid = [choice for choice in action.choices or () if str(choice) not in text]
        choices = f"; one of {', '.join(map(str, action.choices))}" if unsaid else ""
        text = f"{text[:1].upper()}{text[1:].rstrip('.')}{choices}."
        return f"{text} [{default}" if bracket else text


class Parser(argparse.ArgumentParser):
    """The parser of one command.

    Parameters
    ----------
    name, summary, example : str
    """

    def __init__(self, name, summary, example):
        super().__init__(prog=f"llmc {name}", description=f"{summary[0].upper()}{summary[1:]}.", allow_abbrev=False,
                         epilog=f"example:\n  {example}", formatter_class=Sentences)
        self.name = name
        self._several = set()
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def add_several(self, group, flag, kind, metavar, text):
        """Add a flag that takes the numbers behind it; a file that follows them is a word of its own.

        `kind` is given them as one text, with blanks between.
        """
        self._several.add(flag)
        group.add_argument(flag, type=kind, metavar=metavar, help=text)

    def error(self, message):
        """Called by argparse."""
        raise Usage(f"{self.name}: {message}; see llmc {self.name} --help")

    def parse(self, argv):
        """The words as a namespace.

        Raises
        ------
        Usage
            When a flag is unknown, a word is missing, surplus, or of the wrong type.
        """
        argv = _joined(argv, self._several)
        args, surplus = self.parse_known_intermixed_args(argv)  # flags may stand between words
        if surplus:
            word = next((word for word in surplus if word.startswith("-")), surplus[0])
            if word.startswith("-"):
                flag = word.split("=")[0]
                self.error(f"there is no flag {flag}" + "".join(f"; {near}" for near in (self._nearest(flag),) if near))
            self.error(f"one word too many: {word!r} (a text of several words is quoted)")
        return args

    def _nearest(self, flag):
        return nearest(flag, [option for option in self._option_string_actions if option.startswith("--")])


def _joined(argv, flags):
    """Words in which the numbers behind each of some flags are one."""
    words, taking = [], False
    for word in argv:
        number = _NUMBER.fullmatch(word)
        if taking and number:
            words[-1] += f" {word}"
        else:
            taking = number and words[-1:] and words[-1] in flags
            words.append(word)
    return words


def whole(least, most=checks.LARGEST):
    """The type of a flag that is a whole number from `least` to `most`."""
    return _checked(int, lambda value: checks.whole(value, "it", least, most))


def between(low, high, open_low=False):
    """The type of a flag that is a number from `low` to `high`."""
    return _checked(float, lambda value: checks.number(value, "it", low, high, open_low))


def _checked(kind, check):
    """What turns a flag's text into a value of this kind, and lets it be checked."""

    def convert(text):
        try:
            value = kind(text)
        except ValueError:
            value = text
        try:
            return check(value)
        except (TypeError, ConfigError) as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def precision(parser):
    """Add --precision; where the processor lacks what it asks for, that is said when it is parsed."""

    def convert(text):
        from llmc.core import _core

        text = dtype_word(text)
        if text == "bfloat16" and not _core.info()["bfloat16"]:
            say("no bfloat16 products here, so they are computed in float32 (llmc doctor says why)")
        return text

    parser.add_argument("--precision", type=convert, choices=("float32", "bfloat16"),
                        help="how products are computed: in float32 or in bfloat16 [as weights are stored; bfloat16 "
                             "for int8]")


def storage(parser):
    """Add --dtype, and --precision."""
    parser.add_argument("--dtype", type=dtype_word, choices=("float32", "bfloat16", "int8"),
                        help="how weights are stored in memory: float32; bfloat16, a half of it; int8, a quarter "
                             "[float32]")
    precision(parser)


def threads(parser):
    """Add --num-threads, which takes effect when it is parsed."""

    def convert(text):
        from llmc.core import set_num_threads

        value = whole(1)(text)
        try:
            set_num_threads(value)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return value

    parser.add_argument("--num-threads", type=convert, metavar="N",
                        help="threads that compute, with the same result [one for each processor]")
