"""The benchmarks of llmc eval: tasks of lm-evaluation-harness, and what a model reaches in them."""

import json
import os

from llmc.cli.outcome import Usage, say
from llmc.cli.parser import whole
from llmc.cli.sources import located_model, model_and_tokenizer
from llmc.show.table import Table
from llmc.system import hub

_FLAGS = ("num_fewshot", "limit", "include_path", "out")  # of benchmarks alone
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
    from llmc.harness.tasks import ask, rows_of, tasks_of  # first: without lm_eval it says what to install

    hub.located(located_model(args.model), patterns=("config.json",))  # a slip of the pen is said at once
    tasks = tasks_of(_names(args), args.num_fewshot, args.include_path, say)
    model, tokenizer = model_and_tokenizer(args.model, True, args.dtype, args.precision)
    found = ask(model, tokenizer, tasks, args.limit, args.batch_size)
    print(Table(["task", "metric", "value", "stderr", "examples", "questions"], rows_of(found)))
    if args.out is not None:
        _write(args, found)


def _write(args, found):
    from lm_eval import __version__ as version
    from lm_eval.utils import handle_non_serializable

    from llmc import __version__
    from llmc.system.atomic import write_json

    kept = {name: found[name] for name in _KEPT if name in found}
    kept = json.loads(json.dumps(kept, default=handle_non_serializable))
    write_json(args.out, {"model": args.model, "llmc": __version__, "lm_eval": version,
                          "num_fewshot": args.num_fewshot, "limit": args.limit, **kept})
