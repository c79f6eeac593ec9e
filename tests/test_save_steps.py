"""Checkpoints through a training: at listed steps or powers of two, of the model before it too, whole or weights."""

import json
import os
import shutil
import signal
import warnings

import numpy as np
import pytest
from test_resume import Cut, Rows, bits, cut_at, model, trainer

import llmc
from llmc.cli import main
from llmc.cli.parser import Parser
from llmc.cli.train_flags import given
from llmc.train.checkpoint import OPTIMIZER, newest
from llmc.train.log import read_log


@pytest.fixture(autouse=True)
def no_picture(monkeypatch):
    """Its drawing takes longer than such a training."""
    monkeypatch.setattr("llmc.train.loop.plot_loss", lambda log, path: None)


def saved(folder):
    """The steps of the checkpoints in a folder."""
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-[0-9]*"))


def evaluated(folder):
    return [entry["step"] for entry in read_log(folder / "log.jsonl") if "eval_loss" in entry]


def whole(folder):
    """The steps of the checkpoints that can be resumed from."""
    return [step for step in saved(folder) if (folder / f"checkpoint-{step}" / OPTIMIZER).exists()]


def press_at(step):
    """A callback that presses Ctrl-C after `step`."""
    return lambda state: signal.raise_signal(signal.SIGINT) if state.step == step else None


# --- which steps -----------------------------------------------------------------------------------------------------
def test_log_is_0_and_the_powers_of_two_and_the_last_step(tmp_path):
    trainer(tmp_path, save_steps="log", eval_steps="log").train()
    assert saved(tmp_path) == evaluated(tmp_path) == [0, 1, 2, 4, 7]


def test_a_list_is_in_any_order_and_doubles_count_once(tmp_path):
    trained = trainer(tmp_path, save_steps=[5, 0, 2, 2], eval_steps=(3, 1, 3))
    assert trained.args.save_steps == [0, 2, 5] and trained.args.eval_steps == [1, 3]
    trained.train()
    assert saved(tmp_path) == [0, 2, 5, 7] and evaluated(tmp_path) == [0, 1, 3, 7]


def test_steps_beyond_the_last_are_left_out_and_said(tmp_path):
    with pytest.warns(RuntimeWarning, match=r"save_steps: 9, 100 left out, beyond the last step, 7"):
        trainer(tmp_path, save_steps=[100, 9, 3]).train()
    assert saved(tmp_path) == [3, 7]


def test_checkpoint_0_is_the_model_before_the_training(tmp_path):
    before = {name: view.copy() for name, view in model().state_dict().items()}
    trainer(tmp_path, save_steps=[0]).train()
    opened = llmc.Model.from_pretrained(tmp_path / "checkpoint-0").state_dict()
    assert all((opened[name] == view).all() for name, view in before.items())
    state = json.loads((tmp_path / "checkpoint-best/trainer_state.json").read_text())
    assert state["step"] > 0, "the model before the training is never its best"


def test_a_list_says_whether_the_model_before_is_evaluated_when_nothing_else_does(tmp_path):
    trainer(tmp_path / "with", eval_steps=[0, 3], eval_on_start=False).train()
    trainer(tmp_path / "without", eval_steps=[3], eval_on_start=False).train()
    assert evaluated(tmp_path / "with") == [0, 3, 7] and evaluated(tmp_path / "without") == [3, 7]


def test_numpys_numbers_and_ranges_are_lists_of_steps():
    args = llmc.TrainingArguments("out", save_steps=np.array([4, 1]), eval_steps=range(0, 6, 2))
    assert (args.save_steps, args.eval_steps) == ([1, 4], [0, 2, 4])
    assert json.loads(json.dumps(args.to_dict()))["save_steps"] == [1, 4]
    assert llmc.TrainingArguments("out", save_steps=np.int64(4)).save_steps == 4


@pytest.mark.parametrize("name", ["save_steps", "eval_steps"])
def test_what_is_no_list_of_steps_is_refused(name):
    for value, error in (([], llmc.ConfigError), ([-1, 2], llmc.ConfigError), ("often", llmc.ConfigError),
                         ([1.5], TypeError), (["1"], TypeError), ([True], TypeError), ({}, TypeError)):
        with pytest.raises(error, match=name):
            llmc.TrainingArguments("out", **{name: value})
    for strategy in ("no", "epoch"):
        for value in ([1, 2], "log"):
            with pytest.raises(llmc.ConfigError, match=f"{name} is .* {strategy!r} has no use for it"):
                llmc.TrainingArguments("out", **{name: value, name.replace("steps", "strategy"): strategy})


