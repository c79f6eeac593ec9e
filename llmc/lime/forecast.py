"""How far a reproduction has come, how fast it trains and how long the rest will take: one bar, or lines."""

import os
import sys
import time

from llmc.show.bar import bar, clock

SILENCE = 15.0  # seconds between two lines while nothing is finished


class Forecast:
    """What a user sees while models are trained and figures drawn, on the standard error.

    Parameters
    ----------
    total : float
        All there is to do, in any unit of time: seconds of an imagined machine.
    disable_tqdm : bool or None
        None: a bar in a terminal and in a notebook; where there is none, lines.
    """

    def __init__(self, total, disable_tqdm):
        self._total, self._done, self._start = total, 0.0, time.monotonic()
        self._said = self._start
        rows = {"ncols": 100, "nrows": 24} if _has_no_size() else {"dynamic_ncols": True}
        self._bar = bar(disable_tqdm, total=total, smoothing=0, **rows, bar_format=(
            "{percentage:3.0f}% |{bar}| [{elapsed} < {remaining}{postfix}]"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._bar is not None:
            self._bar.close()

    def at(self, done, words):
        """So much is done; the words are about what is going on."""
        self._done = max(done, self._done)
        if self._bar is not None:
            self._bar.set_postfix_str(words, refresh=False)
            self._bar.update(self._done - self._bar.n)
        elif time.monotonic() - self._said > SILENCE:
            self.say(f"{self._done / self._total:4.0%}  {words}, {clock(self._left())} left")

    def say(self, line):
        """A line, above the bar where there is one."""
        self._said = time.monotonic()
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)

    def _left(self):
        return (time.monotonic() - self._start) * (self._total - self._done) / max(self._done, 1e-9)


def _has_no_size():
    """Whether a terminal says that it has no rows, as some containers' do: it would get no bar."""
    return sys.stderr.isatty() and 0 in os.get_terminal_size(sys.stderr.fileno())
