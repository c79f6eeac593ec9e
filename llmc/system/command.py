"""A process that is the command line: how it is known, and how Ctrl-C ends it before its work and after it.

The package imports this first, so that everything heavy is imported under its guard. It is light itself: `signal` would
take longer to import than all that comes before it, so this takes the module that it wraps.
"""

import os
import sys

import _signal as signal


def is_command(argv, original):
    """Whether a process with these words (`sys.argv`, `sys.orig_argv`) is the command line, as a script or by -m."""
    return os.path.basename(argv[0]) == "llmc" or (argv[0] == "-m" and "llmc.cli" in original)


def leave(number, frame):
    """Ends the process at once: there is nothing to save yet, or nothing any more."""
    try:
        os.write(2, b"llmc: stopped\n")
    finally:
        os._exit(130)


class Working:
    """A context in which Ctrl-C is Python's KeyboardInterrupt, so that a command saves what it has."""

    def __enter__(self):
        self._guarded = _answer(leave, signal.default_int_handler)

    def __exit__(self, *_):
        if self._guarded:
            _answer(signal.default_int_handler, leave)


def ended():
    """The work is done and said: Ctrl-C comes too late."""
    _answer(leave, signal.SIG_IGN)


def _answer(before, after):
    """Changes what Ctrl-C does, where it does what is expected; whether it did."""
    expected = signal.getsignal(signal.SIGINT) is before
    if expected:
        signal.signal(signal.SIGINT, after)
    return expected


if is_command(sys.argv, sys.orig_argv):
    _answer(signal.default_int_handler, leave)
