"""llmc train: a model on text files or token files, from scratch, from a checkpoint, or on from where it stopped."""

from llmc.cli import seeds, train_flags
from llmc.cli.outcome import Usage, say
from llmc.cli.parser import between, precision, threads, whole
from llmc.cli.sources import ends_in_bin, located_model
from llmc.cli.train_data import datasets, read_texts
from llmc.cli.train_model import CONFIG, config_file, new_config, tokenizer_for
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
from llmc.show.table import count, many

EXAMPLE = ("llmc train corpus.txt --hidden-size 256 --num-hidden-layers 4 --max-steps 500 "
           "--eval-steps 100 --output-dir out\n"
           "  llmc train --resume --output-dir out")
SCRATCH = {"learning_rate": 1e-3, "lr_scheduler_type": "cosine", "warmup_steps": 0.05, "weight_decay": 0.1}


def arguments(parser):
    """Its words."""
    parser.add_argument("data", nargs="*", metavar="FILE",
                        help='UTF-8 text, each file a document; or rows (.jsonl, .json, .csv, .parquet) of text, of '
                             'prompt and response, or of messages, of which the answers alone are learnt; or scenes '
                             '(.yaml, or a folder of them), likewise; or one '
                             '.bin of llmc tokenize, which may exceed memory')
    parser.add_argument("--eval-data", nargs="+", metavar="FILE",
                        help="files of the same kinds, to evaluate with [a share of the data]")
    parser.add_argument("--held-out", type=between(0, 0.9), metavar="SHARE",
                        help="without --eval-data, evaluate with this last share of the data; 0: none [0.05]")
    parser.add_argument("--block-size", type=whole(2), metavar="T",
                        help=f"tokens of a training item [the model's context, at most {LONGEST}]")
    parser.add_argument("--tokenizer", metavar="DIR",
                        help="the folder of a tokenizer, or a hub name [the model's; for a new model one trained on "
                             "the text]")
    parser.add_argument("--vocab-size", type=whole(257), metavar="V",
                        help="tokens of a tokenizer that is trained [4096]")
    parser.add_argument("--resume", action="store_true",
                        help="go on from the newest checkpoint in --output-dir, with its settings, to the same bits")
    parser.add_argument("--dry-run", action="store_true", help="say what it would take, and stop")
    model = parser.add_argument_group("model: one of the two, or a new one of these sizes")
    model.add_argument("--model", metavar="DIR", help="a checkpoint's folder, or a hub name [a new model]")
    model.add_argument("--config", metavar="FILE", help="a config.json, which the flags below change [none]")
    for name, (kind, what, default) in CONFIG.items():
        flag, text = f"--{name.replace('_', '-')}", f"{what} [{default}]"
        if kind is bool:
            model.add_argument(flag, action="store_true", default=None, help=text)
        else:
            model.add_argument(flag, type=kind, metavar="N" if kind is not str else "NAME", help=text)
    seeds.add(parser)
    train_flags.add(parser, SCRATCH)
    precision(parser)
    threads(parser)


def run(args):
    """Train, and print what it came to."""
    import llmc

    if args.seeds:
        return seeds.train_each("train", args, run)
    checkpoint, settings = _settings(args)
    training = training_arguments("train", settings["training"])
    source, inputs = checkpoint or args.model, reads(settings, args.model, args.tokenizer, args.config)
    if not checkpoint and not args.dry_run:
        refuse_occupied(training, inputs)
    tokens = ends_in_bin(settings["data"])
    texts = None if tokens else read_texts(settings["data"])
    if source:
        model = llmc.Model.from_pretrained(located_model(source), precision=settings["precision"])
        tokenizer = tokenizer_for(args, source, texts)
    else:
        config = config_file(args)
        tokenizer = tokenizer_for(args, None, texts, config and config.vocab_size)
        config = config or new_config(args, tokenizer, settings["data"])
        model = llmc.Model(config, seed=training.seed, precision=settings["precision"])
    settings["block_size"] = settings["block_size"] or min(model.config.max_position_embeddings, LONGEST)
    data, held_out = datasets(settings, texts, tokenizer, model.config.vocab_size)
    if args.dry_run:
        return print(forecast(model, training, data, settings["block_size"]))
    say(f"{count(model.num_parameters())} parameters, {many(len(data), 'block')} of up to {settings['block_size']} "
        f"tokens{'' if held_out is None else f', {len(held_out):,} held out'}; "
        f"everything goes to {training.output_dir}")
    trainer = llmc.Trainer(model, training, train_dataset=data, eval_dataset=held_out, tokenizer=tokenizer)
    trainer._reads = inputs
    carry_out("train", trainer, settings, checkpoint)


def _settings(args):
    """(checkpoint to resume from or None, settings): what was given, and in a resumed training what was given then."""
    given = {name: getattr(args, name) for name in ("data", "eval_data", "held_out", "block_size", "precision")}
    if not args.resume:
        if not args.data:
            raise Usage("train: which FILE to train on? (or --resume a training; see llmc train --help)")
        if args.model and (args.config or any(getattr(args, name) is not None for name in CONFIG)):
            raise Usage("train: --model is a model with its own sizes; leave --config and the sizes out")
        return None, begun(args, given, {} if args.model else SCRATCH)
    for name in ("model", "config", "tokenizer", "vocab_size", *CONFIG):
        if getattr(args, name) is not None:
            raise Usage(f"train: --resume goes on with the checkpoint's model and tokenizer; "
                        f"leave --{name.replace('_', '-')} out")
    checkpoint, settings = resumed("train", args, given)
    if not settings["data"]:
        missing = settings_file("train", settings["training"]["output_dir"])
        raise Usage(f"train: {missing} is not there to say what it was trained on; give FILE")
    return checkpoint, settings
