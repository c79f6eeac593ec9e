"""What models cost in the convention of LIMe's authors, and losses beside that."""

import json
import math

import numpy as np
import pytest
from conftest import TINY

import llmc
from llmc import analysis
from llmc.analysis.lime import flops, flops_table
from llmc.errors import ConfigError, DataError, UnknownNameError

FULL = dict(vocab_size=50257, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
            tie_word_embeddings=True)  # fmt: skip
ADDED = {  # family -> what the paper's counter sees in it beyond a LLaMA, at full size: (C, L, heads, T)
    "llama": lambda G: 0,
    "lime": lambda G: flops.routed_flops(16, G, 64, 2048),
    "lime1-static": lambda G: flops.mixed_flops(2048, 16, 32, 2048, dynamic=False),
    "lime1-dynamic": lambda G: flops.mixed_flops(2048, 16, 32, 2048, dynamic=True),
    "hc": lambda G: flops.hyper_flops(2048, 16, 2048, 4, dynamic=True, gains=False),
}
PRINTED = [("llama", 32, 2.96785), ("lime", 32, 3.00409), ("lime1-static", 32, 2.98880), ("lime1-dynamic", 32, 3.00693),
           ("hc", 32, 2.97646), ("llama", 8, 2.76152), ("lime", 8, 2.76378), ("hc", 8, 2.77013)]  # fmt: skip
PARAMETERS = {("llama", 32): 1_176_735_744, ("llama", 8): 1_076_072_448, ("lime", 32): 1_176_873_984,
              ("lime", 8): 1_076_081_088, ("lime1-static", 32): 1_176_770_784, ("lime1-dynamic", 32): 1_185_613_824,
              ("hc", 32): 1_177_064_256, ("hc", 8): 1_076_400_960, ("hc-paper", 32): 1_177_129_792}  # fmt: skip


def full(family, groups=32, **fields):
    return llmc.Config(family, num_key_value_heads=groups, **FULL, **fields)


def by_hand(V, C, F, L, H, G, D, T):
    """The reference's formula of a LLaMA, in fractions."""
    return (T * (L * (2 * C * H * D + 2 * C * G * D + 3 * C * F) + C * V) + L * (4 * H * T**2 * D + 3 * H * T**2)
            + T * D / 2 + 32 * T * D + L * 3.5 * T * (H + G) * D + (2 * L + 1) * (5 * T * C + 7 * T)
            + 2 * L * T * F + 2 * L * T * C)  # fmt: skip


# --- the paper's figures


@pytest.mark.parametrize("family, groups, tera", PRINTED)
def test_the_tables_of_the_papers_come_out(family, groups, tera):
    total = flops.llama_flops(50257, 2048, 8192, 16, 32, groups, 64, 2048) + ADDED[family](groups)
    assert isinstance(total, int) and round(total / 1e12, 5) == tera


@pytest.mark.parametrize("family, groups", sorted({pair[:2] for pair in PRINTED} & PARAMETERS.keys()))
def test_configurations_count_as_the_formulas(family, groups):
    expected = flops.llama_flops(50257, 2048, 8192, 16, 32, groups, 64, 2048) + ADDED[family](groups)
    assert analysis.flops(full(family, groups)) == expected


@pytest.mark.parametrize("family, groups", PARAMETERS)
def test_parameters_of_the_papers_models_are_counted(family, groups):
    row = analysis.flops_table({family: full(family, groups)})[0]
    assert row["parameters"] == PARAMETERS[family, groups] and isinstance(row["parameters"], int)


def test_a_llama_counts_as_the_formula():
    config, T = llmc.Config(**TINY["llama"]), 23
    expected = by_hand(107, 44, 37, 3, 4, 2, 10, T)
    assert analysis.flops(config, T) == expected == int(expected)
    lime = llmc.Config(**{**TINY["llama"], "model_type": "lime"})
    assert analysis.flops(lime, T) == expected + 2 * T * 10 * 2**2 * 5


