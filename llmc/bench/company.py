"""Company: how much of the processors other programs took while a job was measured. Linux's own counts."""

import os
import time

TICKS = os.sysconf("SC_CLK_TCK")
IDLE = (3, 4)  # columns of /proc/stat: idle, waiting for a disk


class Company:
    """A stretch of time, from when this is made.

    Parameters
    ----------
    processes : list of int
        The measured ones, which are no company; nor is this process.
    """

    def __init__(self, processes):
        self._processes = [os.getpid(), *processes]
        self._start, self._busy, self._own = time.monotonic(), _busy(), self._spent()

    def share(self):
        """Of all processors' time, what others took: 0 to 1; None where it cannot be told."""
        took = (time.monotonic() - self._start) * os.cpu_count()
        if self._busy is None or took <= 0:
            return None
        others = (_busy() - self._busy) - (self._spent() - self._own)
        return min(max(others / took, 0.0), 1.0)

    def _spent(self):
        return sum(map(_of_process, self._processes))


def _busy():
    try:
        with open("/proc/stat") as file:
            counts = [int(word) for word in file.readline().split()[1:9]]
    except (OSError, ValueError):
        return None
    return sum(n for column, n in enumerate(counts) if column not in IDLE) / TICKS


def _of_process(process):
    """Seconds of processor time of a process, all its threads together."""
    try:
        with open(f"/proc/{process}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / TICKS
    except (OSError, ValueError):
        return 0.0
