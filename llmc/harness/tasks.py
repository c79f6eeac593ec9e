"""Tasks of lm-evaluation-harness: found by their names, with their data, and asked of a model."""

import logging
import random

import numpy as np

from llmc.errors import DataError, UnknownNameError, nearest
from llmc.harness.language_model import LM

_SEED = 1234  # of the examples, as lm-evaluation-harness has it


def ask(model, tokenizer, tasks, limit=None, batch_size=8):
    """What `lm_eval.evaluate` finds.

    Parameters
    ----------
    model : Model
    tokenizer : Tokenizer
    tasks : dict
        What `tasks_of` gives.
    limit : int or None
        Questions of each task; None: all.
    batch_size : int
    """
    from lm_eval import evaluate

    random.seed(0)  # as lm-evaluation-harness' own command begins
    np.random.seed(_SEED)
    return evaluate(LM(model, tokenizer, batch_size), tasks, limit=limit, log_samples=False)


def tasks_of(names, num_fewshot=None, folder=None, say=lambda line: None):
    """The tasks and groups of these names with their data, as lm-evaluation-harness has them.

    Parameters
    ----------
    names : list of str
    num_fewshot : int or None
        Solved examples before each question; None: as the task says.
    folder : path or None
        With tasks of one's own.
    say : callable
        Told what takes long.

    Raises
    ------
    UnknownNameError
        For a name that is none.
    DataError
        For a task whose data is not to be had.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of every default that it takes
    manager = _manager(names, folder, say)
    for name in names:
        if name not in manager.all_tasks:
            raise UnknownNameError(f"no task is called {name!r}; {nearest(name, manager.all_tasks)}; "
                                   f"lm-eval ls tasks lists them")
    tasks = []
    for name in names:
        try:
            loaded = manager.load([name])
        except ImportError as error:
            raise ImportError(f"task {name}: {error}") from error
        except Exception as error:  # a task is a program
            raise DataError(f"task {name}: its data is not to be had: {error}; it is fetched from the hub of Hugging "
                            f"Face once, or lies where a task of your own says (--include-path)") from error
        tasks += [loaded["groups"][name]] if name in loaded["groups"] else loaded["tasks"].values()
    loaded = manager.load(tasks)
    for task in loaded["tasks"].values():
        _set_examples(task, num_fewshot)
    return loaded


def rows_of(found):
    """A row for each task and metric: `task, metric, value, stderr, examples, questions`."""
    rows = []
    for task, values in found["results"].items():
        for key, value in values.items():
            metric, _, way = key.partition(",")
            if not way or metric.endswith("_stderr"):
                continue
            error = values.get(f"{metric}_stderr,{way}")
            rows.append({"task": task, "metric": metric if way == "none" else f"{metric} ({way})", "value": value,
                         "stderr": error if isinstance(error, float) else None,
                         "examples": found["n-shot"].get(task),
                         "questions": found["n-samples"].get(task, {}).get("effective")})
    return rows


def _set_examples(task, number):
    """The examples before each question, as lm-evaluation-harness' own command has it: a task that says 0 keeps it."""
    said = task.get_config("num_fewshot")
    if said is None or said and number is not None:
        task.set_config(key="num_fewshot", value=number or 0)
    task.set_fewshot_seed(seed=_SEED)


def _manager(names, folder, say):
    """What knows the tasks of a folder, and of lm-evaluation-harness unless these are all in the folder."""
    from lm_eval.tasks import TaskManager

    if folder is not None:
        own = TaskManager(include_path=folder, include_defaults=False)
        if set(names) <= set(own.all_subtasks):
            return own
    say("reading which tasks there are, which takes lm-evaluation-harness a while")
    return TaskManager(include_path=folder)
