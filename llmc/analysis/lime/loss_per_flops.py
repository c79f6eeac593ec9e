"""Loss per FLOP, or per token (figures 1 and 8): the losses of trainings beside what they have cost."""

import os

import numpy as np

from llmc.analysis.lime.flops import flops, require_counted
from llmc.analysis.lime.given import word
from llmc.calls import public
from llmc.checks import whole
from llmc.config import Config
from llmc.errors import ConfigError, DataError
from llmc.show import picture
from llmc.show.curves import Panel, Series, draw
from llmc.train.log import LOG, read_log
from llmc.train.plot import smoothed

BY = ("flops", "tokens")
CONFIG = "config.json"


@public
def loss_per_flops(runs, length, plot=None, by="flops"):
    """The losses of trainings beside the FLOPs, or the tokens, that have gone into them.

    Parameters
    ----------
    runs : {name: path}
        The `output_dir` of a Trainer each: its `log.jsonl`, and for FLOPs the `config.json` of its model, or of its
        newest checkpoint.
    length : int
        Tokens of a sequence.
    plot : path, optional
        The courses of the losses, as a .png, .pdf or .svg.
    by : {"flops", "tokens"}

    Returns
    -------
    dict
        {name: {by: (steps,) float64, cumulative; "loss": (steps,) float64}}. A step's training FLOPs are
        3 * flops(config, length) * tokens / length. A loss that was not finite is NaN.

    Raises
    ------
    FileNotFoundError
        Where there is no log, or no configuration.
    DataError
        For a log without a step.
    UnknownNameError, ConfigError, CheckpointError, TypeError, ImportError
        As elsewhere.
    """
    by, length = word(by, "by", BY), whole(length, "length", 1)
    if not hasattr(runs, "items"):
        raise TypeError(f"runs are a dict of output folders by name, not {type(runs).__name__}")
    if not runs:
        raise ConfigError("runs are {}, not at least one training")
    if plot is not None:
        picture.ending(plot)
    found = {name: _course(os.fspath(folder), length, by) for name, folder in runs.items()}
    if plot is not None:
        draw([losses_panel(found, by)], plot, size=(8, 4.6))
    return found


def losses_panel(found, by):
    """The curves of {name of a training: what `loss_per_flops` returns of it}, each over its noisy losses."""
    series, losses = [], []
    for name, each in found.items():
        x, y = (np.asarray(each[key], float) for key in (by, "loss"))
        there = np.isfinite(y)
        if not there.any():
            continue
        x, y = x[there], y[there]
        course = smoothed(y)
        losses.append(course)
        series.append(Series(x, course, name, light=(x, y)))
    return Panel("Training loss", {"flops": "training FLOPs", "tokens": "tokens"}[by], "loss (nats per token)", series,
                 whole=False, bounds=_bounds(losses))  # fmt: skip


def _bounds(losses):
    """The heights of a picture in which the first steps, which all have alike, do not flatten the rest."""
    if not losses:
        return None
    low, high = min(each.min() for each in losses), max(np.quantile(each, 0.93) for each in losses)
    margin = 0.06 * (high - low) or 0.05
    return low - margin, high + margin


def _course(folder, length, by):
    entries = [entry for entry in read_log(os.path.join(folder, LOG)) if "tokens" in entry and "loss" in entry]
    if not entries:
        raise DataError(f"{os.path.join(folder, LOG)} has no step of a training")
    spent = np.cumsum([float(entry["tokens"]) for entry in entries])
    if by == "flops":
        spent = spent * (3 * flops(_config_of(folder), length) / length)
    return {by: spent, "loss": np.array([np.nan if entry["loss"] is None else entry["loss"] for entry in entries])}


def _config_of(folder):
    """The configuration of a training's model: of the finished one, or of the newest checkpoint."""
    places = [folder, *sorted(_checkpoints(folder), key=os.path.getmtime, reverse=True)]
    for place in places:
        if os.path.isfile(os.path.join(place, CONFIG)):
            config = Config.from_pretrained(place)
            require_counted(config)
            return config
    raise FileNotFoundError(f"{folder} has no {CONFIG}, nor has a checkpoint in it: FLOPs need the model's sizes; "
                            f"by='tokens' needs the log alone")  # fmt: skip


def _checkpoints(folder):
    return [os.path.join(folder, name) for name in os.listdir(folder) if name.startswith("checkpoint-")]
