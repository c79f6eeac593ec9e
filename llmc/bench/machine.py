"""The machine's own peaks, measured again and again while a benchmark runs."""

from llmc.core import _core

SECONDS = 0.2  # of a measurement

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
        self.measured = {name: [] for name in UNITS}

    def measure(self, name):
        """The rate now."""
        rate = _core.measure(name, SECONDS)
        self.measured[name].append(rate)
        return rate

    def has(self, name):
        """Whether the processor and the kernels in use have it at all."""
        return (self.measured[name][-1] if self.measured[name] else self.measure(name)) > 0


class Peak:
    """One of the machine's rates, measured once a round beside the work that is rated against it."""

    def __init__(self, machine, name):
        self.rates, self._machine, self._name = [], machine, name

    def round(self):
        """Measure it now."""
        self.rates.append(self._machine.measure(self._name))


def yardstick(job):
    """The peak that a job is rated against."""
    if job.bound == "memory":
        return "read"
    return "bfloat16" if job.precision == "bfloat16" else "multiply_add"
