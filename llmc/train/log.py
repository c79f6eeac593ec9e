"""log.jsonl: one object for every optimizer step and every evaluation, in order, each once."""

import io
import json
import os

from llmc.system.atomic import atomic_write, named
from llmc.system.small_file import is_there, open_small

LOG = "log.jsonl"
_MOST = 1 << 30  # bytes: five million steps
_LONGEST = 1 << 16  # characters of a line


class TrainingLog:
    """The log of a training, begun anew or continued.

    Parameters
    ----------
    path : str
    step : int
        The step the training goes on after; what the log says of later ones did not come to last, and goes.
    evaluated : bool
        Whether the evaluation of that very step was done.
    """

    def __init__(self, path, step, evaluated):
        kept = []
        if step and is_there(path):
            kept = [entry for entry in read_log(path)
                    if entry["step"] < step or (entry["step"] == step and (evaluated or "eval_loss" not in entry))]
        with atomic_write(path, "w") as file:
            file.writelines(map(_line, kept))
        self._file = open(path, "a", encoding="utf-8")

    def write(self, entry):
        """Add an entry; it is in the hands of the system when this returns."""
        with named(self._file.name):
            self._file.write(_line(entry))
            self._file.flush()

    def sync(self):
        """Flush to the disk."""
        os.fsync(self._file.fileno())

    def close(self):
        with named(self._file.name):
            self._file.close()


def read_log(path):
    """The entries of a log, a list of dict; a line that a crash cut off is left out.

    Raises
    ------
    OSError
        When there is no such file, or it may not be read.
    CheckpointError
        When it is no regular file, or larger than any log.
    """
    entries = []
    with io.TextIOWrapper(open_small(path, _MOST, "a log"), encoding="utf-8", errors="replace") as file:
        while line := file.readline(_LONGEST):
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and isinstance(entry.get("step"), int):
                entries.append(entry)
    return entries


def _line(entry):
    return json.dumps(entry, allow_nan=False) + "\n"
