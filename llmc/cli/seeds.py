"""--seeds of llmc train and llmc lora: one training with each seed, and how far their losses lie apart."""

import argparse
import os
import re

from llmc.cli.outcome import Usage, say
from llmc.errors import ConfigError

WORDS = "seeds.json"  # what all seeds of a folder were told
_FOLDER = re.compile(r"seed-(\d+)")
_OWN = ("seeds", "seed", "output_dir", "resume", "overwrite_output_dir", "dry_run", "debug", "num_threads",
        "disable_tqdm")  # fmt: skip
_FILES = ("data", "eval_data", "model", "tokenizer", "config")
_LONGER = ("max_steps", "num_train_epochs")


def add(parser):
    """Add --seeds."""
    text = ("train once with each of these seeds, into seed-N of --output-dir, with one tokenizer, draw the losses and "
            "print their mean and deviation; what is finished stays, so more may follow [one training, of --seed]")
    parser.add_several(parser, "--seeds", _seeds, "N…", text)


def train_each(command, args, run):
    """Train with each seed, then draw the losses of all seeds of the folder, and print their mean and deviation.

    Parameters
    ----------
    command : "train" or "lora"
    args : argparse.Namespace
    run : callable
        What the command does with the words of one training.
    """
    from llmc import TrainingArguments
    from llmc.system.atomic import write_json

    if args.seed is not None:
        raise Usage(f"{command}: --seed is of one training, --seeds of several; give one of them")
    out = args.output_dir or TrainingArguments.output_dir
    words = _told(command, args, out)
    trainings = [_of_seed(args, seed, out, words) for seed in args.seeds if not _is_kept(args, seed, out)]
    if args.dry_run:
        say(f"{len(trainings)} of {len(args.seeds)} seeds are to be trained, each as this one")
        return [run(each) for each in trainings[:1]]
    _refuse_occupied(args, trainings, out)
    os.makedirs(out, exist_ok=True)
    write_json(os.path.join(out, WORDS), words)
    for place, each in enumerate(trainings, 1):
        say(f"seed {each.seed}, {place} of {len(trainings)}")
        try:
            run(_with_tokenizer(command, each, out, [later.seed for later in trainings[place - 1 :]]))
        except KeyboardInterrupt:
            seeds = " ".join(map(str, args.seeds))
            raise KeyboardInterrupt(f"stopped in seed {each.seed}; llmc {command} --resume --seeds {seeds} "
                                    f"--output-dir {out} goes on") from None
    _conclude(out)


def _seeds(text):
    """The seeds of "0 1 2"."""
    words = text.split()
    if wrong := next((word for word in words if not word.isdecimal() or int(word) >= 2**64), None):
        raise argparse.ArgumentTypeError(f"{wrong!r} is no seed, a whole number from 0 to 2^64 - 1")
    seeds = list(map(int, words))
    for place, seed in enumerate(seeds):
        if seed in seeds[:place]:
            raise argparse.ArgumentTypeError(f"{seed} stands there twice; a seed is trained once")
    return seeds


def _told(command, args, out):
    """The words that all seeds share: those of now, in a resumed training beside those of then.

    Raises
    ------
    ConfigError
        When other seeds of the folder were told something else.
    """
    from llmc.config.json_files import read_json
    from llmc.system.small_file import is_there

    path = os.path.join(out, WORDS)
    before = read_json(path) if is_there(path) else {}
    words = {"command": command} | {name: _absolute(name, value) for name, value in _given(args).items()}
    if args.resume:
        if before.get("command") != command:
            raise Usage(f"{command}: {path} does not say what llmc {command} --seeds was told; leave --resume out")
        return before | words
    others = [seed for seed in _found(out) if not (args.overwrite_output_dir and seed in args.seeds)]
    for name in {**before, **words} if others else ():
        if before.get(name) != words.get(name):
            raise ConfigError(f"{out}: seed {others[0]} was trained with {name} {before.get(name)}, now it is "
                              f"{words.get(name)}; give the same words, or another --output-dir")
    return words


def _given(args):
    return {name: value for name, value in vars(args).items() if name not in _OWN and value not in (None, [])}


def _absolute(name, value):
    """Names of files as they are from any folder; those of the hub stay."""
    if name not in _FILES:
        return value
    if isinstance(value, list):
        return list(map(os.path.abspath, value))
    return os.path.abspath(value) if os.path.exists(value) else value


def _place(out, seed):
    return os.path.join(out, f"seed-{seed}")


def _found(out):
    """The seeds that have a folder, in order."""
    names = os.listdir(out) if os.path.isdir(out) else ()
    return sorted(int(match[1]) for match in map(_FOLDER.fullmatch, names) if match)


def _is_finished(folder):
    """Whether a model or an adapter lies in a folder itself: it comes there last."""
    from llmc.checkpoint import WEIGHTS
    from llmc.lora.adapter_files import holds_adapter

    return holds_adapter(folder) or any(os.path.lexists(os.path.join(folder, name)) for name in WEIGHTS)


def _is_kept(args, seed, out):
    """Whether a seed is finished, and is neither to be replaced nor to go on for longer."""
    longer = args.resume and any(getattr(args, name) is not None for name in _LONGER)
    return _is_finished(_place(out, seed)) and not args.overwrite_output_dir and not longer


def _of_seed(args, seed, out, words):
    """The words of one training; with --resume one that was not begun is told what the others were."""
    from llmc.train.checkpoint import found

    values = vars(args) | {"seeds": None, "seed": seed, "output_dir": _place(out, seed)}
    if args.resume and not found(_place(out, seed)):
        values |= {name: value for name, value in words.items() if name in values} | {"resume": False}
    return argparse.Namespace(**values)


def _refuse_occupied(args, trainings, out):
    """Raise ConfigError, before the first training, where another run has left something."""
    from llmc.train.output_folder import held

    if there := held(out):
        raise ConfigError(f"{out} holds {there} of another run; name another --output-dir for --seeds")
    for each in trainings:
        there = held(each.output_dir)
        if there and not each.resume and not args.overwrite_output_dir:
            raise ConfigError(f"{each.output_dir} holds {there} of a training that is not finished; go on with it "
                              f"(--resume), or replace it (--overwrite)")


def _with_tokenizer(command, args, out, pending):
    """The words of a training whose tokenizer is that of a seed before it, where each would make the same one."""
    from llmc.tokenizer.tokenizer_files import holds_tokenizer

    if command == "train" and not (args.resume or args.tokenizer or args.model):
        others = (_place(out, seed) for seed in _found(out) if seed not in pending)
        args.tokenizer = next((folder for folder in others if holds_tokenizer(folder)), None)
    return args


def _conclude(out):
    """Draw the losses of all finished seeds, and print them."""
    from llmc.train.output_folder import PICTURE
    from llmc.train.together import plot_runs, read_runs, spread_of, table_of

    runs = read_runs([_place(out, seed) for seed in _found(out) if _is_finished(_place(out, seed))])
    picture = os.path.join(out, PICTURE)
    try:
        plot_runs(runs, picture)
        say(f"{picture}: the losses of all seeds")
    except ImportError as error:
        say(f"warning: no {PICTURE}: {error}")
    print(f"{table_of(runs)}\n{spread_of(runs)}")
