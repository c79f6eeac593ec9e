"""loss.png: the loss of every step, light, its course, and the held-out loss, from a training's log."""

import math

import numpy as np

from llmc.show import picture
from llmc.show.colours import COOL, GREY, INK, LINE, WARM
from llmc.train.log import read_log

MOST_POINTS = 2000  # wider than the picture; more are averaged


def plot_loss(log, path):
    """Draw a log's losses; nothing is drawn while there are none.

    Parameters
    ----------
    log : str
        A `log.jsonl`.
    path : str
        The picture, which appears whole. No display is needed.

    Raises
    ------
    ImportError
        Without matplotlib.
    """
    entries = read_log(log)
    steps, losses = series(entries, "loss")
    held_steps, held = series(entries, "eval_loss")
    if not len(steps):
        return
    from matplotlib.ticker import MaxNLocator

    figure, axes = picture.chart(9, 5, lines="y")
    raw_steps, raw = thinned(steps, losses)
    axes.plot(raw_steps, raw, color=COOL, alpha=0.25, linewidth=0.8, marker="o" if len(raw) == 1 else None)
    course = smoothed(losses)
    axes.plot(*thinned(steps, course), color=COOL, linewidth=2.2, solid_capstyle="round", label="training")
    if len(held):
        axes.plot(held_steps, held, color=WARM, linewidth=1.4, marker="o", markersize=5.5, markeredgecolor="white",
                  markeredgewidth=1.0, label="held out", zorder=3)  # fmt: skip
    _frame(axes, raw, held)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlim(min(steps[0] - 1, 0), steps[-1] + max(1, 0.01 * steps[-1]))
    axes.set_title(_headline(steps, course, held[held_steps > 0]), loc="left", color=INK, fontsize=13, pad=14)
    axes.legend(frameon=False, loc="upper right", labelcolor=INK, fontsize=10.5)
    picture.save(figure, path)


def smoothed(losses):
    """The course of a noisy series (n,): means over about a twenty-fifth of it, twice.

    At the start, where a loss is steep, they reach no further ahead than there is past, so that it is not bent.
    """
    n = len(losses)
    at = np.arange(n)
    before = np.minimum(at, max(1, n // 50))
    after = np.minimum(before, n - 1 - at)
    for _ in range(2):
        sums = np.concatenate([[0.0], np.cumsum(losses)])
        losses = (sums[at + after + 1] - sums[at - before]) / (before + after + 1)
    return losses


def series(entries, name):
    """(steps (n,), values (n,)) of what a log calls `name`."""
    pairs = [(entry["step"], entry[name]) for entry in entries if isinstance(entry.get(name), (int, float))]
    return np.array([step for step, _ in pairs], dtype=int), np.array([value for _, value in pairs], dtype=float)


def thinned(steps, values):
    """Means over pieces, where there are more points than can be seen."""
    if len(steps) <= MOST_POINTS:
        return steps, values
    starts = np.linspace(0, len(steps), MOST_POINTS, endpoint=False).astype(int)
    counts = np.diff([*starts, len(steps)])
    return np.add.reduceat(steps, starts) / counts, np.add.reduceat(values, starts) / counts


def _frame(axes, losses, held):
    axes.set_xlabel("optimizer step", color=GREY, fontsize=10.5)
    axes.set_ylabel("loss (nats per token)", color=GREY, fontsize=10.5)
    axes.tick_params(labelsize=10)
    axes.spines["bottom"].set(visible=True, color=LINE)
    # One wild step shall not flatten the rest.
    everything = np.concatenate([losses, held])
    low, high = everything.min(), max(np.quantile(everything, 0.995), losses[0])
    margin = 0.05 * (high - low) or 0.05
    axes.set_ylim(low - margin, high + margin)


def _headline(steps, course, held):
    text = f"Loss {course[0]:.2f} → {course[-1]:.2f} in {steps[-1]:,} steps"
    if len(held):
        best = held.min()
        text += f"  ·  best held out {best:.3f}"
        if best < math.log(1e6):
            text += f" (perplexity {math.exp(best):,.1f})"
    return text
