"""How a command ends: an exit status, and for what went wrong one line on the standard error."""

import os
import sys
import traceback
import warnings


class Usage(Exception):
    """Words on the command line that cannot be obeyed."""


class Outcome:
    """A context in which a command runs; nothing gets out of it but `status`.

    Parameters
    ----------
    debug : bool
        Show tracebacks.

    Attributes
    ----------
    status : int
        0; 1: the work failed; 2: wrong usage; 130: Ctrl-C.
    """

    def __init__(self, debug=False):
        self.debug = debug
        self.status = 0

    def __enter__(self):
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.showwarning = _warn
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")  # a terminal that lacks a character shows a question mark
        return self

    def __exit__(self, kind, error, trace):
        self._warnings.__exit__(None, None, None)
        if error is None or isinstance(error, SystemExit):
            try:
                sys.stdout.flush()
            except OSError as failed:
                error = failed
        self._judge(error)
        return True

    def _judge(self, error):
        if error is None or isinstance(error, SystemExit):  # argparse leaves so after --help
            self.status = int(getattr(error, "code", 0) or 0)
        elif isinstance(error, BrokenPipeError):  # whoever read it has enough
            _close_stdout()
        else:
            self.status = 2 if isinstance(error, Usage) else 130 if isinstance(error, KeyboardInterrupt) else 1
            if self.debug and self.status != 2:
                traceback.print_exception(error)
            else:
                say(describe(error))
            try:
                sys.stdout.flush()
            except OSError:
                _close_stdout()


def say(line):
    """A line of llmc's own on the standard error."""
    print(f"llmc: {line}", file=sys.stderr, flush=True)


def describe(error):
    """An error in one line, for a user."""
    if isinstance(error, OSError) and error.strerror:
        names = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        text = f"{names}: {error.strerror}" if names else error.strerror
    else:
        text = " ".join(str(error).split())
    if isinstance(error, KeyboardInterrupt):
        return text or "stopped"
    if isinstance(error, MemoryError):
        return f"out of memory: {text}" if text else "out of memory"
    ours = isinstance(error, Usage) or type(error).__module__.startswith("llmc")
    if ours or isinstance(error, (OSError, ImportError)):
        return text
    return f"{type(error).__name__}: {text} (--debug shows where)"


def _warn(message, category, filename, lineno, file=None, line=None):
    say(f"warning: {' '.join(str(message).split())}")


def _close_stdout():
    """Let Python's last flush go nowhere, where it would complain."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        pass
