"""llmc lora and llmc merge: an adapter from a file of text or JSON lines, resumed, used, and merged."""

import json
import os
import shutil

import numpy as np
import pytest

import llmc
from llmc.cli import main
from llmc.cli.lora import spans

TEXT = "the cat sat on the mat. a dog ran!\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base with its tokenizer, a text, and prompts with responses."""
    folder = tmp_path_factory.mktemp("lora")
    tokenizer = llmc.Tokenizer.train([TEXT * 50], vocab_size=290, special_tokens=["<|endoftext|>"])
    config = llmc.Config(model_type="llama", vocab_size=291, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
                         num_key_value_heads=2, intermediate_size=48, max_position_embeddings=32)
    llmc.Model(config).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    (folder / "text.txt").write_text(TEXT * 40)
    rows = [json.dumps({"prompt": f"the cat {i} ", "response": "sat on the mat."}) for i in range(30)]
    (folder / "answers.jsonl").write_text("\n".join(rows))
    return folder


def lora(folder, out, *flags, data="answers.jsonl"):
    return main(["lora", str(folder / "base"), str(folder / data), "--output-dir", str(out), "--disable-tqdm", *flags])


def test_an_adapter_is_trained_on_responses_and_generates(folder, tmp_path, capsys):
    assert lora(folder, tmp_path, "--max-steps", "40", "--learning-rate", "0.01", "--target-modules", "attention") == 0
    out = capsys.readouterr().out
    assert "trainable params: 10,752 || all params:" in out and "the adapter is in" in out
    assert {"adapter_model.safetensors", "loss.png", "log.jsonl", "tokenizer.json"} <= set(os.listdir(tmp_path))
    assert not (tmp_path / "model.safetensors").exists()
    assert main(["generate", str(tmp_path), "the cat 3 ", "--max-new-tokens", "4"]) == 0
    assert "the cat 3 sat on the" in capsys.readouterr().out


def test_an_adapter_is_trained_on_text(folder, tmp_path):
    assert lora(folder, tmp_path, "--max-steps", "2", "--r", "4", "--layers-to-transform", "0,2", data="text.txt") == 0
    config = llmc.LoraConfig.from_pretrained(tmp_path)
    assert config.r == 4 and config.lora_alpha == 32 and config.layers_to_transform == [0, 2]
    assert len(config.target_modules) == 7 and config.task_type == "CAUSAL_LM"


def test_a_training_goes_on_to_the_same_bits(folder, tmp_path):
    flags = "--max-steps 6 --save-steps 3 --lora-dropout 0.1 --learning-rate 0.01".split()
    assert lora(folder, tmp_path / "whole", *flags) == 0
    assert lora(folder, tmp_path / "cut", *flags) == 0
    os.remove(tmp_path / "cut" / "adapter_model.safetensors")
    for path in (tmp_path / "cut" / "checkpoint-6").iterdir():
        path.unlink()
    (tmp_path / "cut" / "checkpoint-6").rmdir()
    assert main(["lora", "--resume", "--output-dir", str(tmp_path / "cut")]) == 0
    whole, cut = (llmc.checkpoint.open(tmp_path / side / "adapter_model.safetensors") for side in ("whole", "cut"))
    assert all((whole[name] == cut[name]).all() for name in whole)


def test_a_base_is_stored_and_multiplied_as_asked_and_resuming_remembers_it(folder, tmp_path, capsys):
    flags = "--dtype int8 --precision float32 --max-steps 4 --save-steps 2 --learning-rate 0.01".split()
    for out in ("whole", "cut"):
        assert lora(folder, tmp_path / out, *flags) == 0
    assert lora(folder, tmp_path / "wide", *flags[4:]) == 0
    shutil.rmtree(tmp_path / "cut" / "checkpoint-4")
    assert main(["lora", "--resume", "--output-dir", str(tmp_path / "cut")]) == 0
    assert "warning" not in capsys.readouterr().err
    whole, cut, wide = (llmc.checkpoint.open(tmp_path / out / "adapter_model.safetensors")
                        for out in ("whole", "cut", "wide"))
    assert all((whole[name] == cut[name]).all() for name in whole)
    assert any((whole[name] != wide[name]).any() for name in whole)
    shutil.rmtree(tmp_path / "cut" / "checkpoint-4")
    assert main(["lora", "--resume", "--dtype", "bfloat16", "--output-dir", str(tmp_path / "cut")]) == 0
    assert "dtype was int8, now it is bfloat16" in capsys.readouterr().err


