"""One training of a reproduction: begun, resumed, or found finished in its folder."""

import os
import shutil
import time

from llmc.analysis import arithmetic_accuracy
from llmc.lime.ledger import read_object
from llmc.lime.corpus import arithmetic_data, text_data, texts
from llmc.lime.recipes import arguments_of, config_of
from llmc.model import Model
from llmc.system.atomic import write_json
from llmc.train import Trainer
from llmc.train.checkpoint import BEST, found, newest
from llmc.errors import CheckpointError

RECIPE, RESULT = "recipe.json", "result.json"  # in a model's folder: what it is to be, and, when it is, what it came to
MODEL = ("config.json", "model.safetensors")


def result_of(folder, recipe):
    """What a finished training of this very recipe came to, or None."""
    result = read_object(os.path.join(folder, RESULT))
    there = all(os.path.isfile(os.path.join(folder, name)) for name in MODEL)
    return result if there and result is not None and result.get("recipe") == recipe else None


def require_ours(folder):
    """FileExistsError for a folder that no reproduction left, which a training would have to take away."""
    if os.path.isdir(folder) and os.listdir(folder) and read_object(os.path.join(folder, RECIPE)) is None:
        raise FileExistsError(f"{folder} is there and is no model of a reproduction; move it, or give another out")


def learn(recipe, folder, tell):
    """Train a model, from where its folder stands.

    Parameters
    ----------
    recipe : dict
    folder : path
        A model of another recipe in it goes.
    tell : callable
        Called after every step with a TrainerState.

    Returns
    -------
    dict
        What `result.json` holds: "recipe"; "loss" and "eval_loss" of the end; "seconds" of its steps and "cpu_seconds"
        of this process; of arithmetic "accuracy" on what is held out.
    """
    require_ours(folder)
    begun = read_object(os.path.join(folder, RECIPE)) == recipe
    if not begun:
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        write_json(os.path.join(folder, RECIPE), recipe)
    start = time.process_time()
    data, held_out, tokenizer = _data(recipe)
    model = Model(config_of(recipe), seed=recipe["seed"])
    trainer = Trainer(model, arguments_of(recipe, folder), data, held_out, tokenizer, callbacks=[tell])
    result = trainer.train(resume_from_checkpoint=begun and _can_resume(folder) or None)
    came = {"recipe": recipe, "loss": result.loss, "eval_loss": result.eval_loss, "seconds": result.seconds}
    if recipe["part"] == "arithmetic":
        came["accuracy"] = arithmetic_accuracy(model, held_out)["accuracy"]
    came["cpu_seconds"] = time.process_time() - start
    write_json(os.path.join(folder, RESULT), came)
    for name in [os.path.join(folder, BEST), *(path for *_, path in found(folder))]:
        shutil.rmtree(name, ignore_errors=True)
    return came


def _data(recipe):
    """(dataset to train on, dataset held out, tokenizer or None)."""
    wanted = recipe["data"]
    if recipe["part"] == "arithmetic":
        return *arithmetic_data(*(wanted[key] for key in ("operands", "rows", "held_out", "seed"))), None
    return *text_data(wanted["vocabulary"], wanted["length"]), texts(wanted["vocabulary"])[0]


def _can_resume(folder):
    try:
        newest(folder)
    except (FileNotFoundError, CheckpointError):  # stopped before the first one, or none is whole
        return False
    return True
