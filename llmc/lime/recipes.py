"""Recipes: what each model of a reproduction is and how it is trained, as JSON; two trainings are one if theirs are."""

import json

from llmc.analysis.lime.flops import flops
from llmc.config import Config
from llmc.lime.paper import SIZES, arguments
from llmc.lime.scales import ARITHMETIC_MODELS, TEXT_MODELS

WARM_UP = 0.05  # of the steps on text
PIECES, LEAST = 10, 50  # evaluations of a training, and checkpoints; and steps between two of them
STEP, SPEED = 3e-3, 35e9  # seconds of a step beside its products, and FLOPs a second: a guess at what is left to do


def recipes_of(scale, seed, operands=None):
    """Every model of a scale.

    Parameters
    ----------
    scale : Scale
    seed : int
        Of the first model; of models that differ in their seed the next ones follow.
    operands : sequence of int, optional
        In place of the scale's.

    Returns
    -------
    dict
        {name: recipe}; a recipe is a dict of "part" ("text", "deep" or "arithmetic"), "config", "data", "arguments" and
        "seed", fit for JSON. Models that are compared have the same seed, so that what is called and shaped alike in
        two of them begins alike, and read the same rows in the same order.
    """
    found = {}
    if scale.text:
        found |= {name: _on_text("text", name, scale, scale.text, {}, seed) for name in scale.text.models}
    if scale.deep:
        found |= {f"{name}-{depth}": _on_text("deep", name, scale, scale.deep, {"num_hidden_layers": depth}, seed)
                  for name in scale.deep.models for depth in scale.deep.depths}  # fmt: skip
    if scale.arithmetic:
        found |= {arithmetic_name(number, name, at): _on_arithmetic(name, scale.arithmetic, number, seed + at)
                  for number in operands or scale.arithmetic.operands for at in range(scale.arithmetic.seeds)
                  for name in ARITHMETIC_MODELS}  # fmt: skip
    return json.loads(json.dumps(found))  # as a file gives them back


def arithmetic_name(operands, name, seed):
    """The name of a model of the arithmetic task."""
    return f"aet-{operands}-{name}-{seed}"


def config_of(recipe):
    """The configuration of a recipe's model."""
    return Config(**recipe["config"])


def arguments_of(recipe, folder):
    """The TrainingArguments of a recipe."""
    return arguments(folder, **recipe["arguments"])


def cost_of(recipe):
    """About how many seconds a training takes on one thread."""
    settings, length = recipe["arguments"], recipe["data"]["length"]
    work = 3 * flops(config_of(recipe), length) * settings["per_device_train_batch_size"]
    return settings["max_steps"] * (STEP + work / SPEED)


def _on_text(kind, name, scale, part, changes, seed):
    model_type, own = TEXT_MODELS[name]
    sizes = {"vocab_size": scale.vocabulary, "max_position_embeddings": part.length, "tie_word_embeddings": True,
             "bos_token_id": None, "eos_token_id": None}  # fmt: skip
    return {"part": kind, "config": {"model_type": model_type} | sizes | part.fields | changes | own,
            "data": {"vocabulary": scale.vocabulary, "length": part.length},
            "arguments": {"size": "1b", "learning_rate": part.learning_rate, "warmup_steps": WARM_UP,
                          "gradient_accumulation_steps": 1}
            | _steps(part.steps, part.batch, seed), "seed": seed}  # fmt: skip


def _on_arithmetic(name, part, operands, seed):
    model_type, own = TEXT_MODELS[name]
    return {"part": "arithmetic", "config": {"model_type": model_type} | SIZES["aet"] | own,
            "data": {"operands": operands, "rows": part.rows, "held_out": part.held_out,
                     "seed": seed, "length": 8 * operands},
            "arguments": {"size": "aet"} | _steps(part.steps_of(operands), part.batch, seed), "seed": seed}  # fmt: skip


def _steps(steps, batch, seed):
    every = min(steps, max(LEAST, -(-steps // PIECES)))
    return {"max_steps": steps, "per_device_train_batch_size": batch, "per_device_eval_batch_size": 8 * batch,
            "eval_steps": every, "save_steps": every, "save_total_limit": 1, "logging_steps": steps, "seed": seed,
            "disable_tqdm": True}  # fmt: skip
