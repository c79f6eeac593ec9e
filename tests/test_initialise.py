"""How parameters start: transformers' statistics, and numbers that depend on name and seed alone."""

from statistics import NormalDist

import numpy as np
import pytest
from conftest import TINY, TOLERANCE
from test_config import VARIANTS, fields_of, peer_config

import llmc
from llmc.config import Config
from llmc.weights.initialise import initialise


def layout_of(config):
    return llmc._core.Model(config.spec(), False).layout()


UP = {"model.layers.0.mlp.up_proj.weight": ("up", 0, 44, 37), "model.embed_tokens.weight": ("embed", None, 0, 0)}


@pytest.mark.parametrize("family, changes", VARIANTS)
def test_initialisation_has_transformers_statistics(peers, family, changes):
    fields = fields_of(family, **changes)
    model = peers.transformers.AutoModelForCausalLM.from_config(peer_config(peers, fields))
    theirs = {name: value.numpy() for name, value in model.state_dict().items()}
    ours = {name: np.full(value.shape, np.nan, np.float32) for name, value in theirs.items()}
    config = Config(**fields)
    if config.tie_word_embeddings:
        del ours["lm_head.weight"]
    initialise(ours, layout_of(config), config, seed=3)
    for name, values in ours.items():
        assert np.isfinite(values).all(), name
        errors = TOLERANCE["initialisation"] * max(theirs[name].std(), values.std()) / np.sqrt(values.size)
        assert abs(values.mean() - theirs[name].mean()) <= 2 * errors, name
        assert abs(values.std() - theirs[name].std()) <= 2 * errors, name
        assert np.array_equal(~values.any(axis=-1), ~theirs[name].any(axis=-1)), name


def test_initialisation_depends_on_name_and_seed_alone():
    config = Config(**TINY["llama"])
    shapes = {"model.embed_tokens.weight": (107, 44), "model.layers.0.mlp.up_proj.weight": (37, 44)}
    first = {name: np.empty(shape, np.float32) for name, shape in shapes.items()}
    other = {name: np.empty(shape, np.float32) for name, shape in reversed(shapes.items())}
    initialise(first, UP, config, 1)
    initialise(other, UP, config, 1)
    assert all(np.array_equal(first[name], other[name]) for name in shapes)
    initialise(other, UP, config, 2)
    assert not any(np.array_equal(first[name], other[name]) for name in shapes)
    names = list(shapes)
    assert not np.array_equal(first[names[0]].flat[:100], first[names[1]].flat[:100])


@pytest.fixture
def restored_threads():
    before = llmc.get_num_threads()
    yield
    llmc.set_num_threads(before)


def test_initialisation_does_not_depend_on_threads(monkeypatch, restored_threads):
    monkeypatch.setattr("llmc.weights.initialise._BLOCK", 1 << 12)  # so that threads share a tensor
    config = Config(**TINY["llama"])
    found = []
    for threads in (1, 2, 7):
        llmc.set_num_threads(threads)
        found.append(np.empty((1001, 44), np.float32))
        initialise({"model.embed_tokens.weight": found[-1]}, UP, config, 1)
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


def test_how_weights_are_stored_only_rounds_the_numbers():
    config = Config(**TINY["llama"])
    wide, narrow = (llmc.Model(config, seed=1, dtype=dtype).state_dict() for dtype in ("float32", "bfloat16"))
    assert all(np.array_equal(wide[name].astype(narrow[name].dtype), narrow[name]) for name in wide)


def test_weights_are_normal_to_their_tails_and_independent():
    shape = (1000, 1001)  # blocks and pieces end within rows, and one has an odd number of numbers
    values = np.empty(shape, np.float32)
    config = Config(**TINY["llama"])
    initialise({"model.layers.0.mlp.up_proj.weight": values}, UP, config, 3)
    x = np.sort(values.ravel() / config.initializer_range).astype(np.float64)
    count = len(x)
    below = np.array([NormalDist().cdf(edge) for edge in np.linspace(-4, 4, 81)])
    found = np.searchsorted(x, np.linspace(-4, 4, 81)) / count
    assert np.abs(found - below).max() < 2 / np.sqrt(count)  # Kolmogorov and Smirnov, one in three thousand
    assert abs((x**2).mean() - 1) < 5 * np.sqrt(2 / count) and abs((x**4).mean() - 3) < 5 * np.sqrt(96 / count)
    assert 4.3 < -x[0] < 6.5 and 4.3 < x[-1] < 6.5
    assert len(np.unique(x)) > 0.98 * count
    flat = values.ravel() / config.initializer_range
    for lag in (1, 1 << 15, 1 << 16, 1 << 18):
        for power in (1, 2):
            one, other = (part**power - (power == 2) for part in (flat[:-lag], flat[lag:]))
            assert abs((one * other).mean()) < 5 * power / np.sqrt(len(one)), (lag, power)


def test_initialisation_fills_double_and_strided_views():
    config = Config(**TINY["llama"])
    whole = np.zeros((20, 8))
    initialise({"model.layers.0.mlp.up_proj.weight": whole[:, ::2]}, UP, config, 0)
    assert whole[:, ::2].all() and not whole[:, 1::2].any()
    assert 0.05 < whole[:, ::2].std() < 0.3