def test_additions_are_the_references():
    C, L, H, T, S, D, G = 44, 5, 4, 23, 3, 10, 2
    routes = sum(layer + 1 for layer in range(1, L))
    assert flops.routed_flops(L, G, D, T) == 2 * T * D * G**2 * routes
    norm = 5 * T * C + 7 * T
    mixed = routes * norm + routes * T * C * H
    assert flops.mixed_flops(C, L, H, T, False) == mixed + H * routes
    assert flops.mixed_flops(C, L, H, T, True) == mixed + routes * T * C * H + routes * T * H
    bracket = T * S * C * (2 * S + 3) + 4 * T * S * C + 3 * T * S * (S + 2) + 1.5 * T * S * C
    assert flops.hyper_flops(C, L, T, S, True, True) == 2 * L * bracket + T * S * C
    gainless = 2 * L * (bracket + 4 * T * C) + T * S * C - 2 * L * norm - 2 * L * T * C
    assert flops.hyper_flops(C, L, T, S, True, False) == gainless
    static = T * S * C * (S + 1) + 1.5 * T * S * C
    assert flops.hyper_flops(C, L, T, S, False, True) == 2 * L * static + T * S * C


def test_memories_are_the_papers_formulas():
    B, T, H, D, L, R = 3, 17, 4, 44, 5, 4
    S = L * (L + 1) // 2 - 1
    assert flops_table.mixed_memories(B * T, D, H, L, False) == ((L - 1) * B * T * H * D, B * T * H * D)
    assert flops_table.mixed_memories(B * T, D, H, L, True) == (
        B * T * H * S + (L - 1) * B * T * H * D, L * B * T * H + B * T * H * D)  # fmt: skip
    one = B * T * ((R - 1) * D + R * (R + 2))
    assert flops_table.hyper_memories(B * T, D, L, R) == (2 * L * one, one)


# --- the table


def test_a_table_stands_on_its_first_row():
    found = analysis.flops_table({"base": full("llama"), "ours": full("lime")}, batch=7, length=2048)
    assert [list(row) for row in found] == [["name", "parameters", "parameters_change", "flops", "flops_change",
                                             "train_memory", "inference_memory"]] * 2  # fmt: skip
    base, ours = found
    assert (base["name"], base["parameters_change"], base["flops_change"]) == ("base", 0, 0)
    assert ours["parameters_change"] == (ours["parameters"] - base["parameters"]) / base["parameters"]
    assert round(100 * ours["flops_change"], 2) == 1.22 and round(100 * ours["parameters_change"], 4) == 0.0117
    assert ours["train_memory"] == ours["inference_memory"] == 0


def test_the_default_table_is_table_six():
    found = {row["name"]: row for row in analysis.flops_table(batch=2)}
    assert list(found) == ["llama", "lime1-static", "lime1-dynamic", "hc"]
    assert {name: row["parameters"] for name, row in found.items()} == {name: PARAMETERS[name, 32] for name in found}
    for family, groups, tera in PRINTED:
        if groups == 32 and family in found:
            assert round(found[family]["flops"] / 1e12, 5) == tera
    N = 2 * 2048
    assert (found["lime1-static"]["train_memory"], found["lime1-static"]["inference_memory"]) == (
        15 * N * 32 * 2048, N * 32 * 2048)  # fmt: skip
    assert found["lime1-dynamic"]["inference_memory"] == 16 * N * 32 + N * 32 * 2048
    assert found["hc"]["inference_memory"] == N * (3 * 2048 + 4 * 6)


@pytest.mark.parametrize("call, error, words", [
    (lambda: analysis.flops(llmc.Config(**TINY["gpt2"])), ConfigError, "gpt2"),
    (lambda: analysis.flops(llmc.Config(**TINY["llama"]), 0), ConfigError, "length"),
    (lambda: analysis.flops("llama"), TypeError, "str"),
    (lambda: analysis.flops_table([]), TypeError, "list"),
    (lambda: analysis.flops_table({}), ConfigError, "at least one"),
    (lambda: analysis.flops_table({"a": 1}), TypeError, "int"),
    (lambda: analysis.flops_table({"a": full("llama")}, batch=0), ConfigError, "batch"),
])  # fmt: skip
def test_what_cannot_be_counted_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


