"""A training goes on where it was cut off, to the same bits: after any step, a kill, Ctrl-C, a full disk, an error."""

import dataclasses
import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import needs_bfloat16

import llmc
from llmc.checkpoint import verify, write_manifest
from llmc.train.checkpoint import found, newest, save
from llmc.train.log import read_log
from llmc.train.state import TrainerState

STEPS = 7
KILLER = Path(__file__).with_name("kill_training.py")


class Rows:
    """Rows of unequal length; 11 of them, so that an epoch ends within a step."""

    def __len__(self):
        return 11

    def __getitem__(self, index):
        return {"input_ids": [(7 * index + 3 * t * t) % 31 for t in range(4 + index % 5)]}


class Stream:
    """The same rows, as an iterable."""

    def __iter__(self):
        return map(Rows().__getitem__, range(11))


class Cut(Exception):
    """What an unforeseen error is."""


def cut_at(step):
    """A callback that fails after `step`."""
    def callback(state):
        if state.step == step:
            raise Cut
    return callback


def model(seed=2, precision=None, **changes):
    """A GPT-2 with dropout."""
    config = dict(model_type="gpt2", vocab_size=31, n_positions=16, n_embd=12, n_layer=2, n_head=2) | changes
    return llmc.Model(llmc.Config(**config), seed=seed, precision=precision)


def trainer(folder, seed=2, data=None, callbacks=(), of=None, **changes):
    """A trainer with accumulation, warm-up, clipping and evaluation."""
    arguments = dict(max_steps=STEPS, per_device_train_batch_size=2, gradient_accumulation_steps=2, learning_rate=1e-2,
                     warmup_steps=2, save_steps=1, eval_steps=3, seed=5, disable_tqdm=True) | changes
    return llmc.Trainer(of or model(seed), llmc.TrainingArguments(str(folder), **arguments),
                        train_dataset=data or Rows(), eval_dataset=Rows(), callbacks=callbacks)


