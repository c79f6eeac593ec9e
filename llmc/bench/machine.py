"""The machine's own peaks, measured again and again while a benchmark runs."""

import time

from llmc.core import _core

SECONDS = 0.2  # of a measurement
FRESH = 20.0  # seconds for which the last measurement counts as one of before a job

UNITS = {"multiply_add": "FLOP/s", "bfloat16": "FLOP/s", "read": "B/s", "copy": "B/s"}
WORDS = {"multiply_add": "float32 multiply-adds, from registers", "bfloat16": "bfloat16 products, from registers",
         "read": "memory, read", "copy": "memory, read and written"}  # fmt: skip


class Machine:
    """What this machine can do at best, on as many threads as the pool has.

    Attributes
    ----------
    measured : dict of str to list of float
        Every measurement, in operations or bytes a second; 0: there is no such instruction.
    """

    def __init__(self):
        self.measured, self._last = {name: [] for name in UNITS}, {}

    def measure(self, name):
        """The rate now."""
        rate = _core.measure(name, SECONDS)
        self.measured[name].append(rate)
        self._last[name] = time.monotonic()
        return rate

    def before(self, name):
        """A rate measured a moment ago, or now."""
        if time.monotonic() - self._last.get(name, float("-inf")) < FRESH:
            return self.measured[name][-1]
        return self.measure(name)

    def has(self, name):
        """Whether the processor and the kernels in use have it at all."""
        return self.before(name) > 0


def yardstick(job):
    """The peak that a job is rated against."""
    if job.bound == "memory":
        return "read"
    return "bfloat16" if job.precision == "bfloat16" else "multiply_add"
