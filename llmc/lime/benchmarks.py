"""Table 1, the benchmarks: asked where lm-evaluation-harness is, and the data of the tasks."""

import os
from importlib.util import find_spec

import numpy as np

from llmc.lime.paper import TASKS
from llmc.lime.sheets import SHEETS

EXAMPLES = 1  # before each question
FIRST = "ai2_arc"  # the first tasks' data, as a cache calls it
METRICS = ("acc_norm,none", "acc,none")  # the first that a task has


def left_out(why):
    """In words for the page."""
    return f"{SHEETS['table1'][0]}.csv is left out: {why}."


def why_not():
    """Why the tasks cannot be asked, so far as that is known at once; None where they may be."""
    if find_spec("lm_eval") is None:
        return "lm-evaluation-harness is not installed (pip install 'llmc[eval]')"
    if not any(FIRST in name for folder in _caches() if os.path.isdir(folder) for name in os.listdir(folder)):
        return (f"the data of its tasks is not on this machine; `llmc eval models/lime --tasks {','.join(TASKS)} "
                f"--num-fewshot {EXAMPLES}` fetches it")  # fmt: skip
    return None


def benchmarks(here):
    """A row of each model: `model`, the accuracy in each task (of normalised likelihoods where the task has it), their
    `mean`, and of how many `questions` each.

    Raises
    ------
    DataError
        For a task whose data is not to be had.
    """
    from llmc.harness.tasks import ask, tasks_of

    tasks, rows = tasks_of(list(TASKS), EXAMPLES), []
    for name in here.at_one_depth():
        found = ask(here.model(name), here.tokenizer(), tasks, here.scale.analysed.questions)
        right = {task: next(found["results"][task][each] for each in METRICS if each in found["results"][task])
                 for task in TASKS}  # fmt: skip
        rows.append({"model": name, **right, "mean": float(np.mean(list(right.values()))),
                     "questions": here.scale.analysed.questions})
    return rows


def _caches():
    from huggingface_hub import constants

    yield constants.HF_HUB_CACHE
    yield os.environ.get("HF_DATASETS_CACHE") or os.path.join(constants.HF_HOME, "datasets")
