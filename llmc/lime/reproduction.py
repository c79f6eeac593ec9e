"""LIMe's paper again, in one call: models trained in pairs, all figures and tables, and a page that shows them."""

import fcntl
import os
import time
from contextlib import contextmanager
from importlib.util import find_spec

from llmc.calls import public
from llmc.checks import whole
from llmc.core import get_num_threads
from llmc.errors import BusyError, ConfigError, DataError, UnknownNameError, shown
from llmc.lime.benchmarks import left_out, why_not
from llmc.lime.drawings import DRAWINGS, file_of, write_pictures
from llmc.lime.findings import BENCHMARKS, NEED_SCIKIT_LEARN, WAYS, Findings
from llmc.lime.forecast import Forecast
from llmc.lime.learning import require_ours, result_of
from llmc.lime.ledger import Ledger
from llmc.lime.remarks import remarks_on
from llmc.lime.pages import write_page
from llmc.lime.recipes import cost_of, recipes_of
from llmc.lime.sheets import SHEETS, write_tables
from llmc.lime.wanted import keys_of, scale_of
from llmc.lime.workers import do_all
from llmc.system.atomic import sweep


@public
def reproduce(out, scale="smoke", figures="all", seed=0, disable_tqdm=None, operands=None):
    """Train LIMe and what it is compared with, and draw the paper's figures and tables anew.

    Models that are compared begin alike and read the same rows in the same order. What is there is used again: models
    that are finished, and numbers that rest on them; a training that was stopped goes on from its last checkpoint.
    Several models train at once, each in a process of its own, as many as llmc has threads.

    Parameters
    ----------
    out : path
        A folder for `models/NAME/`, `numbers.json`, pictures, tables and `index.html`. Scales may share it: each leaves
        the others' files and numbers, and trains a model that was another scale's again.
    scale : {"smoke", "small", "aet"}
        "smoke": everything, tiny, within three minutes on two cores. "small": the models on text, about 45 minutes.
        "aet": the arithmetic task alone, about an hour.
    figures : "all", str, or list
        Some of them, with commas or as a list: "5,7,table6,aet"; 5 and "fig05" are the same. The others' files and
        numbers stay as they are.
    seed : int
        Of the first model; where there are several seeds, the next ones follow.
    disable_tqdm : bool, optional
        True: lines in place of the bar. None: a bar in a terminal and in a notebook.
    operands : list of int, optional
        Of the arithmetic task, in place of the scale's 3 and 4. Numbers of others that are there stay.

    Returns
    -------
    dict
        What `numbers.json` holds: an entry for each figure and table.

    Raises
    ------
    UnknownNameError
        For another scale, a figure that there is not, or that the scale does not have.
    ConfigError
        For a seed, or operands, outside of their range, or operands at a scale without arithmetic.
    FileExistsError
        Where `models/NAME` holds something else.
    BusyError
        While another call works in this folder.
    KeyboardInterrupt
        After Ctrl-C, when the trainings have saved their last steps; called again, it goes on from there.
    OSError
        When the folder cannot be written to, or is full.
    """
    keys, seed = keys_of(figures, scale), whole(seed, "seed", most=2**31)
    operands = _operands(operands, scale)
    out = os.path.abspath(out)
    os.makedirs(out, exist_ok=True)
    with _alone(out):
        sweep(out)
        work = _Work(out, scale, seed, operands)
        work.go(keys, disable_tqdm)
        return work.ledger.numbers


