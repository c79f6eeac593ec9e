"""Does training with bfloat16 products lose anything? Held-out losses of a small LLaMA in both precisions, several seeds.

    python benchmarks/precision_losses.py [--steps 300] [--seeds 4] [--out benchmarks/precision_losses.png]

The demo's model on the text that every Python carries. A seed is another start and another order of the data; each is
trained in float32 and in bfloat16, in turns. Prints the last losses, and draws every course and their means.
"""

import argparse
import os
import tempfile

import numpy as np

import llmc
from llmc.system.atomic import atomic_write
from llmc.cli.demo import BLOCK, config
from llmc.show.colours import COOL, GREY, INK, LINE, WARM
from llmc.show.table import Table

PRECISIONS = {"float32": COOL, "bfloat16": WARM}  # and their colours
EVALUATIONS = 10  # of a training


def course(model, data, held_out, steps, seed):
    """Train `model`: the steps after which it was evaluated, and its held-out losses."""
    at, losses = [], []

    def evaluate(state):
        if state.step % max(1, steps // EVALUATIONS) == 0 or state.step == steps:
            at.append(state.step)
            losses.append(trainer.evaluate(held_out)["eval_loss"])

    with tempfile.TemporaryDirectory() as folder:
        settings = llmc.TrainingArguments(
            folder, max_steps=steps, per_device_train_batch_size=8, learning_rate=4e-3, warmup_steps=0.05,
            lr_scheduler_type="cosine", weight_decay=0.1, save_strategy="no", logging_steps=steps, seed=seed,
        )  # fmt: skip
        trainer = llmc.Trainer(model, settings, train_dataset=data, callbacks=[evaluate])
        trainer.train()
    return at, losses


def courses(config, data, held_out, steps, seeds):
    """Train every seed in every precision.

    Returns
    -------
    (steps (E,), {precision: losses (seeds, E)})
    """
    found = {precision: [] for precision in PRECISIONS}
    for seed in range(seeds):
        for precision, rows in found.items():
            print(f"seed {seed}, {precision}", flush=True)
            at, losses = course(llmc.Model(config, seed, precision=precision), data, held_out, steps, seed)
            rows.append(losses)
    return np.array(at), {precision: np.array(rows) for precision, rows in found.items()}


def table(found):
    """The last losses as a table, with the verdict: is the difference of the means within the spread of the seeds?"""
    last = {precision: losses[:, -1] for precision, losses in found.items()}
    last["difference"] = last["bfloat16"] - last["float32"]
    rows = [{"seed": seed} | {name: f"{values[seed]:.4f}" for name, values in last.items()}
            for seed in range(len(last["float32"]))]
    for word, value in (("mean", np.mean), ("deviation", lambda values: np.std(values, ddof=1))):
        rows.append({"seed": word} | {name: f"{value(values):.4f}" for name, values in last.items()})
    difference, spread = last["difference"].mean(), last["float32"].std(ddof=1)
    verdict = "within" if abs(difference) <= spread else "NOT within"
    return Table(["seed", *last], rows, f"bfloat16 ends {difference:+.4f} from float32 in the mean: {verdict} the "
                                        f"deviation of float32's seeds, {spread:.4f}")


def draw(at, found, path):
    """Every course thin and the means thick; below, all of them minus the mean of float32, where they can be told apart.

    Parameters
    ----------
    at : (E,)
        Steps.
    found : {precision: (seeds, E)}
    path : str
        The PNG, which appears whole.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7.5), dpi=160, facecolor="white", layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    mean = found["float32"].mean(axis=0)
    for axes, minus in ((above, 0.0), (below, mean)):
        for precision, losses in found.items():
            axes.plot(at, (losses - minus).T, color=PRECISIONS[precision], linewidth=0.8, alpha=0.45)
            axes.plot(at, losses.mean(axis=0) - minus, color=PRECISIONS[precision], linewidth=2.2, label=precision,
                      linestyle="-" if precision == "float32" else (0, (4, 2)), zorder=3)  # fmt: skip
        axes.grid(axis="y", color=LINE, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(colors=GREY, length=0, labelsize=10)
        for side in axes.spines.values():
            side.set_visible(False)
    last = {precision: losses[:, -1].mean() for precision, losses in found.items()}
    above.set_title(f"Held-out loss after {at[-1]:,} steps: {last['float32']:.3f} in float32, "
                    f"{last['bfloat16']:.3f} in bfloat16", loc="left", color=INK, fontsize=13, pad=14)  # fmt: skip
    above.set_ylabel("held-out loss (nats per token)", color=GREY, fontsize=10.5)
    above.legend(frameon=False, loc="upper right", labelcolor=INK, fontsize=10.5, title_fontsize=10.5,
                 title=f"mean of {len(found['float32'])} seeds, each seed thin").get_title().set_color(GREY)
    below.set_ylabel("minus the mean of float32", color=GREY, fontsize=10.5)
    below.set_xlabel("optimizer step", color=GREY, fontsize=10.5)
    FigureCanvasAgg(figure)
    with atomic_write(path) as file:
        figure.savefig(file, format="png")


def seeds(text):
    """A number of seeds; a spread needs two."""
    if int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text} has no spread; give at least 2")
    return int(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300, help="optimizer steps of a training (%(default)s)")
    parser.add_argument("--seeds", type=seeds, default=4, help="(%(default)s)")
    parser.add_argument("--out", default=os.path.join(os.path.dirname(__file__), "precision_losses.png"))
    a = parser.parse_args()
    if not llmc.core._core.info()["bfloat16"]:
        parser.error("no bfloat16 products here (llmc doctor), so there is nothing to compare")
    text, rest = llmc.data.split_text(llmc.data.builtin_text())
    tokenizer = llmc.Tokenizer.train([text], vocab_size=1024)
    data, held_out = (llmc.data.TextDataset([part], tokenizer, BLOCK) for part in (text, rest))
    at, found = courses(config(tokenizer), data, held_out, a.steps, a.seeds)
    print(f"\n{table(found)}")
    draw(at, found, a.out)
    print(f"{a.out} shows the courses")


if __name__ == "__main__":
    main()
