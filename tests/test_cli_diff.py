"""llmc inspect and llmc diff: what they print and write, and how they end."""

import json

import numpy as np
import pytest
from test_diff import UP, copied, llama, numbers, written

import llmc
from llmc.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """base, tuned (of low rank), narrow (the base in bfloat16), adapter."""
    folder = tmp_path_factory.mktemp("cli")
    tuned = copied(llama())
    tuned[UP] += numbers(36, 2) @ numbers(2, 24) * np.float32(0.1)
    written(folder / "base", llama())
    written(folder / "tuned", tuned)
    written(folder / "narrow", llama(), dtype="bfloat16")
    (folder / "adapter").mkdir()
    llmc.LoraConfig(r=2, target_modules=["up_proj"]).save_pretrained(folder / "adapter")
    factors = {}
    for layer in range(2):
        at = f"base_model.model.model.layers.{layer}.mlp.up_proj.lora_"
        factors |= {f"{at}A.weight": numbers(2, 24, seed=layer), f"{at}B.weight": numbers(36, 2, seed=layer + 5)}
    llmc.checkpoint.write(folder / "adapter", factors)
    (folder / "adapter" / "model.safetensors").rename(folder / "adapter" / "adapter_model.safetensors")
    return folder


def says(capsys, *words, status):
    """The one line that a command says on the standard error when it ends with `status`."""
    capsys.readouterr()
    assert main(list(map(str, words))) == status
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def test_diff_prints_and_writes_everything(folder, tmp_path, capsys):
    outs = [str(tmp_path / f"x{ending}") for ending in (".json", ".csv", ".html", ".png", ".pdf", ".svg")]
    assert main(["diff", f"{folder}/base", f"{folder}/tuned", "--top", "3", "--metrics", "all", "--out", *outs]) == 0
    out, err = capsys.readouterr()
    assert "low-rank" in out and UP in out and err == ""
    found = llmc.checkpoint.Diff.load(outs[0])
    assert found.summary["looks_like"] == "low-rank"
    assert len(found[UP]["moved"]) == 3 and found[UP]["intruders"] is not None
    assert all((tmp_path / f"x{ending}").stat().st_size for ending in (".csv", ".html", ".png", ".pdf", ".svg"))


@pytest.mark.parametrize("tuned, status", [("base", 0), ("narrow", 0), ("tuned", 1), ("adapter", 1)])
def test_exit_code_tells_whether_they_differ(folder, capsys, tuned, status):
    words = ["diff", f"{folder}/base", f"{folder}/{tuned}", "--metrics", "change"]
    assert main([*words, "--exit-code"]) == status
    assert capsys.readouterr().err == ""
    assert main(words) == 0


def test_a_side_with_an_adapter_is_written_with_a_plus(folder, tmp_path, capsys):
    base, both = f"{folder}/base", f"{folder}/base+{folder}/adapter"
    assert main(["diff", both, both, "--exit-code"]) == 0
    assert main(["diff", base, both, "--out", f"{tmp_path}/one.json"]) == 0
    assert main(["diff", base, f"{folder}/adapter", "--out", f"{tmp_path}/other.json"]) == 0
    one, other = (json.loads((tmp_path / name).read_text())["rows"] for name in ("one.json", "other.json"))
    assert one == other and sum(row["status"] == "changed" for row in one) == 2


def test_rename_and_match(folder, capsys):
    base = f"{folder}/base"
    assert main(["diff", base, base, "--rename", r"layers\.0=layers.1", "--match", "*layers*norm*"]) == 0
    out = capsys.readouterr().out
    assert "renamed" in out and "mlp" not in out


@pytest.mark.parametrize("words, said, status", [
    (["diff", "{}/base"], "required", 2), (["diff", "{}/base", "{}/tuned", "--out", "x.doc"], "--out takes", 2),
    (["diff", "{}/base", "{}/tuned", "--out", "nowhere/x.json"], "no folder", 2),
    (["diff", "{}/base", "{}/tuned", "--rename", "abc"], "PATTERN=REPLACEMENT", 2),
    (["diff", "{}/base", "{}/tuned", "--metrics", "chang"], "nearest: change", 1),
    (["diff", "{}/base", "{}/tuned", "--spectrum", "quick"], "invalid choice", 2),
    (["diff", "{}/base", "{}/tuned", "--matc", "x"], "--match", 2),
    (["diff", "{}/adapter", "{}/base"], "an adapter alone", 1), (["diff", "{}/base", "{}/nowhere"], "nowhere", 1),
    (["diff", "{}/base", "{}/tuned", "--match", "nothing"], "no tensor of either side", 1),
    (["inspect", "{}/base", "--out", "x.png"], "--out takes", 2),
    (["inspect", "{}/base", "--sort", "size"], "--sort", 2),
])  # fmt: skip
def test_what_cannot_be_obeyed_is_said_in_a_line(folder, capsys, words, said, status):
    assert said in says(capsys, *(word.format(folder) for word in words), status=status)


def test_inspect_reads_numbers_when_asked(folder, tmp_path, capsys):
    outs = [str(tmp_path / f"x{ending}") for ending in (".json", ".csv", ".html")]
    assert main(["inspect", f"{folder}/base", "--stats", "--spectrum", "--sort", "bytes", "--out", *outs]) == 0
    out = capsys.readouterr().out
    assert "stable_rank" in out and out.splitlines()[2].split()[0] in ("model.embed_tokens.weight", "lm_head.weight")
    assert json.loads((tmp_path / "x.json").read_text())["rows"][0]["norm"] > 0