# --- losses


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The output folder of a training of four steps."""
    folder = tmp_path_factory.mktemp("training")
    model = llmc.Model(llmc.Config(**TINY["llama"]))
    data = [dict(input_ids=list(range(1 + row, 9 + row % 3))) for row in range(6)]
    args = llmc.TrainingArguments(str(folder), max_steps=4, per_device_train_batch_size=2, disable_tqdm=True,
                                  eval_strategy="steps", eval_steps=2)  # fmt: skip
    llmc.Trainer(model, args, data, eval_dataset=data[:1]).train()
    return folder


def steps_of(folder):
    return [entry for entry in map(json.loads, (folder / "log.jsonl").read_text().splitlines()) if "tokens" in entry]


def test_losses_stand_beside_the_flops_that_went_before(trained, tmp_path):
    found = analysis.loss_per_flops({"ours": trained}, 8, plot=tmp_path / "loss.pdf")["ours"]
    steps, spent, expected = steps_of(trained), 0, []
    for entry in steps:
        spent += entry["tokens"]
        expected.append(3 * analysis.flops(llmc.Config(**TINY["llama"]), 8) * spent / 8)
    np.testing.assert_allclose(found["flops"], expected, rtol=1e-14)
    np.testing.assert_array_equal(found["loss"], [entry["loss"] for entry in steps])
    assert (tmp_path / "loss.pdf").stat().st_size > 4000


def test_losses_stand_beside_tokens_too(trained):
    found = analysis.loss_per_flops({"a": trained, "b": str(trained)}, 8, by="tokens")
    np.testing.assert_array_equal(found["a"]["tokens"], np.cumsum([entry["tokens"] for entry in steps_of(trained)]))
    assert list(found) == ["a", "b"] and list(found["b"]) == ["tokens", "loss"]


def test_the_newest_checkpoint_says_what_an_unfinished_training_trains(trained, tmp_path):
    unfinished = tmp_path / "unfinished"
    (unfinished / "checkpoint-2").mkdir(parents=True)
    lines = (trained / "log.jsonl").read_text()
    (unfinished / "log.jsonl").write_text(lines + json.dumps({"step": 5, "loss": None, "tokens": 3}) + "\n")
    with pytest.raises(FileNotFoundError, match="by='tokens'"):
        analysis.loss_per_flops({"a": unfinished}, 8)
    (unfinished / "checkpoint-2" / "config.json").write_text((trained / "config.json").read_text())
    found = analysis.loss_per_flops({"a": unfinished}, 8)["a"]
    np.testing.assert_array_equal(found["flops"][:4], analysis.loss_per_flops({"a": trained}, 8)["a"]["flops"])
    assert math.isnan(found["loss"][4]), "a loss that was not finite"
    (unfinished / "log.jsonl").write_text(json.dumps({"step": 1, "loss": None, "tokens": 3}) + "\n")
    analysis.loss_per_flops({"none": unfinished, "some": trained}, 8, plot=tmp_path / "some.png")
    analysis.loss_per_flops({"none": unfinished}, 8, plot=tmp_path / "none.png")
    assert all((tmp_path / name).stat().st_size > 4000 for name in ("some.png", "none.png"))


@pytest.mark.parametrize("change, error, words", [
    (dict(by="flop"), UnknownNameError, "nearest: flops"), (dict(by=1), TypeError, "by"),
    (dict(length=0), ConfigError, "length"), (dict(runs={}), ConfigError, "at least one"),
    (dict(runs=["out"]), TypeError, "list"), (dict(runs={"a": "nowhere"}), FileNotFoundError, "nowhere"),
    (dict(plot="loss.gif"), ConfigError, "gif"),
])  # fmt: skip
def test_what_is_no_training_is_refused(trained, change, error, words):
    with pytest.raises(error, match=words):
        analysis.loss_per_flops(**dict(runs={"a": trained}, length=8) | change)


def test_a_log_without_a_step_is_refused(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1, "eval_loss": 2.0}\n')
    with pytest.raises(DataError, match="no step"):
        analysis.loss_per_flops({"a": tmp_path}, 8, by="tokens")
