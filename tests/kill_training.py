"""Kill trainings with SIGKILL at random instants: no checkpoint is lost, and the end has the bits of an unbroken run.

    python tests/kill_training.py --kills 1000

A child trains a tiny model with dropout, accumulation, evaluation and rotation; the parent kills it, looks at what it
left, and lets the next child resume, until one arrives at the end; then a new training begins.
"""

import argparse
import hashlib
import math
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time

import matplotlib.backends.backend_agg  # noqa: F401: imported once, so that a child's time is its training's
import matplotlib.figure  # noqa: F401

import llmc
from llmc.checkpoint import verify
from llmc.train.log import read_log

SAVE_STEPS = 3
STEPS = 24
LIMIT = 2


class Rows:
    """Rows of unequal length, the same in every process."""

    def __len__(self):
        return 11

    def __getitem__(self, index):
        return {"input_ids": [(7 * index + 3 * t * t) % 31 for t in range(4 + index % 5)]}


def train(output_dir, resume):
    """Train to the end, from where a killed training was."""
    config = llmc.Config(model_type="gpt2", vocab_size=31, n_positions=16, n_embd=12, n_layer=2, n_head=2)
    args = llmc.TrainingArguments(
        output_dir=output_dir, max_steps=STEPS, per_device_train_batch_size=2, gradient_accumulation_steps=2,
        learning_rate=1e-2, warmup_steps=4, eval_steps=4, save_steps=SAVE_STEPS, save_total_limit=LIMIT, seed=5,
        disable_tqdm=True,
    )
    trainer = llmc.Trainer(llmc.Model(config, seed=2), args, train_dataset=Rows(), eval_dataset=Rows())
    trainer.train(resume_from_checkpoint=resume)


def in_child(output_dir, resume, die_after=None):
    """Train in a forked child, which is killed after so many seconds; whether it arrived at the end."""
    child = os.fork()
    if child == 0:
        sys.stderr = open(os.devnull, "w")
        code = 1
        try:
            train(output_dir, resume)
            code = 0
        except BaseException as error:
            print(f"the child failed: {type(error).__name__}: {error}", file=sys.__stderr__, flush=True)
        finally:
            os._exit(code)
    end = time.monotonic() + (math.inf if die_after is None else die_after)
    ended, status = 0, 0
    while not ended and time.monotonic() < end:
        time.sleep(0.001)
        ended, status = os.waitpid(child, os.WNOHANG)
    if not ended:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise AssertionError(f"a training failed in {output_dir}")
    return os.WIFEXITED(status)


def digest(output_dir):
    """One word for the finished model, and for model, moments and best of the last checkpoint."""
    sha = hashlib.sha256()
    for name in ("model.safetensors", f"checkpoint-{STEPS}/model.safetensors",
                 f"checkpoint-{STEPS}/optimizer.safetensors", "checkpoint-best/model.safetensors"):
        with open(os.path.join(output_dir, name), "rb") as file:
            sha.update(file.read())
    return sha.hexdigest()


def inspect(output_dir):
    """Assert that every checkpoint in sight is whole and none is lost; the newest one's step."""
    names = os.listdir(output_dir) if os.path.isdir(output_dir) else []
    for name in names:
        if name.startswith("checkpoint-"):
            verify(os.path.join(output_dir, name))
    steps = [int(name.removeprefix("checkpoint-")) for name in names if re.fullmatch(r"checkpoint-\d+", name)]
    newest = max(steps, default=0)
    log = os.path.join(output_dir, "log.jsonl")
    logged = max((entry["step"] for entry in read_log(log)), default=0) if os.path.exists(log) else 0
    lasting = (logged - 1) // SAVE_STEPS * SAVE_STEPS  # saved before the step that was logged last
    assert newest >= lasting, f"{output_dir}: step {logged} was logged, the newest checkpoint is {newest}"
    assert len(steps) <= LIMIT + 1
    return newest


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", default="/dev/shm" if os.path.isdir("/dev/shm") else None, help="where to train")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    folder = tempfile.mkdtemp(prefix="llmc-kill-", dir=options.folder)
    whole = os.path.join(folder, "whole")
    begin = time.monotonic()
    in_child(whole, None)
    lasts = time.monotonic() - begin
    expected, kills, trainings = digest(whole), 0, 0
    assert inspect(whole) == STEPS
    while kills < options.kills:
        output_dir, step, arrived = os.path.join(folder, f"training-{trainings}"), 0, False
        while not arrived:
            die = chance.uniform(0, lasts) if kills < options.kills else None
            begin = time.monotonic()
            arrived = in_child(output_dir, True if step else None, die)
            if arrived and not step:
                lasts = time.monotonic() - begin
            kills += die is not None and not arrived
            before, step = step, inspect(output_dir)
            assert step >= before, f"{output_dir}: checkpoint-{before} was there, now the newest is {step}"
        assert digest(output_dir) == expected, f"{output_dir}: resumed to other bits"
        llmc.Model.from_pretrained(output_dir)
        assert sorted(os.listdir(output_dir)) == sorted(os.listdir(whole)), f"{output_dir}: something was left behind"
        shutil.rmtree(output_dir)
        trainings += 1
    shutil.rmtree(folder)
    print(f"{kills} kills in {trainings} trainings: no checkpoint lost, all resumed to the same bits")


if __name__ == "__main__":
    main()
