"""The inverse frequencies of every rope type: their formulas, their refusals, and transformers' numbers."""

import math
import random
import warnings

import numpy as np
import pytest
from conftest import TINY, TOLERANCE

from llmc.config import rope
from llmc.config import Config
from llmc.errors import ConfigError

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0, 1.5, 2.0, 2.5, 3.0], "long_factor": [2.0] * 5,
            "original_max_position_embeddings": 64}  # fmt: skip


def llama(parameters=None, **changes):
    return Config(**{**TINY["llama"], "rope_parameters": parameters, **changes})


def random_parameters(rng, kind, head_dim):
    """Parameters of a rope type, drawn as widely as checkpoints have them."""
    factor = rng.choice([1.0, 2.0, 4, 8.0, rng.uniform(1, 40)])
    original = rng.choice([32, 1024, 8192])
    pairs = head_dim // 2
    return {"rope_type": kind, "rope_theta": rng.choice([10000.0, 10000, 5e5, 1e6, rng.uniform(10, 1e7)])} | {
        "default": lambda: {},
        "linear": lambda: {"factor": factor},
        "dynamic": lambda: {"factor": factor},
        "yarn": lambda: {
            "factor": rng.choice([factor, None]),
            "original_max_position_embeddings": original,
            "truncate": rng.random() < 0.5,
            **rng.choice([{}, {"mscale": 0.7, "mscale_all_dim": 0.9}, {"mscale": 0.7}, {"attention_factor": 0.8}]),
            **rng.choice([{}, {"beta_fast": 20, "beta_slow": 2.5}, {"beta_fast": None}]),
        },
        "longrope": lambda: {
            "factor": rng.choice([factor, None]),
            "original_max_position_embeddings": original,
            "short_factor": [rng.uniform(1, 3) for _ in range(pairs)],
            "long_factor": [rng.uniform(1, 30) for _ in range(pairs)],
            **rng.choice([{}, {"attention_factor": 1.2}]),
        },
        "llama3": lambda: {
            "factor": factor,
            "original_max_position_embeddings": original,
            "low_freq_factor": 1.0,
            "high_freq_factor": rng.choice([4, 4.0, 3.3]),
        },
        "proportional": lambda: {
            "partial_rotary_factor": rng.choice([0.0, 0.25, 0.5, 1.0]),
            **rng.choice([{}, {"factor": factor}]),
        },
    }[kind]()


def units_apart(a, b):
    """How many float32 numbers lie between two positive arrays, at most."""
    return np.abs(a.view(np.int32).astype(np.int64) - b.view(np.int32)).max(initial=0)


def test_default_frequencies_are_powers_of_the_base():
    frequencies, factor = rope.inverse_frequencies(llama(rope_theta=500.0), 7)
    assert (frequencies.shape, frequencies.dtype, factor) == ((5,), np.float32, 1.0)
    np.testing.assert_allclose(frequencies, 500.0 ** (-np.arange(0, 10, 2) / 10), rtol=1e-6)


def test_linear_divides_every_frequency():
    plain, _ = rope.inverse_frequencies(llama(), 7)
    scaled, _ = rope.inverse_frequencies(llama({"rope_type": "linear", "factor": 4.0}), 7)
    assert np.array_equal(scaled * 4, plain)


def test_dynamic_changes_only_beyond_the_trained_length():
    config = llama({"rope_type": "dynamic", "factor": 2.0})
    plain, _ = rope.inverse_frequencies(llama(), 7)
    assert np.array_equal(rope.inverse_frequencies(config, 229)[0], plain)
    longer, _ = rope.inverse_frequencies(config, 458)
    base = 10000.0 * (2 * 458 / 229 - 1) ** (10 / 8)
    np.testing.assert_allclose(longer, base ** (-np.arange(0, 10, 2) / 10), rtol=1e-6)


def test_longrope_changes_its_factors_beyond_the_original_length():
    config = llama(LONGROPE)
    plain, _ = rope.inverse_frequencies(llama(), 7)
    short, factor = rope.inverse_frequencies(config, 64)
    long, _ = rope.inverse_frequencies(config, 65)
    np.testing.assert_allclose(short * LONGROPE["short_factor"], plain, rtol=1e-6)
    np.testing.assert_allclose(long * 2, plain, rtol=1e-6)
    assert factor == math.sqrt(1 + math.log(229 / 64) / math.log(64))


