"""Recording a call costs in proportion to the layers: every call of another length than the last is recorded anew."""

import time

import numpy as np
from conftest import TINY
from tiny import tiny_model


def run(layers):
    return tiny_model({**TINY["llama"], "num_hidden_layers": layers}).run(1, 2, backward=True)


def seconds(ready, times):
    """The shortest time of two calls of different lengths, of which each is recorded."""
    shortest = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        for length in (1, 2):
            ids = np.zeros((1, length), int)
            ready.forward(ids, labels=ids)
        shortest = min(shortest, time.perf_counter() - start)
    return shortest


def test_eight_times_the_layers_take_at_most_ten_times_as_long_to_record():
    few, many = run(16), run(128)
    best_few = best_many = float("inf")
    until = time.monotonic() + 30  # other work on the machine makes one of them slow for a while
    while time.monotonic() < until:
        best_few, best_many = min(best_few, seconds(few, 10)), min(best_many, seconds(many, 3))
        if best_many <= 10 * best_few:
            return
    raise AssertionError(f"128 layers take {1e3 * best_many:.2f} ms, 16 layers {1e3 * best_few:.2f} ms")
