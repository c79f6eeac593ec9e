"""The benchmarks of llmc eval: tasks of lm-evaluation-harness, and what a model reaches in them."""

import json
import logging
import os
import random

from llmc.cli.outcome import Usage, say
from llmc.cli.parser import whole
from llmc.cli.sources import located_model, model_and_tokenizer
from llmc.errors import DataError, UnknownNameError, nearest
from llmc.show.table import Table
from llmc.system import hub

_FLAGS = ("num_fewshot", "limit", "include_path", "out")  # of benchmarks alone
_SEED = 1234  # of the examples, as lm-evaluation-harness has it
_KEPT = ("results", "groups", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples")


def add(parser):
    """Add their words."""
    parser.add_argument("--tasks", metavar="NAMES",
                        help="benchmarks of lm-evaluation-harness in place of a text, with commas between: "
                             "arc_easy,arc_challenge,winogrande,copa,multirc,rte,hellaswag,piqa [none]")
    parser.add_argument("--num-fewshot", type=whole(0), metavar="N",
                        help="solved examples before each question [as the task says, else none]")
    parser.add_argument("--limit", type=whole(1), metavar="N",
                        help="ask the first N questions of each task alone [all]")
    parser.add_argument("--include-path", metavar="DIR",
                        help="a folder with tasks of your own, YAML files [none]")
    parser.add_argument("--out", metavar="X.json",
                        help="write all that was found: metrics, settings, versions [none]")


def check(args):
    """Refuse what cannot be before the work begins."""
    if args.tasks is None:
        for name in _FLAGS:
            if getattr(args, name) is not None:
                raise Usage(f"eval: --{name.replace('_', '-')} goes with --tasks")
        return
    if args.block_size is not None:
        raise Usage("eval: --block-size goes with --text; in a task a model reads all that it can")
    if args.out is not None and os.path.splitext(args.out)[1] != ".json":
        raise Usage(f"eval: {args.out}: results are written as .json")
    if args.include_path is not None and not os.path.isdir(args.include_path):
        raise NotADirectoryError(f"{args.include_path}: no folder; --include-path names one with YAML files of tasks")
    names = _names(args)
    if not all(names) or len(set(names)) < len(names):
        raise Usage(f"eval: --tasks {args.tasks}: names with commas between, each once")


def _names(args):
    return [name.strip() for name in args.tasks.split(",")]


def run(args):
    """Print a table with a row for each metric, and write what --out names."""
    from llmc import harness  # first: without lm_eval it says what to install

    import numpy as np
    from lm_eval import evaluate

    hub.located(located_model(args.model), patterns=("config.json",))  # a slip of the pen is said at once
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of every default that it takes
    tasks = _tasks(args)
    for task in tasks["tasks"].values():
        _set_examples(task, args.num_fewshot)
    model, tokenizer = model_and_tokenizer(args.model, True, args.dtype, args.precision)
    random.seed(0)  # as lm-evaluation-harness' own command begins
    np.random.seed(_SEED)
    found = evaluate(harness.LM(model, tokenizer, args.batch_size), tasks, limit=args.limit, log_samples=False)
    print(Table(["task", "metric", "value", "stderr", "examples", "questions"], _rows(found)))
    if args.out is not None:
        _write(args, found)


def _tasks(args):
    """The tasks and groups of these names with their data, as lm-evaluation-harness has them.

    Raises
    ------
    UnknownNameError
        For a name that is none.
    DataError
        For a task whose data is not to be had.
    """
    names = _names(args)
    manager = _manager(names, args.include_path)
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
    return manager.load(tasks)


def _set_examples(task, number):
    """The examples before each question, as lm-evaluation-harness' own command has it: a task that says 0 keeps it."""
    said = task.get_config("num_fewshot")
    if said is None or said and number is not None:
        task.set_config(key="num_fewshot", value=number or 0)
    task.set_fewshot_seed(seed=_SEED)


def _manager(names, folder):
    """What knows the tasks of a folder, and of lm-evaluation-harness unless these are all in the folder."""
    from lm_eval.tasks import TaskManager

    if folder is not None:
        own = TaskManager(include_path=folder, include_defaults=False)
        if set(names) <= set(own.all_subtasks):
            return own
    say("reading which tasks there are, which takes lm-evaluation-harness a while")
    return TaskManager(include_path=folder)


def _rows(found):
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


def _write(args, found):
    from lm_eval import __version__ as version
    from lm_eval.utils import handle_non_serializable

    from llmc import __version__
    from llmc.system.atomic import write_json

    kept = {name: found[name] for name in _KEPT if name in found}
    kept = json.loads(json.dumps(kept, default=handle_non_serializable))
    write_json(args.out, {"model": args.model, "llmc": __version__, "lm_eval": version,
                          "num_fewshot": args.num_fewshot, "limit": args.limit, **kept})