def test_llama3_keeps_short_waves_and_divides_long_ones():
    config = llama(LLAMA3 | {"original_max_position_embeddings": 64})
    plain, _ = rope.inverse_frequencies(llama(), 7)
    scaled, _ = rope.inverse_frequencies(config, 7)
    assert scaled[0] == plain[0] and scaled[-1] == plain[-1] / 8
    assert (np.diff(scaled / plain) <= 0).all()


def test_yarn_goes_from_kept_to_divided_and_names_its_attention_factor():
    plain, _ = rope.inverse_frequencies(llama(), 7)
    scaled, factor = rope.inverse_frequencies(llama(YARN), 7)
    assert scaled[0] == plain[0] and math.isclose(scaled[-1], plain[-1] / 4, rel_tol=1e-6)
    assert factor == 0.1 * math.log(4) + 1
    assert rope.inverse_frequencies(llama(YARN | {"attention_factor": 0.5}), 7)[1] == 0.5


def test_proportional_leaves_the_last_pairs_unrotated():
    plain, _ = rope.inverse_frequencies(llama(), 7)
    part, _ = rope.inverse_frequencies(llama({"rope_type": "proportional", "partial_rotary_factor": 0.4}), 7)
    assert np.array_equal(part[:2], plain[:2]) and not part[2:].any()


def test_a_fraction_of_the_head_changes_nothing_in_the_default_type():
    plain, _ = rope.inverse_frequencies(llama(), 7)
    assert np.array_equal(rope.inverse_frequencies(llama(partial_rotary_factor=0.5), 7)[0], plain)


def test_the_original_length_is_the_trained_one_unless_given_and_the_outer_one_counts():
    absent = {name: value for name, value in YARN.items() if name != "original_max_position_embeddings"}
    assert llama(absent).rope_parameters["original_max_position_embeddings"] == 229
    assert llama(YARN, original_max_position_embeddings=48).rope_parameters["original_max_position_embeddings"] == 48
    config = llama(YARN)
    config.original_max_position_embeddings = 40
    assert config.rope_parameters["original_max_position_embeddings"] == 40