def test_a_dry_run_counts_the_base_as_it_is_stored(folder, tmp_path, capsys):
    memory = []
    for dtype in ("float32", "bfloat16", "int8"):
        assert lora(folder, tmp_path / "out", "--dtype", dtype, "--precision", "float32", "--dry-run") == 0
        line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("memory"))
        memory.append(float(line.split()[1]))
    assert memory == sorted(memory, reverse=True) and len(set(memory)) == 3


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 0.1)])
def test_a_merged_checkpoint_is_plain_and_computes_the_same(folder, tmp_path, capsys, dtype, tolerance):
    assert lora(folder, tmp_path / "adapter", "--max-steps", "3", "--learning-rate", "0.01") == 0
    assert main(["merge", str(tmp_path / "adapter"), "--out", str(tmp_path / "merged"), "--dtype", dtype]) == 0
    assert "logits at most" in capsys.readouterr().out
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(os.listdir(tmp_path / "merged"))
    adapted, merged = (llmc.Model.from_pretrained(tmp_path / side) for side in ("adapter", "merged"))
    ids = np.arange(12)
    assert np.abs(adapted(ids) - merged(ids)).max() < tolerance and merged.active_adapters() == []


def test_a_dry_run_says_what_would_be_adapted_and_what_it_takes_and_writes_nothing(folder, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["--target-modules", "attention", "--layers-to-transform", "0-1", "--r", "4", "--max-steps", "7"]
    assert lora(folder, out, *words, "--dry-run") == 0
    said = capsys.readouterr().out
    assert said.startswith("trainable params: 1,792 || all params: ")
    assert "model.layers.*.self_attn.o_proj  0-1" in said and "mlp" not in said
    values = dict(line.split("  ", 1) for line in said.split("\n\n")[1].splitlines() if "  " in line)
    values = {what: value.strip() for what, value in values.items()}
    assert values["parameters that train"] == "1,792" and values["steps"] == "7" and values["items"] == "28"
    assert values["a checkpoint on disk"] == "21.5 kB" and values["memory"].endswith("B")
    assert not out.exists()


def test_a_dry_run_of_a_resumed_training_is_of_its_adapter(folder, tmp_path, capsys):
    assert lora(folder, tmp_path, "--max-steps", "1", "--r", "2", "--target-modules", "mlp") == 0
    before = sorted(os.listdir(tmp_path))
    capsys.readouterr()
    assert main(["lora", "--resume", "--dry-run", "--output-dir", str(tmp_path)]) == 0
    assert "mlp.down_proj" in capsys.readouterr().out and sorted(os.listdir(tmp_path)) == before


def test_the_words_for_targets_are_presets_names_or_an_expression(folder, tmp_path):
    for i, (words, count) in enumerate([("mlp", 9), ("q_proj", 3), ("q_proj v_proj", 6), (r".*\.1\..*_proj", 7)]):
        out = tmp_path / str(i)
        assert lora(folder, out, "--max-steps", "1", "--target-modules", *words.split()) == 0
        assert len(llmc.checkpoint.open(out / "adapter_model.safetensors")) == 2 * count


@pytest.mark.parametrize("words, status, said", [
    ("lora", 2, "which DIR to adapt"), ("lora BASE", 2, "which DIR to adapt"),
    ("lora BASE TEXT --r 0", 2, "at least 1"), ("lora BASE TEXT --lora-dropout 1", 2, "from 0 to 0.99"),
    ("lora BASE TEXT --target-modules domian", 1, "nearest: domain"),
    ("lora BASE TEXT --layers-to-transform 3-1", 2, "no list of layers, as 0-3,8 is"),
    ("lora BASE TEXT --layers-to-transform 7", 1, "the model has 3 layers, 0 to 2"),
    ("lora BASE TEXT --rank 4", 2, "there is no flag --rank"), ("lora nowhere/at/all TEXT", 1, "nowhere/at/all"),
    ("lora BASE TEXT ANSWERS", 2, "give one kind"), ("lora BASE nowhere.txt", 1, "nowhere.txt"),
    ("lora --resume", 1, "no checkpoint in it"), ("lora BASE TEXT --resume", 2, "leave DIR and FILE out"),
    ("lora --resume --r 4", 2, "leave --r out"), ("merge BASE --out OUT", 1, "no adapter_config.json"),
    ("merge nowhere --out OUT", 1, "nowhere"), ("merge BASE --out BASE", 1, "give --out another folder"),
    ("merge BASE", 2, "--out"),
])  # fmt: skip
def test_wrong_words_are_refused_in_one_line(folder, tmp_path, capsys, words, status, said):
    places = {"BASE": folder / "base", "TEXT": folder / "text.txt", "ANSWERS": folder / "answers.jsonl",
              "OUT": tmp_path / "out"}
    argv = [str(places.get(word, word)) for word in words.split()]
    out = ["--output-dir", str(tmp_path / "out")] if argv[0] == "lora" else []
    assert main([*argv, *out]) == status
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("llmc: ") and said in error


def test_layers_are_numbers_and_spans_of_them():
    assert spans("0-3,8") == [0, 1, 2, 3, 8] and spans("5") == [5]
