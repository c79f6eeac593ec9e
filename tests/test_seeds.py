"""One training with each of several seeds: its folders, its tokenizer, its figure, its mean; more later, and Ctrl-C."""

import json
import os
import re
import signal

import numpy as np
import pytest

import llmc
from llmc.cli import main
from llmc.train import loop
from llmc.train.log import read_log

SIZES = "--hidden-size 16 --num-hidden-layers 1 --num-attention-heads 2 --vocab-size 280".split()
SHORT = "--block-size 16 --max-steps 3 --per-device-train-batch-size 2 --disable-tqdm".split()


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Of the single trainings: drawing takes longer than they do."""
    monkeypatch.setattr(loop, "plot_loss", lambda log, path: None)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text(llmc.data.builtin_text()[:6000])
    return str(path)


def train(corpus, out, *words):
    return main(["train", corpus, *SIZES, *SHORT, "--output-dir", str(out), *map(str, words)])


def last(folder):
    """The last held-out loss of a training."""
    return [entry["eval_loss"] for entry in read_log(folder / "log.jsonl") if "eval_loss" in entry][-1]


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def written(out):
    """When each seed's model was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in out.glob("seed-*/model.safetensors")}


def press_in(monkeypatch, seed, step):
    """Let Ctrl-C be pressed after a step of the training with one seed, once."""
    real, pressed = loop.Training._step, []

    def step_and_press(self):
        going = real(self)
        if (self.args.seed, self.state.step) == (seed, step) and not pressed:
            pressed.append(True)
            signal.raise_signal(signal.SIGINT)
        return going

    monkeypatch.setattr(loop.Training, "_step", step_and_press)


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    """The folder of three seeds that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert train(corpus, out, "--seeds", 0, 1, 2) == 0
    return out


def test_each_seed_has_its_folder_as_if_it_were_trained_alone(whole, corpus, tmp_path):
    assert {path.name for path in whole.iterdir()} == {"seed-0", "seed-1", "seed-2", "loss.png", "seeds.json"}
    assert len({weights(whole / f"seed-{seed}") for seed in range(3)}) == 3
    assert train(corpus, tmp_path / "alone", "--seed", 1) == 0
    assert weights(tmp_path / "alone") == weights(whole / "seed-1")


def test_all_seeds_have_one_tokenizer_and_one_config(corpus, tmp_path, monkeypatch):
    made, real = [], llmc.Tokenizer.train
    monkeypatch.setattr(llmc.Tokenizer, "train", lambda *rest, **named: made.append(1) or real(*rest, **named))
    assert train(corpus, tmp_path, "--seeds", 5, 6) == 0
    assert len(made) == 1
    for name in ("tokenizer.json", "config.json"):
        assert (tmp_path / "seed-5" / name).read_bytes() == (tmp_path / "seed-6" / name).read_bytes()


def test_more_seeds_are_added_the_finished_ones_stay_and_all_are_counted(corpus, tmp_path, capsys):
    assert train(corpus, tmp_path, "--seeds", 3) == 0
    assert "one run has no deviation" in capsys.readouterr().out
    before = written(tmp_path)
    picture = (tmp_path / "loss.png").read_bytes()
    assert train(corpus, tmp_path, "--seeds", 3, 10, 4) == 0
    said = capsys.readouterr()
    assert written(tmp_path)["seed-3"] == before["seed-3"] and (tmp_path / "loss.png").read_bytes() != picture
    assert "seed 10, 1 of 2" in said.err
    losses = [last(tmp_path / f"seed-{seed}") for seed in (3, 4, 10)]
    mean, deviation = re.search(r"mean ([\d.]+), sample deviation ([\d.]+) over 3 runs", said.out).groups()
    assert float(mean) == pytest.approx(np.mean(losses), abs=1e-4)
    assert float(deviation) == pytest.approx(np.std(losses, ddof=1), abs=1e-4) and float(deviation) > 0
    rows = re.findall(r"^seed-(\d+) .*$", said.out, re.M)
    assert rows == ["3", "4", "10"]


def test_seeds_that_were_told_something_else_do_not_come_together(whole, corpus, capsys):
    assert train(corpus, whole, "--seeds", 7, "--learning-rate", "0.1") == 1
    assert "seed 0 was trained with learning_rate None, now it is 0.1" in capsys.readouterr().err
    assert train(corpus, whole, "--seeds", 7, "--hidden-size", "32", "--overwrite") == 1
    assert "hidden_size 16, now it is 32" in capsys.readouterr().err
    assert not (whole / "seed-7").exists()


def test_resuming_goes_on_in_each_and_begins_those_that_were_not_begun(whole, corpus, tmp_path, capsys, monkeypatch):
    press_in(monkeypatch, seed=1, step=2)
    monkeypatch.chdir(os.path.dirname(corpus))
    assert train("text.txt", tmp_path, "--seeds", 0, 1, 2) == 130
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == (f"llmc: stopped in seed 1; llmc train --resume --seeds 0 1 2 --output-dir {tmp_path} goes on")
    assert sorted(written(tmp_path)) == ["seed-0"] and (tmp_path / "seed-1/checkpoint-2").is_dir()
    monkeypatch.chdir(tmp_path)
    before = written(tmp_path)
    assert main(["train", "--resume", "--seeds", "0", "1", "2", "--output-dir", str(tmp_path)]) == 0
    assert written(tmp_path)["seed-0"] == before["seed-0"]
    for seed in range(3):
        assert weights(tmp_path / f"seed-{seed}") == weights(whole / f"seed-{seed}")
        steps = [entry["step"] for entry in read_log(tmp_path / f"seed-{seed}/log.jsonl") if "loss" in entry]
        assert steps == [1, 2, 3]


def test_finished_seeds_go_on_for_longer(corpus, tmp_path, capsys):
    assert train(corpus, tmp_path, "--seeds", 1, 2, "--lr-scheduler-type", "constant", "--warmup-steps", 0) == 0
    assert main(["train", "--resume", "--seeds", "1", "2", "--max-steps", "5", "--output-dir", str(tmp_path)]) == 0
    for seed in (1, 2):
        steps = [entry["step"] for entry in read_log(tmp_path / f"seed-{seed}/log.jsonl") if "loss" in entry]
        assert steps == [1, 2, 3, 4, 5]
    assert json.loads((tmp_path / "seeds.json").read_text())["max_steps"] == 5


def test_an_unfinished_seed_is_not_begun_anew_unasked(corpus, tmp_path, capsys, monkeypatch):
    press_in(monkeypatch, seed=2, step=1)
    assert train(corpus, tmp_path, "--seeds", 2) == 130
    assert train(corpus, tmp_path, "--seeds", 1, 2) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "seed-2 holds checkpoint-1 of a training that is not finished; go on with it (--resume)" in line
    assert not (tmp_path / "seed-1").exists()
    assert train(corpus, tmp_path, "--seeds", 1, 2, "--overwrite") == 0
    assert sorted(written(tmp_path)) == ["seed-1", "seed-2"]


def test_what_is_overwritten_lends_no_tokenizer(corpus, tmp_path):
    for size in (280, 290):
        assert train(corpus, tmp_path, "--seeds", 1, 2, "--vocab-size", size, "--overwrite") == 0
        assert {len(llmc.Tokenizer.from_pretrained(tmp_path / f"seed-{seed}")) for seed in (1, 2)} == {size}


def test_adapters_of_several_seeds(whole, corpus, tmp_path, capsys):
    words = ["lora", str(whole / "seed-0"), corpus, *SHORT, "--r", "2", "--output-dir", str(tmp_path)]
    assert main([*words, "--seeds", "1", "2"]) == 0
    assert "mean" in capsys.readouterr().out
    assert main([*words, "--seeds", "3"]) == 0
    said = capsys.readouterr().out
    assert "over 3 runs" in said and (tmp_path / "loss.png").exists()
    assert len({(tmp_path / f"seed-{seed}/adapter_model.safetensors").read_bytes() for seed in (1, 2, 3)}) == 3
    assert main(["lora", "--resume", "--seeds", "1", "2", "3", "--output-dir", str(tmp_path)]) == 0
    assert main(["train", "--resume", "--seeds", "1", "--output-dir", str(tmp_path)]) == 2
    assert "does not say what llmc train --seeds was told" in capsys.readouterr().err


def test_nothing_held_out_has_no_mean(corpus, tmp_path, capsys):
    assert train(corpus, tmp_path, "--seeds", 1, 2, "--held-out", 0) == 0
    assert "2 of 2 runs without a held-out loss after the last step: no mean" in capsys.readouterr().out


def test_a_dry_run_says_how_many_and_writes_nothing(corpus, tmp_path, capsys):
    assert train(corpus, tmp_path / "out", "--seeds", 1, 2, "--dry-run") == 0
    said = capsys.readouterr()
    assert "2 of 2 seeds are to be trained" in said.err and said.out.count("parameters that train") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words, line", [
    ("--seeds 1 2 1", "1 stands there twice; a seed is trained once"),
    ("--seeds 1 2 --seed 3", "--seed is of one training, --seeds of several"),
    ("--seeds 1 -2", "'-2' is no seed"), ("--seeds x", "'x' is no seed"), ("--seeds", "expected one argument"),
    ("--resume --seeds 1", "does not say what llmc train --seeds was told; leave --resume out"),
])
def test_wrong_seeds_are_refused(corpus, tmp_path, capsys, words, line):
    assert train(corpus, tmp_path / "out", *words.split()) == 2
    assert line in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_resuming_a_folder_of_seeds_without_naming_them_says_what_to_add(whole, capsys):
    assert main(["train", "--resume", "--output-dir", str(whole)]) == 1
    assert "its trainings are those of several seeds; name them with --seeds" in capsys.readouterr().err


def test_a_folder_that_holds_a_run_itself_is_refused(whole, corpus, capsys):
    assert train(corpus, whole / "seed-0", "--seeds", 1, 2) == 1
    assert "holds a model and 2 checkpoints of another run; name another --output-dir" in capsys.readouterr().err
