"""Tiny configurations of every family, the one table of tolerances, and the peers that tests compare with."""

import importlib
import os
import signal
import types

import pytest

import llmc

needs_bfloat16 = pytest.mark.skipif(not llmc._core.info()["bfloat16"], reason="this processor has no bfloat16 products")

# Sizes are odd and differ from each other wherever the family allows it, so that no transposition goes unnoticed.
# initializer_range is large because with 0.02 a model this narrow says nothing: its logits are all nearly zero.
TINY = {
    "openai-gpt": dict(
        model_type="openai-gpt", vocab_size=101, n_positions=223, n_embd=45, n_layer=3, n_head=5,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, initializer_range=0.15,
    ),
    "gpt2": dict(
        model_type="gpt2", vocab_size=103, n_positions=227, n_embd=39, n_layer=3, n_head=3, n_inner=53,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, initializer_range=0.15, bos_token_id=None, eos_token_id=None,
    ),
    "llama": dict(
        model_type="llama", vocab_size=107, hidden_size=44, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=10, intermediate_size=37, max_position_embeddings=229,
        initializer_range=0.15, bos_token_id=None, eos_token_id=None,
    ),
    "mistral": dict(
        model_type="mistral", vocab_size=109, hidden_size=43, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, head_dim=6, intermediate_size=47, max_position_embeddings=233, sliding_window=7,
        initializer_range=0.15, bos_token_id=None, eos_token_id=None,
    ),
}

# Families that transformers does not have: the float64 reference holds them, and PyTorch in tests of their own.
BESIDE_PEERS = {
    "lime": dict(
        model_type="lime", vocab_size=97, hidden_size=36, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=10, intermediate_size=31, max_position_embeddings=239,
        initializer_range=0.15, bos_token_id=None, eos_token_id=None,
    ),
    "lime1-static": dict(
        model_type="lime1-static", vocab_size=101, hidden_size=45, num_hidden_layers=3, num_attention_heads=5,
        head_dim=6, intermediate_size=37, max_position_embeddings=241, router_top_p=0.8,
        initializer_range=0.15, bos_token_id=None, eos_token_id=None,
    ),
    "lime1-dynamic": dict(
        model_type="lime1-dynamic", vocab_size=103, hidden_size=42, num_hidden_layers=3, num_attention_heads=3,
        head_dim=14, intermediate_size=41, max_position_embeddings=251,
        initializer_range=0.15, bos_token_id=None, eos_token_id=None,
    ),
}

EVERY = TINY | BESIDE_PEERS

# Every tolerance of every test, each with its reason. A test that fails is mended in the code, never here.
TOLERANCE = {
    # Against the peers, float32 on both sides.
    "logits": 1e-4,  # absolute: two float32 forwards that sum in different orders differ by about 1e-5
    "loss": 1e-5,  # absolute: a mean of many rows, so its rounding errors cancel
    "gradient": 1e-4,  # relative to the largest element of the tensor: twice the depth of a forward
    "hidden": 1e-4,  # absolute, of a module's output: as logits
    "pattern": 1e-5,  # absolute, of probabilities: at most 1, so less than of logits
    "parameters": 1e-5,  # absolute, after 20 AdamW steps: each step may turn a gradient's rounding into lr * 1e-4
    # Units in the last place: the peer's vector pow errs by one, 1/x doubles that, llama3's blend multiplies it. The
    # rest is the same to the bit, which a test shows by lending us the peer's pow.
    "piece": 2e-5,  # relative to the largest element, at least absolute: one op in float32 with sums of a few hundred
    "inverse_frequency": 8,
    # Against ourselves.
    "double": 1e-11,  # absolute: double logits against a float64 NumPy that sums in another order
    "slope": 1e-7,  # relative: double gradients against central differences, whose own error is about 1e-9
    "company": 1e-5,  # of logits around one: padding, other rows, cached or not change the order of sums
    # Statistics of the initialisation.
    "initialisation": 6,  # standard errors: one false alarm in 5e8
}


WITHOUT = "{} not installed: pip install -e '.[test,peers]'"  # why a test that compares is skipped


@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    """Let the last line say why tests were skipped, where that is a peer that is not there."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if not hasattr(reporter, "build_summary_stats_line"):  # a process of pytest-xdist has none
        return
    counted = reporter.build_summary_stats_line

    def explained():
        parts, colour = counted()
        reasons = {report.longrepr[2].removeprefix("Skipped: ") for report in reporter.stats.get("skipped", ())
                   if isinstance(report.longrepr, tuple)}  # fmt: skip
        why = next((WITHOUT.format(name) for name in ("torch", "transformers", "peft")
                    if WITHOUT.format(name) in reasons), None)
        return [(f"{text} ({why})" if why and text.endswith("skipped") else text, how) for text, how in parts], colour

    reporter.build_summary_stats_line = explained


@pytest.fixture(autouse=True)
def python_answers_ctrl_c():
    """Undo what a test runner in the background hands down, to each test and to the programs that it starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=TINY)
def family(request):
    """The name of each family that transformers has, in turn."""
    return request.param


def require_peers():
    """torch and transformers, or a skipped test; under LLMC_REQUIRE_PEERS=1 their absence is a failure.

    Returns
    -------
    types.SimpleNamespace
        `torch` and `transformers`, the modules.
    """
    found = types.SimpleNamespace()
    for name in ("torch", "transformers"):
        try:
            setattr(found, name, importlib.import_module(name))
        except ImportError as error:
            if os.environ.get("LLMC_REQUIRE_PEERS") == "1":
                pytest.fail(f"LLMC_REQUIRE_PEERS=1, but {name} does not import: {error}")
            pytest.skip(WITHOUT.format(name))
    return found


@pytest.fixture(scope="session")
def peers():
    """torch and transformers, as `require_peers` gives them."""
    return require_peers()