class _Work:
    """What there is to do in a folder."""

    def __init__(self, out, scale, seed, operands):
        self.told = {"out": out, "scale": scale, "seed": seed, "operands": operands}
        self.origin = [scale, seed]
        self.here = Findings(out, scale_of(scale), recipes_of(scale_of(scale), seed, operands))
        self.ledger = Ledger(out, dict.fromkeys([*WAYS, *SHEETS]))

    def go(self, keys, disable_tqdm):
        """Train what is missing, work out and draw what is not there yet, and write the page."""
        keys = [key for key in keys if not self._is_done(key)]
        lacking = [key for key in keys if key in NEED_SCIKIT_LEARN and find_spec("sklearn") is None]
        said = [f"{file_of(key)} is left out: scikit-learn is not installed (pip install 'llmc[lime]')."
                for key in lacking]  # fmt: skip
        if BENCHMARKS in keys and (why := why_not()):
            lacking, said = [*lacking, BENCHMARKS], [*said, left_out(why)]
        keys = [key for key in keys if key not in lacking]
        models = self._missing(keys)
        count = max(1, min(get_num_threads(), max(len(models), len(keys))))
        costs = {name: cost_of(self.here.recipes[name]) / count for name in models}
        costs |= {key: WAYS[key].seconds for key in keys}
        with Forecast(sum(costs.values()), disable_tqdm) as self.forecast:
            self._train(models, costs, count)
            self._find([key for key in keys if key != BENCHMARKS], costs, count, sum(costs[name] for name in models))
            said += self._ask(costs) if BENCHMARKS in keys else []
            path = write_page(self.ledger.numbers, self.here.out, self.ledger.origins(), said, self.ledger.notes())
            self.forecast.say(path)

    def _is_done(self, key):
        rests_on = self.here.rests_on(key)
        return self.ledger.has(key, self.origin, rests_on) and _has_files(self.here.out, key)

    def _missing(self, keys):
        """The models that entries need and that are not finished."""
        needed = {name for key in keys for name in self.here.needs(key)}
        missing = [name for name, recipe in self.here.recipes.items()
                   if name in needed and result_of(self.here.folder(name), recipe) is None]  # fmt: skip
        for name in missing:
            require_ours(self.here.folder(name))
        return missing

    def _train(self, models, costs, count):
        """Train models, the longest first, so that at the end no process is left alone with one."""
        done, tokens = dict.fromkeys(models, 0.0), {}
        names, start = sorted(models, key=lambda name: -costs[name]), time.monotonic()

        def report(name, answer):
            steps, result = self.here.recipes[name]["arguments"]["max_steps"], answer.get("result")
            done[name] = costs[name] * (1 if result else answer["step"] / steps)
            if result:
                right = f", {result['accuracy']:.1%} right" if "accuracy" in result else ""
                self.forecast.say(f"{name}: {steps:,} steps, held-out loss {result['eval_loss']:.3f}{right}")
            else:
                before = tokens.get(name, (answer["tokens"], 0))[0]  # what an earlier call had read does not count
                tokens[name] = before, answer["tokens"] - before
            finished = sum(value == costs[each] for each, value in done.items())
            rate = sum(read for _, read in tokens.values()) / (time.monotonic() - start)
            self.forecast.at(sum(done.values()), f"model {min(finished + 1, len(names))} of {len(names)}, {name}, "
                             f"{rate:,.0f} tokens/s")  # fmt: skip

        jobs = [(name, {"learn": {"recipe": self.here.recipes[name], "folder": self.here.folder(name)}})
                for name in names]  # fmt: skip
        do_all(jobs, count, max(1, get_num_threads() // count), report)

    def _ask(self, costs):
        """Work out the benchmarks' table; why it is left out, in a list, where something is missing after all."""
        try:
            self._find([BENCHMARKS], costs, 1, sum(costs.values()) - costs[BENCHMARKS])
        except (DataError, ImportError, UnknownNameError) as error:
            return [left_out(error)]
        return []

    def _find(self, keys, costs, count, done):
        """Work out entries, those that take longest first; each is drawn as soon as it is there."""

        def report(key, answer):
            nonlocal done
            notes = remarks_on(self.here, key)
            self.ledger.enter(key, answer["result"], self.origin, self.here.rests_on(key), notes)
            words = self.here.words() if key in NEED_SCIKIT_LEARN else None
            write_pictures(self.ledger.numbers, self.here.out, [key], words)
            write_tables(self.ledger.numbers, self.here.out, [key])
            done += costs[key]
            self.forecast.at(done, f"drew {key}")

        jobs = [(key, {"find": {"key": key} | self.told}) for key in sorted(keys, key=lambda key: -costs[key])]
        do_all(jobs, count, max(1, get_num_threads() // count), report)


def _has_files(out, key):
    """Whether the picture and the table of an entry are there."""
    files = [file_of(key)] if key in DRAWINGS else []
    files += [f"{SHEETS[key][0]}.csv"] if key in SHEETS else []
    return all(os.path.isfile(os.path.join(out, file)) for file in files)


def _operands(operands, scale):
    """Checked numbers of operands, in order; None for the scale's own."""
    if operands is None:
        return None
    if isinstance(operands, (str, bytes)) or not hasattr(operands, "__iter__"):
        raise TypeError(f"operands is {shown(operands)}, not a list of whole numbers")
    if not scale_of(scale).arithmetic:
        raise ConfigError(f"operands are of the arithmetic task, which scale {scale!r} does not have")
    found = sorted({whole(each, f"operands[{at}]", 2, 9) for at, each in enumerate(operands)})
    if not found:
        raise ConfigError("operands are [], not at least one number")
    return found


@contextmanager
def _alone(out):
    """BusyError while another process works in the folder."""
    descriptor = os.open(out, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise BusyError(f"{out}: another process reproduces there; wait for it, or give another out") from None
    finally:
        os.close(descriptor)