def bits(trained):
    """One word for all parameters of a trainer's model."""
    return hashlib.sha256(b"".join(view.tobytes() for view in trained.model.state_dict().values())).hexdigest()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(folder, bits) of a training that nothing interrupted, with a checkpoint at every step."""
    folder = tmp_path_factory.mktemp("whole")
    trained = trainer(folder)
    trained.train()
    return folder, bits(trained)


# --- the same bits ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_resuming_from_any_step_gives_the_same_bits(whole, tmp_path, step):
    resumed = trainer(tmp_path, seed=step + 10)
    result = resumed.train(resume_from_checkpoint=whole[0] / f"checkpoint-{step}")
    assert bits(resumed) == whole[1] and result.step == STEPS
    theirs = json.loads((whole[0] / f"checkpoint-{STEPS}/trainer_state.json").read_text())
    assert (result.tokens, result.epoch, result.best_step) == (theirs["tokens"], theirs["epoch"], theirs["best_step"])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_threads_gives_the_same_bits(whole, tmp_path, threads):
    before = llmc.get_num_threads()
    llmc.set_num_threads(threads)
    try:
        trained = trainer(tmp_path, save_strategy="no")
        trained.train()
    finally:
        llmc.set_num_threads(before)
    assert bits(trained) == whole[1]


def test_products_in_bfloat16_resume_to_the_same_bits(tmp_path):
    first = trainer(tmp_path / "whole", of=model(precision="bfloat16"))
    first.train()
    resumed = trainer(tmp_path / "resumed", of=model(seed=9, precision="bfloat16"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resumed.train(resume_from_checkpoint=tmp_path / "whole/checkpoint-3")
    assert bits(resumed) == bits(first)


def test_a_pass_owes_nothing_to_the_passes_before_it():
    trained, chance = model(), np.random.default_rng(0)
    old = trained.run(4, 16, backward=True, dropout=True, seed=5)
    for update in range(60):
        shape = chance.integers(1, 5), chance.integers(2, 17)
        ids, mask = chance.integers(0, 31, shape), np.arange(shape[1]) < chance.integers(2, shape[1] + 1, (shape[0], 1))
        seen = []
        for run in (old, trained.run(4, 16, backward=True, dropout=True, seed=5)):
            run.zero_grad()
            run._core.set_dropout_key(update, 1)
            loss = run.forward_backward(ids, labels=np.where(mask, ids, -100), attention_mask=mask.astype(int))
            seen.append((loss, [run.grad(name).tobytes() for name in trained._parameters]))
        assert seen[0] == seen[1], f"update {update}, shape {shape}"


def test_an_iterable_is_skipped_to_its_position(tmp_path):
    first = trainer(tmp_path / "whole", data=Stream())
    first.train()
    for step in (3, 5):  # at the end of an epoch, within the next
        resumed = trainer(tmp_path / f"resumed-{step}", seed=9, data=Stream(), save_strategy="no")
        resumed.train(resume_from_checkpoint=tmp_path / f"whole/checkpoint-{step}")
        assert bits(resumed) == bits(first)


def test_what_can_be_read_once_refuses_to_resume(whole, tmp_path):
    with pytest.raises(llmc.DataError, match="only once"):
        trainer(tmp_path, data=iter(Stream())).train(resume_from_checkpoint=whole[0] / "checkpoint-2")


def test_a_stop_is_a_place_to_go_on_from(whole, tmp_path):
    stopped = trainer(tmp_path, callbacks=[lambda state: "stop" if state.step == 2 else None]).train()
    assert stopped.stopped and stopped.step == 2
    resumed = trainer(tmp_path, seed=9)
    assert resumed.train(resume_from_checkpoint=True).step == STEPS
    assert bits(resumed) == whole[1]


def test_the_log_goes_on_without_gaps_or_repetitions(whole, tmp_path):
    with pytest.raises(Cut):
        trainer(tmp_path, callbacks=[cut_at(6)], save_steps=4).train()
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step": 7, "loss": 3.')  # a crash within a line
    trainer(tmp_path, seed=9, save_steps=4).train(resume_from_checkpoint=True)

    def numbers(folder):
        return [{name: value for name, value in entry.items() if "second" not in name}
                for entry in read_log(folder / "log.jsonl")]

    assert numbers(tmp_path) == numbers(whole[0])
    assert [entry["step"] for entry in numbers(tmp_path) if "loss" in entry] == list(range(1, STEPS + 1))
    assert [entry["step"] for entry in numbers(tmp_path) if "eval_loss" in entry] == [0, 3, 6, 7]


# --- interruptions ---------------------------------------------------------------------------------------------------
def test_a_kill_at_any_instant_loses_no_checkpoint():
    done = subprocess.run([sys.executable, KILLER, "--kills", "6", "--seed", str(random.randrange(10**6))],
                          capture_output=True, text=True, timeout=300, cwd=KILLER.parent.parent,
                          env=os.environ | {"PYTHONPATH": str(KILLER.parent.parent)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no checkpoint lost" in done.stdout


def test_ctrl_c_saves_the_last_completed_step(whole, tmp_path):
    def press(state):
        if state.step == 4:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, callbacks=[press], save_steps=100).train()
    assert [path.name for path in tmp_path.glob("checkpoint-[0-9]*")] == ["checkpoint-4"]
    verify(tmp_path / "checkpoint-4")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resumed = trainer(tmp_path, seed=9, save_steps=100)
    resumed.train(resume_from_checkpoint=True)
    assert bits(resumed) == whole[1]


def test_ctrl_c_at_random_instants_gives_the_same_bits(whole, tmp_path):
    chance = random.Random()
    presses, done = 0, False
    trained = trainer(tmp_path, save_steps=3)
    while not done:
        timer = threading.Timer(chance.uniform(0, 0.15), os.kill, (os.getpid(), signal.SIGINT))
        try:
            if presses < 6:
                timer.start()
            trained.train(resume_from_checkpoint=bool(found(tmp_path)))
            timer.cancel()
            done = presses >= 6 or not timer.join()
        except KeyboardInterrupt:
            presses += 1
    assert bits(trained) == whole[1]


def test_ctrl_c_while_a_checkpoint_is_written_waits_for_it(whole, tmp_path, monkeypatch):
    real = llmc.checkpoint.write_manifest

    def press_and_write(folder):
        signal.raise_signal(signal.SIGINT)
        real(folder)

    monkeypatch.setattr(llmc.checkpoint, "write_manifest", press_and_write)
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, save_steps=2).train()
    assert newest(tmp_path) == str(tmp_path / "checkpoint-2")


def test_an_evaluation_cut_off_by_ctrl_c_is_made_up_for(whole, tmp_path, monkeypatch):
    cut = trainer(tmp_path, save_steps=100)
    real, seen = cut.evaluate, []

    def evaluate():
        seen.append(len(seen))
        return real() if len(seen) == 1 else signal.raise_signal(signal.SIGINT)  # the first is of the model as it was

    monkeypatch.setattr(cut, "evaluate", evaluate)
    with pytest.raises(KeyboardInterrupt):
        cut.train()
    assert newest(tmp_path) == str(tmp_path / "checkpoint-3")
    trainer(tmp_path, seed=9, save_steps=100).train(resume_from_checkpoint=True)
    evaluations, theirs = ([entry for entry in read_log(folder / "log.jsonl") if "eval_loss" in entry]
                           for folder in (tmp_path, whole[0]))
    assert evaluations == theirs and [entry["step"] for entry in evaluations] == [0, 3, 6, 7]


def test_a_second_ctrl_c_leaves_at_once_and_keeps_the_previous_checkpoint(tmp_path, monkeypatch):
    real = llmc.checkpoint.write_manifest

    def press(state):
        if state.step == 3:
            monkeypatch.setattr(llmc.checkpoint, "write_manifest", lambda folder: signal.raise_signal(signal.SIGINT))
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, callbacks=[press], save_steps=2, eval_strategy="no", eval_steps=None).train()
    monkeypatch.setattr(llmc.checkpoint, "write_manifest", real)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "log.jsonl"]
    verify(tmp_path / "checkpoint-2")


def test_a_full_disk_leaves_the_checkpoints_there_are(whole, tmp_path):
    def fill(state):
        if state.step == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (9000, resource.RLIM_INFINITY))

    try:
        with pytest.raises(OSError):
            trainer(tmp_path, callbacks=[fill], save_steps=2, eval_steps=100).train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "log.jsonl"]
    resumed = trainer(tmp_path, seed=9)
    resumed.train(resume_from_checkpoint=True)
    assert bits(resumed) == whole[1]


def test_a_disk_that_has_become_too_small_is_said_before_a_checkpoint_is_begun(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    left = [usage.free]  # at the start; later
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=left.pop() if left else 1000))
    with pytest.raises(OSError, match="1,000 are free"):
        trainer(tmp_path, eval_strategy="no", eval_steps=None).train()
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


# --- what is resumed -------------------------------------------------------------------------------------------------
def test_the_newest_whole_checkpoint_is_found(whole, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(whole[0], folder)
    (folder / f"checkpoint-{STEPS}/optimizer.safetensors").write_bytes(b"short")
    (folder / "checkpoint-6/manifest.json").unlink()
    (folder / "checkpoint-5/trainer_state.json").unlink()
    resumed = trainer(folder, seed=9)
    with pytest.warns(RuntimeWarning, match="checkpoint-4"):
        resumed.train(resume_from_checkpoint=True)
    assert bits(resumed) == whole[1]


def test_the_training_that_began_last_is_resumed(tmp_path):
    folder = tmp_path / "again"
    own = trainer(folder, seed=9)
    own.train()
    own.callbacks, own.args = [cut_at(4)], dataclasses.replace(own.args, save_steps=2, save_total_limit=1)
    with pytest.raises(Cut):
        own.train()
    assert (folder / "checkpoint-7").exists(), "another training's checkpoints are its own"
    assert trainer(folder, seed=9).train(resume_from_checkpoint=True).step == STEPS
    steps = [entry["step"] for entry in read_log(folder / "log.jsonl") if "loss" in entry]
    assert steps == list(range(1, STEPS + 1))


def test_a_branch_goes_on_from_its_own_checkpoints(whole, tmp_path):
    folder = tmp_path / "branch"
    shutil.copytree(whole[0], folder)
    with pytest.raises(Cut):
        trainer(folder, callbacks=[cut_at(5)], save_steps=4).train(resume_from_checkpoint=folder / "checkpoint-3")
    seen = []
    trainer(folder, callbacks=[lambda state: seen.append(state.step)]).train(resume_from_checkpoint=True)
    assert seen == [5, 6, 7]


def test_nothing_to_resume_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint-N"):
        trainer(tmp_path).train(resume_from_checkpoint=True)
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        trainer(tmp_path).train(resume_from_checkpoint=tmp_path / "checkpoint-3")
    model().save_pretrained(tmp_path / "checkpoint-3")
    with pytest.raises(llmc.CheckpointError, match="no checkpoint of a training"):
        trainer(tmp_path).train(resume_from_checkpoint=tmp_path / "checkpoint-3")


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "trainer_state.json", "config.json"])
def test_a_changed_file_is_refused_by_name(whole, tmp_path, name):
    path = tmp_path / "checkpoint-3"
    shutil.copytree(whole[0] / "checkpoint-3", path)
    content = bytearray((path / name).read_bytes())
    content[-3] ^= 1
    (path / name).write_bytes(content)
    with pytest.raises(llmc.CheckpointError, match=name):
        trainer(tmp_path / "out").train(resume_from_checkpoint=path)


@pytest.mark.parametrize("state", [b"[]", b'{"step": 3}', b'{"step": '])
def test_a_state_that_is_none_is_refused(whole, tmp_path, state):
    path = tmp_path / "checkpoint-3"
    shutil.copytree(whole[0] / "checkpoint-3", path)
    (path / "trainer_state.json").write_bytes(state)
    with pytest.raises(llmc.CheckpointError, match="trainer_state.json"):
        trainer(tmp_path / "out").train(resume_from_checkpoint=path)


def test_another_seed_or_other_data_are_refused(whole, tmp_path):
    class More(Rows):
        def __len__(self):
            return 12

    with pytest.raises(llmc.ConfigError, match="seed was 5, now it is 6"):
        changed = trainer(tmp_path)
        changed.args.seed = 6
        changed.train(resume_from_checkpoint=whole[0] / "checkpoint-3")
    with pytest.raises(llmc.ConfigError, match="length was 11, now it is 12"):
        trainer(tmp_path, data=More()).train(resume_from_checkpoint=whole[0] / "checkpoint-3")


def test_another_model_is_refused(whole, tmp_path):
    with pytest.raises(llmc.ConfigError, match="num_hidden_layers 2, the one to train 1"):
        trainer(tmp_path, of=model(n_layer=1)).train(resume_from_checkpoint=whole[0] / "checkpoint-3")
    with pytest.raises(llmc.ConfigError, match="resid_pdrop 0.1, the one to train 0.0"):
        trainer(tmp_path, of=model(resid_pdrop=0.0)).train(resume_from_checkpoint=whole[0] / "checkpoint-3")


@pytest.mark.parametrize("name, value", [("learning_rate", 2e-2), ("max_steps", STEPS + 1), ("adam_beta2", 0.9),
                                         ("router_learning_rate", 0.1), ("parameter_groups", [{"params": ["*"]}])])
def test_changed_arguments_are_said_by_name(whole, tmp_path, name, value):
    with pytest.warns(RuntimeWarning, match=f"{name} was .* now it is {re.escape(str(value))}"):
        trainer(tmp_path, **{name: value}).train(resume_from_checkpoint=whole[0] / "checkpoint-6")


def test_groups_of_parameters_resume_to_the_same_bits_and_nothing_is_said(tmp_path):
    groups = [{"params": "*attn*", "lr": 0.1}, {"params": ("transformer.wte.weight",), "weight_decay": 0}]
    whole = trainer(tmp_path / "whole", parameter_groups=groups)
    whole.train()
    cut = trainer(tmp_path / "cut", parameter_groups=groups)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cut.train(resume_from_checkpoint=tmp_path / "whole" / "checkpoint-3")
    assert bits(cut) == bits(whole)


def test_other_kernels_are_said(whole, tmp_path):
    path = tmp_path / "checkpoint-6"
    shutil.copytree(whole[0] / "checkpoint-6", path)
    state = json.loads((path / "trainer_state.json").read_text())
    state["kernels"]["instruction_set"] = "abacus"
    (path / "trainer_state.json").write_text(json.dumps(state))
    write_manifest(path)
    with pytest.warns(RuntimeWarning, match="instruction_set was abacus"):
        trainer(tmp_path / "out").train(resume_from_checkpoint=path)


@needs_bfloat16
def test_another_precision_is_said(whole, tmp_path):
    with pytest.warns(RuntimeWarning, match="precision was float32, now it is bfloat16: the bits will not be"):
        trainer(tmp_path, of=model(precision="bfloat16")).train(resume_from_checkpoint=whole[0] / "checkpoint-6")


# --- what is kept ----------------------------------------------------------------------------------------------------
def test_the_limit_keeps_the_newest_and_the_best(tmp_path):
    losses, damaged = {}, model()

    def damage(state):
        losses[state.step] = state.eval_loss
        if state.step == 3:
            damaged.state_dict()["transformer.wte.weight"][...] *= 20

    trained = trainer(tmp_path, of=damaged, save_total_limit=2, eval_steps=1, callbacks=[damage])
    result = trained.train()
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-6", "checkpoint-7", "checkpoint-best"}
    assert result.best_step == min(losses, key=losses.get) == 3 and result.best_eval_loss == losses[3]
    best = llmc.Trainer(llmc.Model.from_pretrained(tmp_path / "checkpoint-best"), trained.args, eval_dataset=Rows())
    assert best.evaluate()["eval_loss"] == losses[3]
    verify(tmp_path / "checkpoint-best")


def test_saving_copies_no_tensor(tmp_path):
    large = model(vocab_size=80000, n_embd=32, n_head=4)
    optimizer = llmc.AdamW(large)
    tracemalloc.start()
    save(tmp_path / "checkpoint-1", large, optimizer, TrainerState())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < large.state_dict()["transformer.wte.weight"].nbytes / 3


def test_checkpoints_hold_moments_of_every_parameter(whole):
    with llmc.checkpoint.open(whole[0] / "checkpoint-3/optimizer.safetensors") as moments:
        names = {name.split(".", 1)[1] for name in moments}
        assert names == set(llmc.Model.from_pretrained(whole[0] / "checkpoint-3")._parameters)
        assert all(np.isfinite(moments[name]).all() for name in moments)
