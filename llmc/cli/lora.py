"""llmc lora: train a low-rank adapter of a model on texts, on prompts and their responses, or on scenes."""

import argparse
import os
import re

from llmc.cli import seeds, train_flags
from llmc.cli.outcome import Usage, say
from llmc.cli.parser import between, storage, threads, whole
from llmc.cli.sources import are_rows, ends_in_bin, located_model, tokenizer_of
from llmc.cli.train_data import HELD_OUT, datasets, read_texts
from llmc.cli.train_run import (
    LONGEST,
    begun,
    carry_out,
    forecast,
    reads,
    refuse_occupied,
    resumed,
    settings_file,
    training_arguments,
)
from llmc.show.table import many

EXAMPLE = ('llmc lora llmc-demo answers.jsonl --target-modules attention --layers-to-transform 0-3 --output-dir new\n'
           '  llmc generate new "a prompt"')
TRAINING = {"learning_rate": 2e-4, "lr_scheduler_type": "cosine", "warmup_steps": 0.05}
ADAPTER = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": ["all-linear"], "bias": "none",
           "init_lora_weights": "true"}


def arguments(parser):
    """Its words."""
    parser.add_argument("model", nargs="?", metavar="DIR", help="the base: a checkpoint's folder, or a hub name")
    parser.add_argument("data", nargs="*", metavar="FILE",
                        help='UTF-8 text; or rows (.jsonl, .json, .csv, .parquet) of text, of prompt and response, '
                             'or of messages, of which the answers alone are learnt; or scenes (.yaml, or a folder of '
                             'them), likewise; or one .bin of llmc tokenize')
    parser.add_argument("--eval-data", nargs="+", metavar="FILE",
                        help="files of the same kinds, to evaluate with [a share of the data]")
    parser.add_argument("--held-out", type=between(0, 0.9), metavar="SHARE",
                        help=f"without --eval-data, evaluate with this last share of the data, of scenes a share that "
                             f"their ids choose; 0: none [{HELD_OUT}]")
    parser.add_argument("--block-size", type=whole(2), metavar="T",
                        help=f"tokens of a training item [the model's context, at most {LONGEST}]")
    parser.add_argument("--resume", action="store_true",
                        help="go on from the newest checkpoint in --output-dir, with its settings, to the same bits")
    parser.add_argument("--dry-run", action="store_true",
                        help="say what would get an adapter and what training it would take, and stop")
    adapter = parser.add_argument_group("adapter (peft's LoraConfig)")
    adapter.add_argument("--r", type=whole(1), metavar="R", help="the rank: the inner width of A and B [16]")
    adapter.add_argument("--lora-alpha", type=between(0, float("inf"), open_low=True), metavar="X",
                         help="the adapter is scaled by lora-alpha / r [32]")
    adapter.add_argument("--lora-dropout", type=between(0, 0.99), metavar="X",
                         help="the share of an adapter's input that is dropped in training [0]")
    adapter.add_argument("--target-modules", nargs="+", metavar="NAME",
                         help="domain (q, v), context (q, k, v), attention (q, k, v, o), mlp (gate, up, down), "
                              "all-linear; or names; or a regular expression over whole paths [all-linear]")
    adapter.add_argument("--layers-to-transform", type=spans, metavar="LAYERS",
                         help="the layers that get an adapter, as 0-3,8 [all]")
    adapter.add_argument("--modules-to-save", nargs="+", metavar="NAME",
                         help="modules that train whole, such as lm_head [none]")
    adapter.add_argument("--bias", choices=("none", "all", "lora_only"),
                         help="biases that train too: none, all, or lora_only, those of adapted modules [none]")
    adapter.add_argument("--use-rslora", action="store_true", default=None,
                         help="scale by lora-alpha / sqrt(r) in place of lora-alpha / r")
    adapter.add_argument("--init-lora-weights", choices=("true", "gaussian", "orthogonal", "false"),
                         help="how A starts, as in peft; false: B is random too [true]")
    seeds.add(parser)
    train_flags.add(parser, TRAINING, "here")
    storage(parser)
    threads(parser)


