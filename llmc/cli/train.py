"""llmc train: a model on text files or token files, from scratch, from a checkpoint, or on from where it stopped."""

import os

from llmc.cli import train_flags
from llmc.cli.outcome import Usage, say
from llmc.cli.parser import between, threads, whole
from llmc.cli.sources import ends_in_bin, located
from llmc.cli.train_data import datasets, read_texts
from llmc.cli.train_model import CONFIG, config_file, new_config, tokenizer_for
from llmc.errors import CheckpointError
from llmc.table import Table, count

EXAMPLE = ("llmc train corpus.txt --hidden-size 256 --num-hidden-layers 4 --max-steps 500 "
           "--eval-steps 100 --output-dir out\n"
           "  llmc train --resume --output-dir out")
SETTINGS = "train.json"  # in the output folder: what --resume need not be told again
SCRATCH = {"learning_rate": 1e-3, "lr_scheduler_type": "cosine", "warmup_steps": 0.05, "weight_decay": 0.1}
LONGEST = 512  # tokens of a block, unless more are asked for


def arguments(parser):
    """Its words."""
    parser.add_argument("data", nargs="*", metavar="FILE",
                        help="UTF-8 text, each file a document; or one .bin of llmc tokenize, which may exceed memory")
    parser.add_argument("--eval-data", nargs="+", metavar="FILE", help="the same, to evaluate with")
    parser.add_argument("--held-out", type=between(0, 0.9), metavar="SHARE",
                        help="without --eval-data, evaluate with this last share of the data [0.05]; 0: none")
    parser.add_argument("--block-size", type=whole(2), metavar="T",
                        help=f"tokens of a training item [the model's context, at most {LONGEST}]")
    parser.add_argument("--tokenizer", metavar="DIR", help="[the model's; for a new model one trained on the text]")
    parser.add_argument("--vocab-size", type=whole(257), metavar="V", help="of a tokenizer that is trained [4096]")
    parser.add_argument("--resume", action="store_true",
                        help="go on from the newest checkpoint in --output-dir, with its settings, to the same bits")
    parser.add_argument("--dry-run", action="store_true", help="say what it would take, and stop")
    model = parser.add_argument_group("model: one of the two, or a new one of these sizes")
    model.add_argument("--model", metavar="DIR", help="a checkpoint's folder, or a hub name")
    model.add_argument("--config", metavar="FILE", help="a config.json; the flags below change it")
    for name, (kind, default) in CONFIG.items():
        flag, text = f"--{name.replace('_', '-')}", f"[{default}]"
        if kind is bool:
            model.add_argument(flag, action="store_true", default=None, help=text)
        else:
            model.add_argument(flag, type=kind, metavar="N" if kind is not str else "NAME", help=text)
    train_flags.add(parser, SCRATCH)
    threads(parser)


def run(args):
    """Train, and print what it came to."""
    import llmc

    checkpoint, settings = _settings(args)
    training = training_arguments("train", settings["training"])
    source = checkpoint or args.model
    tokens = ends_in_bin(settings["data"])
    texts = None if tokens else read_texts(settings["data"])
    if source:
        model = llmc.Model.from_pretrained(located(source))
        tokenizer = tokenizer_for(args, source, texts)
    else:
        config = config_file(args)
        tokenizer = tokenizer_for(args, None, texts, config and config.vocab_size)
        model = llmc.Model(config or new_config(args, tokenizer, settings["data"]), seed=training.seed)
    settings["block_size"] = settings["block_size"] or min(model.config.max_position_embeddings, LONGEST)
    data, held_out = datasets(settings, texts, tokenizer, model.config.vocab_size)
    if args.dry_run:
        return print(_forecast(model, training, data, settings["block_size"]))
    say(f"{count(model.num_parameters())} parameters, {len(data):,} blocks of up to {settings['block_size']} "
        f"tokens{'' if held_out is None else f', {len(held_out):,} held out'}; "
        f"everything goes to {training.output_dir}")
    trainer = llmc.Trainer(model, training, train_dataset=data, eval_dataset=held_out, tokenizer=tokenizer)
    if not checkpoint:
        _remember(training.output_dir, settings)
    try:
        result = trainer.train(resume_from_checkpoint=checkpoint)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(farewell("train", training.output_dir)) from None
    print(result_table(result, training.output_dir, "model"))


