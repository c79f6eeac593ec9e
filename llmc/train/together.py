"""The losses of several trainings in one picture, and the numbers that matter of each."""

import os

import numpy as np

from llmc.errors import DataError
from llmc.show.curves import Panel, Series, draw
from llmc.show.table import Table, many
from llmc.train.log import LOG, read_log
from llmc.train.plot import series, smoothed, thinned

SIZE = 6.2, 4.4  # of a panel, inches


def read_runs(folders):
    """{name: (steps, losses, steps of evaluations, their losses)} of output folders.

    Parameters
    ----------
    folders : list of str
        A run's name is the end of its path, as much of it as tells it from the others.

    Raises
    ------
    FileNotFoundError
        For a folder without a log.
    DataError
        For a log without a loss, and for runs of different vocabularies.
    """
    runs = {}
    for name, folder in zip(_names(folders), folders):
        path = os.path.join(folder, LOG)
        if not os.path.exists(path):
            raise FileNotFoundError(f"{folder}: no {LOG} in it; give a folder that llmc train or llmc lora wrote")
        entries = read_log(path)
        runs[name] = (*series(entries, "loss"), *series(entries, "eval_loss"))
        if not len(runs[name][0]) and not len(runs[name][2]):
            raise DataError(f"{path}: no loss in it yet")
    _refuse_vocabularies(folders)
    return runs


def plot_runs(runs, path, logarithmic=False):
    """Draw what `read_runs` gives: training on the left, held out on the right, where there is either.

    Parameters
    ----------
    runs : dict
    path : str
        A .png, .pdf or .svg, which appears whole.
    logarithmic : bool
        Draw over the logarithm of the steps done before a loss was measured, and one: an evaluation over its step + 1.
    """
    x = "optimizer step" + " + 1, logarithmic" * logarithmic
    training, held_out = [], []
    for name, (steps, losses, held_steps, held) in runs.items():
        if len(steps):
            at, course = thinned(steps, smoothed(losses))
            training.append(Series(at, course, name, light=thinned(steps, losses)))
        if len(held_steps):
            held_out.append(Series(held_steps + logarithmic, held, name))
    panels = [Panel(title, each, "loss (nats per token)", lines, whole, logarithmic=logarithmic)
              for title, each, lines, whole in (("training", x.replace(" + 1", ""), training, False),
                                                ("held out", x, held_out, True)) if lines]  # fmt: skip
    draw(panels, path, f"Loss of {len(runs)} runs" if len(runs) > 1 else "Loss", SIZE, known=tuple(runs))


def table_of(runs):
    """A row for each run: its steps, and its losses at the end."""
    rows = []
    for name, (steps, losses, held_steps, held) in runs.items():
        best = int(np.argmin(held)) if len(held) else None
        rows.append({"run": name, "steps": int(max([*steps[-1:], *held_steps[-1:]])),
                     "loss": float(smoothed(losses)[-1]) if len(steps) else None,
                     "last eval_loss": float(held[-1]) if len(held) else None,
                     "best": float(held[best]) if len(held) else None,
                     "at step": int(held_steps[best]) if len(held) else None})
    return Table(["run", "steps", "loss", "last eval_loss", "best", "at step"], rows)


def spread_of(runs):
    """The mean and the sample deviation of the held-out losses after the last steps, in a line."""
    last = [held[-1] for steps, _, held_steps, held in runs.values()
            if len(held) and held_steps[-1] >= max(steps, default=0)]  # fmt: skip
    if len(last) < len(runs):
        missing = f"{len(runs) - len(last)} of {many(len(runs), 'run')}"
        return f"{missing} without a held-out loss after the last step: no mean"
    if len(last) == 1:
        return f"held-out loss after the last step: {last[0]:.4f}; one run has no deviation"
    return (f"held-out loss after the last step: mean {np.mean(last):.4f}, sample deviation {np.std(last, ddof=1):.4f} "
            f"over {len(last)} runs")


def _names(folders):
    """The shortest ends of the paths that differ, of as many folders each as needed.

    Raises
    ------
    DataError
        When two are one folder.
    """
    paths = [os.path.realpath(folder) for folder in folders]
    for place, path in enumerate(paths):
        if path in paths[:place]:
            raise DataError(f"{folders[place]} is the same folder as {folders[paths.index(path)]}; a run is drawn once")
    parts = [path.split(os.sep) for path in paths]
    count = next(n for n in range(1, max(map(len, parts)) + 1)
                 if len({tuple(each[-n:]) for each in parts}) == len(parts))
    return ["/".join(each[-count:]) for each in parts]


def _refuse_vocabularies(folders):
    """DataError for runs that count their loss by tokens of different vocabularies, where that is known."""
    from llmc.tokenizer import Tokenizer
    from llmc.tokenizer.tokenizer_files import holds_tokenizer

    known = {folder: Tokenizer.from_pretrained(folder).get_vocab() for folder in folders if holds_tokenizer(folder)}
    first = next(iter(known), None)
    for folder, vocabulary in known.items():
        if vocabulary != known[first]:
            raise DataError(f"{first} and {folder} have different vocabularies ({len(known[first]):,} and "
                            f"{len(vocabulary):,} tokens): a loss per token of one cannot stand beside the other's")
