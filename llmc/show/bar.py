"""How far work has come: a bar in a terminal or a notebook, elsewhere a forecast of a long analysis."""

import sys
import time
import warnings

from llmc.system.terminal import bars_are_seen

WORTH_SAYING = 10.0  # seconds; a shorter pass is not announced where there is no bar
DELAY = 1.0  # seconds; nobody looks at a bar that is gone before


def bar(disable_tqdm, **options):
    """A bar of tqdm, with its options; None where none is wanted.

    Parameters
    ----------
    disable_tqdm : bool or None
        None: a bar in a terminal and in a notebook.
    """
    if not bars_are_seen() if disable_tqdm is None else disable_tqdm:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a notebook without widgets gets the plain bar
        from tqdm.auto import tqdm
    return tqdm(**options)


def clock(seconds):
    """A time as a bar writes it: 02:05, 1:02:05."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes:02}:{seconds:02}"


class Passes:
    """The forward passes of an analysis, counted as they are done.

    Parameters
    ----------
    title : str
    total : int or None
    disable_tqdm : bool or None
        True: nothing is said. None: a bar in a terminal and in a notebook, and elsewhere a forecast in words.
    """

    def __init__(self, title, total, disable_tqdm):
        self._title, self._total, self._done, self._start = title, total, 0, time.monotonic()
        self._quiet = bool(disable_tqdm)
        self._bar = bar(disable_tqdm, total=total, unit="pass", desc=title, dynamic_ncols=True, leave=False,
                        delay=DELAY)  # fmt: skip

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
                print(f"{self._title}: {self._total} forward passes, about {clock(left)} left", file=sys.stderr)
