"""LIM and its four kin on GPT-2 124M against the plain forward pass, in alternating runs of one process.

    python benchmarks/bench_lim.py [--batch 1] [--length 512] [--repeats 15] [--threads 2]

Three pairs, the plain one of each first: a replay of a recorded pass with and without the observe steps, in wall time
and in thread CPU time of all threads; and the calls a user types, `model(ids)` and `llmc.analysis.lim(model, ids)`,
which record and take their memory anew. Ratios are of medians and of minima: other work on the machine moves the first.
"""

import argparse
import statistics
import time

import numpy as np

import llmc
from llmc.analysis.metrics import OBSERVED
from llmc.run import Run


def compare(name, plain, observed, repeats, clock):
    """Print how much longer `observed` takes than `plain`, by `clock`, in alternating runs."""
    seconds = ([], [])
    for work in (plain, observed):
        work()
    for _ in range(repeats):
        for work, taken in zip((plain, observed), seconds):
            start = clock()
            work()
            taken.append(clock() - start)
    medians, least = ([of(taken) * 1e3 for taken in seconds] for of in (statistics.median, min))
    print(f"{name:28}  median {medians[0]:7.1f} -> {medians[1]:7.1f} ms, {medians[1] / medians[0]:.3f} x"
          f"   least {least[0]:7.1f} -> {least[1]:7.1f} ms, {least[1] / least[0]:.3f} x")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("batch", 1), ("length", 512), ("repeats", 15), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--layers", type=int, default=12, help="of the model")
    a = parser.parse_args()
    llmc.set_num_threads(a.threads)
    model = llmc.Model(llmc.Config(model_type="gpt2", num_hidden_layers=a.layers))
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, (a.batch, a.length))
    plain, observed = Run(model, *ids.shape), Run(model, *ids.shape, observe=True)
    info = {row["what"]: row["value"] for row in llmc.doctor().rows}
    print(f"{info['processor']}, {info['instruction set']}, {a.threads} threads; batch {a.batch}, length {a.length}")
    replays = (lambda: plain.forward(ids), lambda: observed.forward(ids))
    compare("replay, wall", *replays, a.repeats, time.perf_counter)
    compare("replay, CPU", *replays, a.repeats, time.process_time)
    calls = (lambda: model(ids), lambda: llmc.analysis.lim(model, ids, metrics=OBSERVED, disable_tqdm=True))
    compare("model(ids), lim(model, ids)", *calls, a.repeats, time.perf_counter)


if __name__ == "__main__":
    main()