# --- resuming --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("listed", ["log", [0, 3, 6]])
def test_a_training_with_listed_steps_goes_on_to_the_same_bits(tmp_path, listed):
    first = trainer(tmp_path / "whole", save_steps=listed, eval_steps="log")
    first.train()
    with pytest.raises(Cut):
        trainer(tmp_path / "cut", save_steps=listed, eval_steps="log", callbacks=[cut_at(5)]).train()
    resumed = trainer(tmp_path / "cut", seed=9, save_steps=listed, eval_steps="log")
    resumed.train(resume_from_checkpoint=True)
    assert bits(resumed) == bits(first)
    for seen in (saved, evaluated):
        assert seen(tmp_path / "cut") == seen(tmp_path / "whole")


def test_the_model_before_is_a_place_to_go_on_from(tmp_path):
    first = trainer(tmp_path, save_steps=[0])
    first.train()
    resumed = trainer(tmp_path, seed=9, save_steps=[0])
    resumed.train(resume_from_checkpoint=tmp_path / "checkpoint-0")
    assert bits(resumed) == bits(first) and evaluated(tmp_path) == [0, 3, 6, 7]


# --- weights alone ---------------------------------------------------------------------------------------------------
def test_weights_alone_open_as_a_model_and_take_a_third_of_the_room(tmp_path):
    for name, alone in (("whole", False), ("alone", True)):
        trainer(tmp_path / name, of=model(n_embd=48), save_steps=[0, 4], save_only_model=alone).train()
    assert saved(tmp_path / "alone") == [0, 4, 7] and whole(tmp_path / "alone") == []
    assert not (tmp_path / "alone/checkpoint-best" / OPTIMIZER).exists()
    for name in ("checkpoint-4", "checkpoint-best"):
        one, other = (llmc.Model.from_pretrained(tmp_path / side / name).state_dict() for side in ("whole", "alone"))
        assert all((view == other[key]).all() for key, view in one.items())
        sizes = [sum(path.stat().st_size for path in (tmp_path / side / name).glob("*.safetensors"))
                 for side in ("whole", "alone")]
        assert 2.8 < sizes[0] / sizes[1] < 3.2


def test_ctrl_c_leaves_a_whole_checkpoint_though_the_others_are_weights_alone(tmp_path):
    first = trainer(tmp_path / "first")
    first.train()
    for step in (4, 5):  # where weights alone are due too, and where they are not
        folder = tmp_path / str(step)
        with pytest.raises(KeyboardInterrupt):
            trainer(folder, save_steps="log", save_only_model=True, callbacks=[press_at(step)]).train()
        assert whole(folder) == [step] and newest(folder) == str(folder / f"checkpoint-{step}")
        resumed = trainer(folder, seed=9, save_steps="log", save_only_model=True)
        resumed.train(resume_from_checkpoint=True)
        assert bits(resumed) == bits(first) and whole(folder) == [step] and 7 in saved(folder)


def test_ctrl_c_where_the_best_are_weights_alone_is_whole(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, save_steps=[6], eval_steps=1, save_only_model=True, callbacks=[press_at(2)]).train()
    assert whole(tmp_path) == [2]


def test_the_newest_whole_one_is_resumed_and_what_was_passed_over_is_said(tmp_path):
    first = trainer(tmp_path)
    first.train()
    for step in (5, 6, 7):
        shutil.rmtree(tmp_path / f"checkpoint-{step}")
    with pytest.raises(Cut):
        trainer(tmp_path, save_only_model=True, callbacks=[cut_at(6)]).train(resume_from_checkpoint=True)
    assert saved(tmp_path) == [1, 2, 3, 4, 5, 6] and whole(tmp_path) == [1, 2, 3, 4]
    resumed = trainer(tmp_path, seed=9)
    with pytest.warns(RuntimeWarning, match=r"checkpoint-5 to checkpoint-6 hold weights alone .*from .*checkpoint-4"):
        resumed.train(resume_from_checkpoint=True)
    assert bits(resumed) == bits(first)


