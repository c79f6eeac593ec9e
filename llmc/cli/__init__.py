"""The command line: `llmc COMMAND …`. A row of COMMANDS and a file beside this one are a command."""

import importlib
import sys

from llmc.cli.outcome import Outcome, Usage
from llmc.cli.parser import Parser
from llmc.errors import nearest
from llmc.system.command import Working, ended

# What each does. Its file has EXAMPLE, `arguments(parser)` and `run(args)`, and is imported when it is called for.
COMMANDS = {
    "demo": "train a tokenizer and a small LLaMA for a minute, on text that every Python carries",
    "train": "train a model on text files or token files, from scratch, from a checkpoint, or on from Ctrl-C",
    "generate": "continue a text, shown as it is written",
    "eval": "the loss and perplexity of a model on a text, or its results in benchmarks",
    "lora": "train a low-rank adapter of a model on texts, on prompts and responses, or on scenes",
    "merge": "an adapter and its base as one plain checkpoint",
    "lim": "what every module of a model does to its input, on a text: tables, a page, a picture",
    "lime": "LIMe's paper again: models trained in pairs, its figures and tables, a page",
    "scenes": "scene files: every fault with its line, what they hold, and which field a response comes from",
    "inspect": "what is inside a checkpoint: names, shapes, dtypes, bytes, roles",
    "diff": "two checkpoints side by side: what changed, how much and where: tables, a page, a picture",
    "extract-lora": "a low-rank adapter out of a full fine-tune, and how much of the change it holds",
    "tokenize": "text files of any size into one file of token ids",
    "compare": "a checkpoint beside transformers, module by module: where do they diverge?",
    "plot": "the losses of several trainings in one picture",
    "bench": "how fast llmc is here, against what this machine can do and against torch",
    "doctor": "what runs here: processor, kernels, threads, memory, versions",
}


def main(argv=None):
    """Run a command.

    Parameters
    ----------
    argv : list of str, optional
        By default the words behind `llmc`.

    Returns
    -------
    int
        0; 1: the work failed; 2: wrong usage; 130: Ctrl-C.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    with Outcome(debug="--debug" in argv) as outcome, Working():
        _run(argv)
    ended()
    return outcome.status


def _run(argv):
    if not argv:
        raise Usage(f"a command is missing: {', '.join(COMMANDS)}; see llmc --help")
    name, rest = argv[0], argv[1:]
    if name in ("-h", "--help"):
        print(_help())
    elif name == "--version":
        from llmc import __version__

        print(f"llmc {__version__}")
    elif name not in COMMANDS:
        known = nearest(name, COMMANDS) or f"there are {', '.join(COMMANDS)}"
        raise Usage(f"there is no command {name!r}; {known}; see llmc --help")
    else:
        command = importlib.import_module(f"llmc.cli.{name.replace('-', '_')}")
        parser = Parser(name, COMMANDS[name], command.EXAMPLE)
        command.arguments(parser)
        command.run(parser.parse(rest))


def _help():
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:{width}}  {what}" for name, what in COMMANDS.items())
    return (f"usage: llmc COMMAND …\n\ncommands:\n{rows}\n\nllmc COMMAND --help has the flags and an example; "
            f"llmc --version the version.\nexit status: 0 done, 1 the work failed, 2 wrong usage, 130 Ctrl-C")