@pytest.mark.parametrize(
    "parameters, words",
    [
        ({"rope_type": "liner", "factor": 2.0}, "rope_type 'liner'.*nearest first: linear"),
        ({"rope_type": "axial"}, "rope_type 'axial'"),
        ({"rope_type": ["yarn"]}, r"rope_type \['yarn'\]"),
        ("linear", "'linear', not a dict"),
        ({"full_attention": {"rope_type": "default"}}, "'full_attention'.*flat"),
        ({"rope_type": "linear"}, "'linear' needs factor"),
        ({"rope_type": "linear", "factor": None}, "factor is null"),
        ({"rope_type": "linear", "factor": 0}, "factor is 0, not a finite number above 0"),
        ({"rope_type": "linear", "factor": True}, "factor is True"),
        ({"rope_type": "dynamic", "factor": float("nan")}, "factor is nan"),
        ({"rope_type": "linear", "factor": "2"}, "factor is '2'"),
        ({"rope_theta": 0.0}, "rope_theta is 0.0"),
        ({"rope_theta": -1.0}, "rope_theta is -1.0"),
        ({"rope_theta": "1e4"}, "rope_theta is '1e4'"),
        (YARN | {"rope_theta": 1.0}, "not finite"),
        (YARN | {"beta_fast": -1.0}, "beta_fast is -1.0"),
        (YARN | {"truncate": 1}, "truncate is 1"),
        (YARN | {"original_max_position_embeddings": 32.0}, "original_max_position_embeddings is 32.0"),
        (YARN | {"attention_factor": -1.0}, "attention_factor is -1.0"),
        (YARN | {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 with rope_type 'yarn'"),
        ({"rope_type": "proportional", "partial_rotary_factor": 1.5}, "partial_rotary_factor 1.5 is above 1"),
        (LLAMA3 | {"low_freq_factor": 4.0}, "high_freq_factor 4.0 is not above low_freq_factor 4.0"),
        (LLAMA3 | {"low_freq_factor": None}, "low_freq_factor is None"),
        ({"rope_type": "llama3", "factor": 8.0}, "needs high_freq_factor, low_freq_factor"),
        (LONGROPE | {"short_factor": [1.0] * 4}, "short_factor is a list of 4, but head_dim 10 needs a list of 5"),
        (LONGROPE | {"long_factor": 2.0}, "long_factor is 2.0"),
        (LONGROPE | {"long_factor": [1.0, 2.0, 0.0, 1.0, 1.0]}, r"long_factor\[2\] is 0.0"),
        (LONGROPE | {"original_max_position_embeddings": 1}, "not finite"),
    ],
)
def test_impossible_parameters_are_refused_by_name(parameters, words):
    with pytest.raises(ConfigError, match=words):
        llama(parameters)


def test_parameters_changed_later_are_checked_again():
    config = llama({"rope_type": "linear", "factor": 2.0})
    config.rope_parameters["factor"] = -2.0
    with pytest.raises(ConfigError, match="factor is -2.0"):
        rope.inverse_frequencies(config, 7)


@pytest.mark.parametrize("length", [0, -1, 2.0, True, None])
def test_a_length_is_a_positive_whole_number(length):
    with pytest.raises(ConfigError, match="length is"):
        rope.inverse_frequencies(llama(), length)


def test_what_transformers_warns_of_is_warned_of():
    with pytest.warns(UserWarning, match="'linear' does not use beta"):
        llama({"rope_type": "linear", "factor": 2.0, "beta": 1})
    with pytest.warns(UserWarning, match="factor 0.5 is below 1"):
        llama({"rope_type": "linear", "factor": 0.5})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        llama(YARN)


@pytest.mark.parametrize("family", ["llama", "mistral"])
@pytest.mark.parametrize("kind", rope.TYPES)
def test_frequencies_are_transformers(peers, monkeypatch, family, kind):
    """To the bit with torch's own power, whose last bit differs from processor to processor; else to the last bits."""
    transformers, torch = peers.transformers, peers.torch
    transformers.logging.set_verbosity_error()

    def power(base, exponents):
        return torch.pow(torch.tensor(base, dtype=torch.float32), torch.from_numpy(np.float32(exponents))).numpy()

    module = getattr(getattr(transformers.models, family), f"modeling_{family}")
    embedding = getattr(module, f"{family.capitalize()}RotaryEmbedding")
    rng = random.Random(f"{family} {kind}")
    for _ in range(40):
        head_dim = rng.choice([4, 6, 10, 16, 64, 80, 96, 128, 256])
        trained = rng.choice([64, 2048, 4096, 131072])
        parameters = random_parameters(rng, kind, head_dim)
        length = rng.choice([1, trained // 2, trained, trained + 1, 2 * trained + 3, 32, 33, 1024, 1025, 8193])
        sizes = dict(
            vocab_size=9, hidden_size=head_dim, num_attention_heads=1, num_key_value_heads=1, head_dim=head_dim,
            max_position_embeddings=trained,
        )  # fmt: skip
        theirs = embedding(transformers.AutoConfig.for_model(family, **sizes, rope_parameters=dict(parameters)))
        theirs(torch.zeros(1), torch.tensor([[0, length - 1]]))
        config = Config(family, **sizes, rope_parameters=parameters)
        ours, factor = rope.inverse_frequencies(config, length)
        expected = theirs.inv_freq.numpy()
        assert ours.shape == expected.shape and factor == theirs.attention_scaling
        assert units_apart(ours, expected) <= TOLERANCE["inverse_frequency"], (parameters, head_dim, length)
        with monkeypatch.context() as patch:
            patch.setattr(rope, "_power", power)
            assert np.array_equal(rope.inverse_frequencies(config, length)[0], expected), (parameters, head_dim, length)


def test_every_rope_type_of_transformers_is_known(peers):
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    assert set(ROPE_INIT_FUNCTIONS) | {"default"} == set(rope.TYPES)