def run(args):
    """Train, and print what it came to."""
    import llmc

    if args.seeds:
        return seeds.train_each("lora", args, run)
    checkpoint, settings = _settings(args)
    training = training_arguments("lora", settings["training"])
    inputs = reads(settings, settings["model"])
    if not checkpoint and not args.dry_run:
        refuse_occupied(training, inputs, adapter=True)
    model = llmc.Model.from_pretrained(located_model(settings["model"]), dtype=settings.get("dtype") or "float32",
                                       precision=settings.get("precision"))
    if checkpoint:
        model.load_adapter(checkpoint, is_trainable=True)
    else:
        model.add_adapter(_config(settings["adapter"]), seed=training.seed)
    tokenizer = tokenizer_of(checkpoint or settings["model"])
    settings["block_size"] = settings["block_size"] or min(model.config.max_position_embeddings, LONGEST)
    data, held_out = _datasets(settings, tokenizer, model.config.vocab_size)
    model.print_trainable_parameters()
    if args.dry_run:
        return print(f"\n{forecast(model, training, data, settings['block_size'])}")
    say(f"{many(len(data), 'item')} of up to {settings['block_size']} tokens"
        f"{'' if held_out is None else f', {len(held_out):,} held out'}; everything goes to {training.output_dir}")
    trainer = llmc.Trainer(model, training, train_dataset=data, eval_dataset=held_out, tokenizer=tokenizer)
    trainer._reads = inputs
    carry_out("lora", trainer, settings, checkpoint)


def spans(text):
    """The numbers of "0-3,8"."""
    numbers = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise argparse.ArgumentTypeError(f"{text!r} is no list of layers, as 0-3,8 is")
        numbers += range(int(match[1]), int(match[2] or match[1]) + 1)
    return numbers


def _config(values):
    """The LoraConfig of the flags."""
    from llmc import ConfigError, LoraConfig
    from llmc.lora.presets import PRESETS

    values = {name: value for name, value in values.items() if value is not None}
    targets = values["target_modules"]
    if len(targets) == 1 and (targets[0] in PRESETS or re.search(r"[\\*+?|()\[\]^$]", targets[0])):
        values["target_modules"] = targets[0]
    start = values["init_lora_weights"]
    values["init_lora_weights"] = start == "true" if start in ("true", "false") else start
    try:
        return LoraConfig(task_type="CAUSAL_LM", **values)
    except ConfigError as error:
        raise Usage(f"lora: {error}") from None


_FLAGS = ("r", "lora_alpha", "lora_dropout", "target_modules", "layers_to_transform", "modules_to_save", "bias",
          "use_rslora", "init_lora_weights")


def _settings(args):
    """(checkpoint to resume from or None, settings): what was given, and in a resumed training what was given then."""
    names = ("model", "data", "eval_data", "held_out", "block_size", "dtype", "precision")
    given = {name: getattr(args, name) for name in names}
    adapter = {name: getattr(args, name) for name in _FLAGS if getattr(args, name) is not None}
    if not args.resume:
        if not args.data:
            raise Usage("lora: which DIR to adapt, on which FILE? (or --resume a training; see llmc lora --help)")
        given["model"] = os.path.abspath(args.model) if os.path.isdir(args.model) else args.model
        return None, begun(args, given | {"adapter": ADAPTER | adapter}, TRAINING)
    if adapter or args.model:
        name = f"--{next(iter(adapter)).replace('_', '-')}" if adapter else "DIR and FILE"
        raise Usage(f"lora: --resume goes on with the checkpoint's adapter of its base; leave {name} out")
    checkpoint, settings = resumed("lora", args, given)
    if not settings["model"] or not settings["data"]:
        missing = settings_file("lora", settings["training"]["output_dir"])
        raise Usage(f"lora: {missing} is not there to say what was adapted, on what")
    return checkpoint, settings


def _datasets(settings, tokenizer, vocab_size):
    """(to train on, to evaluate with or None), of text, tokens, rows or scenes."""
    files = settings["data"]
    if tokenizer is None and not ends_in_bin(files):
        raise FileNotFoundError(f"{settings['model']}: no tokenizer in it to read {files[0]} with; put one there")
    texts = None if ends_in_bin(files) or are_rows(files) else read_texts(files)
    return datasets(settings, texts, tokenizer, vocab_size)