def test_resuming_from_weights_alone_is_refused_in_words(tmp_path):
    trainer(tmp_path, save_steps=[2, 4], save_only_model=True).train()
    with pytest.raises(llmc.CheckpointError, match="checkpoint-2 holds weights alone .*from a whole checkpoint"):
        trainer(tmp_path).train(resume_from_checkpoint=tmp_path / "checkpoint-2")
    with pytest.raises(llmc.CheckpointError, match="no checkpoint is whole: checkpoint-2 to checkpoint-7 hold"):
        trainer(tmp_path).train(resume_from_checkpoint=True)
    trainer(tmp_path / "one", save_steps="log").train()
    os.remove(tmp_path / "one/checkpoint-4" / OPTIMIZER)  # lost, not left out
    with pytest.raises(llmc.CheckpointError, match=OPTIMIZER):
        trainer(tmp_path / "one").train(resume_from_checkpoint=tmp_path / "one/checkpoint-4")


def test_weights_alone_are_counted_by_the_limit(tmp_path):
    trainer(tmp_path, save_only_model=True, save_total_limit=2).train()
    assert saved(tmp_path) == [6, 7] and (tmp_path / "checkpoint-best").is_dir()


def test_an_adapter_alone_is_saved_likewise(tmp_path):
    adapted = model()
    adapted.add_adapter(llmc.LoraConfig(r=2, target_modules="attention"))
    trainer(tmp_path, of=adapted, save_steps=[0, 3], save_only_model=True).train()
    assert saved(tmp_path) == [0, 3, 7] and whole(tmp_path) == []
    assert (tmp_path / "checkpoint-0/adapter_model.safetensors").exists()
    with pytest.raises(llmc.CheckpointError, match="weights alone"):
        trainer(tmp_path, of=adapted).train(resume_from_checkpoint=tmp_path / "checkpoint-3")


# --- on the command line ---------------------------------------------------------------------------------------------
def said(*words):
    """The training arguments that words on the command line give, and the files among them."""
    from llmc.cli import train

    parser = Parser("train", "trains", "")
    train.arguments(parser)
    args = parser.parse(list(words))
    return given(args), args.data


def test_the_flags_take_a_number_a_share_steps_and_log():
    assert said("--save-steps", "log", "--eval-steps", "0.1") == ({"save_steps": "log", "eval_steps": 0.1}, [])
    assert said("--save-steps", "0", "10", "100", "a.txt") == ({"save_steps": [0, 10, 100]}, ["a.txt"])
    assert said("--save-steps", "5", "a.txt", "--save-only-model") == (
        {"save_steps": 5, "save_only_model": True}, ["a.txt"])  # fmt: skip
    assert said("--save-steps=log", "a.txt", "--eval-steps", "3", "1") == (
        {"save_steps": "log", "eval_steps": [3, 1]}, ["a.txt"])  # fmt: skip


@pytest.mark.parametrize("words, line", [
    (["--save-steps", "often"], "'often' is no number of steps, no steps (0 10 100), nor log"),
    (["--save-steps", "1", "2.5"], "'1 2.5' is no number of steps"),
    (["--eval-steps", "1", "-2"], "eval_steps[1] is -2"),
    (["--save-steps", "1", "2", "--save-strategy", "no"], "save_strategy 'no' has no use for it"),
])
def test_wrong_words_for_steps_are_refused(tmp_path, capsys, words, line):
    (tmp_path / "a.txt").write_text("a")
    assert main(["train", str(tmp_path / "a.txt"), "--output-dir", str(tmp_path / "out"), *words]) == 2
    assert line in capsys.readouterr().err


def test_a_training_on_the_command_line_remembers_its_steps(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text(llmc.data.builtin_text()[:6000])
    words = "--hidden-size 16 --num-hidden-layers 1 --num-attention-heads 2 --vocab-size 280 --block-size 16"
    out = tmp_path / "out"
    words = [*words.split(), "--max-steps", "5", "--save-steps", "0", "3"]
    assert main(["train", *words, str(text), "--output-dir", str(out)]) == 0
    shutil.rmtree(out / "checkpoint-5")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main(["train", "--resume", "--output-dir", str(out)]) == 0
    assert saved(out) == [0, 3, 5]
    assert main(["train", "--resume", "--output-dir", str(out), "--save-steps", "log", "--max-steps", "8"]) == 0
    assert saved(out) == [0, 3, 5, 8]
