"""Ctrl-C during a training: obeyed at once where a step can be abandoned, else when model and state agree again."""

import signal
from contextlib import contextmanager


class Interrupts:
    """A context in which the first Ctrl-C raises KeyboardInterrupt only inside `abandonable()` or at `check()`.

    Between them the model, the optimizer and the state move on together. A second Ctrl-C raises wherever it comes.
    Outside the main thread, and where Ctrl-C has been given another meaning, nothing is changed.
    """

    def __init__(self):
        self.count = 0
        self._abandonable = False
        self._installed = False

    def __enter__(self):
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            try:
                signal.signal(signal.SIGINT, self._pressed)
                self._installed = True
            except ValueError:  # not the main thread, which alone hears Ctrl-C
                pass
        return self

    def __exit__(self, *_):
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _pressed(self, number, frame):
        self.count += 1
        if self._abandonable or self.count > 1:
            raise KeyboardInterrupt

    @contextmanager
    def abandonable(self):
        """Work that may be dropped at any instant, because nothing outside it has been changed yet."""
        self._abandonable = True
        try:
            self.check()
            yield
        finally:
            self._abandonable = False

    def check(self):
        """Raise KeyboardInterrupt if Ctrl-C was pressed where it had to wait."""
        if self.count:
            raise KeyboardInterrupt
