"""benchmarks/precision_losses.py on a tiny model: both precisions are trained, compared and drawn."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY

import llmc

SOURCE = Path(__file__).resolve().parent.parent / "benchmarks" / "precision_losses.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location(SOURCE.stem, SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(number):
    return [{"input_ids": [(7 * index + 3 * t * t) % 29 for t in range(9)]} for index in range(number)]


def test_every_seed_is_trained_in_both_precisions_and_drawn(benchmark, tmp_path):
    at, found = benchmark.courses(llmc.Config(**TINY["llama"]), rows(16), rows(4), steps=21, seeds=2)
    assert list(at) == [*range(2, 21, 2), 21]
    assert {precision: losses.shape for precision, losses in found.items()} == dict.fromkeys(found, (2, 11))
    assert set(found) == {"float32", "bfloat16"}
    assert all((losses[:, -1] < losses[:, 0]).all() for losses in found.values())
    assert (found["float32"] != found["bfloat16"]).any() == bool(llmc._core.info()["bfloat16"])
    benchmark.draw(at, found, tmp_path / "losses.png")
    assert (tmp_path / "losses.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("shift, verdict", [(0.05, "+0.0500 from float32 in the mean: within"),
                                            (-0.2, "-0.2000 from float32 in the mean: NOT within")])  # fmt: skip
def test_a_difference_is_judged_by_the_spread_of_the_seeds(benchmark, shift, verdict):
    losses = np.array([[9.0, 3.0], [9.0, 3.1], [9.0, 3.2]])  # a deviation of 0.1
    shown = str(benchmark.table({"float32": losses, "bfloat16": losses + shift}))
    assert verdict in shown and "3.1000" in shown
