"""The progress of an analysis: a bar in a terminal or a notebook, and a forecast of a long one."""

import sys
import time
import warnings

from llmc.system.terminal import bars_are_seen

WORTH_SAYING = 10.0  # seconds; a shorter pass is not announced where there is no bar
DELAY = 1.0  # seconds; nobody looks at a bar that is gone before


class Progress:
    """A bar of forward passes.

    Parameters
    ----------
    title : str
    total : int or None
    disable_tqdm : bool or None
        None: a bar in a terminal and in a notebook.
    """

    def __init__(self, title, total, disable_tqdm):
        self._title, self._total, self._done, self._start = title, total, 0, time.monotonic()
        self._bar, self._quiet = None, bool(disable_tqdm)
        if disable_tqdm is None and not bars_are_seen():
            disable_tqdm = True
        if not disable_tqdm:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a notebook without widgets gets the plain bar
                from tqdm.auto import tqdm
            self._bar = tqdm(total=total, unit="pass", desc=title, dynamic_ncols=True, leave=False, delay=DELAY)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._bar is not None:
            self._bar.close()

    def step(self):
        """One pass is done; the second of many tells how long the rest will take (the first also takes memory)."""
        self._done += 1
        if self._bar is not None:
            self._bar.update()
        elif self._done == 2 and self._total and not self._quiet:
            left = (time.monotonic() - self._start) / 2 * (self._total - 2)
            if left > WORTH_SAYING:
                print(f"{self._title}: {self._total} forward passes, about {_clock(left)} left", file=sys.stderr)


def _clock(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