def result_table(result, output_dir, what):
    """What a training came to, in a row."""
    return Table(["step", "epoch", "loss", "eval_loss", "perplexity", "tokens", "seconds", "tokens/s"], [
        {"step": result.step, "epoch": result.epoch, "loss": result.loss, "eval_loss": result.eval_loss,
         "perplexity": result.perplexity, "tokens": result.tokens, "seconds": result.seconds,
         "tokens/s": round(result.tokens / result.seconds) if result.seconds else None}],
        f"the {what} is in {output_dir}, its losses in {os.path.join(output_dir, 'loss.png')}")


def _settings(args):
    """(checkpoint to resume from or None, settings): what was given, and in a resumed training what was given then."""
    from llmc import TrainingArguments

    given = {name: getattr(args, name) for name in ("data", "eval_data", "held_out", "block_size")}
    training = train_flags.given(args)
    output_dir = training.get("output_dir", TrainingArguments.output_dir)
    if not args.resume:
        if not args.data:
            raise Usage("train: which FILE to train on? (or --resume a training; see llmc train --help)")
        if args.model and (args.config or any(getattr(args, name) is not None for name in CONFIG)):
            raise Usage("train: --model is a model with its own sizes; leave --config and the sizes out")
        scratch = {} if args.model else SCRATCH
        return None, {**given, "training": {**scratch, "output_dir": output_dir, **training}}
    from llmc.train.checkpoint import newest

    for name in ("model", "config", "tokenizer", "vocab_size", *CONFIG):
        if getattr(args, name) is not None:
            raise Usage(f"train: --resume goes on with the checkpoint's model and tokenizer; "
                        f"leave --{name.replace('_', '-')} out")
    try:
        checkpoint = newest(output_dir)
    except FileNotFoundError:
        raise FileNotFoundError(f"{output_dir}: no checkpoint in it to go on from; leave --resume out") from None
    saved = saved_settings(output_dir, SETTINGS)
    settings = {name: value or saved.get(name) for name, value in given.items()}
    if not settings["data"]:
        missing = os.path.join(output_dir, SETTINGS)
        raise Usage(f"train: {missing} is not there to say what it was trained on; give FILE")
    return checkpoint, {**settings, "training": {**saved.get("training", {}), **training, "output_dir": output_dir}}


def saved_settings(output_dir, file):
    """What a training was told, from the file in its folder; nothing when it is not there."""
    from llmc.config_file import read_json

    path = os.path.join(output_dir, file)
    return read_json(path) if os.path.exists(path) else {}


def _remember(output_dir, settings):
    from llmc.checkpoint.atomic import write_json

    paths = {name: settings[name] and [os.path.abspath(path) for path in settings[name]]
             for name in ("data", "eval_data")}  # fmt: skip
    os.makedirs(output_dir, exist_ok=True)
    write_json(os.path.join(output_dir, SETTINGS), {**settings, **paths})


def training_arguments(command, values):
    """The TrainingArguments of these values; Usage where they are impossible."""
    from llmc import ConfigError, TrainingArguments

    try:
        return TrainingArguments(**values)
    except (ConfigError, TypeError) as error:
        raise Usage(f"{command}: {error}") from None


def farewell(command, output_dir):
    """What a user is told after Ctrl-C."""
    from llmc.train.checkpoint import newest

    try:
        return (f"stopped; {newest(output_dir)} is saved, and llmc {command} --resume --output-dir {output_dir} goes "
                f"on from it")
    except (FileNotFoundError, CheckpointError):
        return "stopped before the first step; there is no checkpoint"


def _forecast(model, training, data, length):
    """A table of what a training takes."""
    batch = training.per_device_train_batch_size
    estimate = model.estimate(batch=batch, length=length, train=True)
    per_epoch = -(-len(data) // (batch * training.gradient_accumulation_steps))
    steps = training.max_steps if training.max_steps > 0 else round(training.num_train_epochs * per_epoch)
    flops = estimate["flops"] * training.gradient_accumulation_steps
    rows = {"parameters": f"{model.num_parameters():,}", "blocks": f"{len(data):,}", "steps": f"{steps:,}",
            "steps of an epoch": f"{per_epoch:,}", "FLOPs of a step": count(flops), "FLOPs": count(steps * flops),
            "memory": count(estimate["memory"], "B"),
            "a checkpoint on disk": count(3 * estimate["parameters"], "B")}
    return Table(["what", "value"], [{"what": what, "value": value} for what, value in rows.items()])
