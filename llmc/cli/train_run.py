"""What llmc train and llmc lora do alike: the forecast, the training itself, and what its folder remembers of it."""

import os

from llmc.cli import train_flags
from llmc.cli.outcome import Usage
from llmc.cli.seeds import WORDS
from llmc.errors import CheckpointError
from llmc.show.table import Table, count

LONGEST = 512  # tokens of a training item, unless more are asked for
TRAINED = {"train": "model", "lora": "adapter"}  # what each command leaves


def training_arguments(command, values):
    """The TrainingArguments of these values; Usage where they are impossible."""
    from llmc import ConfigError, TrainingArguments

    try:
        return TrainingArguments(**values)
    except (ConfigError, TypeError) as error:
        raise Usage(f"{command}: {error}") from None


def last_checkpoint(output_dir):
    """The newest checkpoint that --resume goes on from."""
    from llmc.train.checkpoint import newest
    from llmc.train.output_folder import recover

    recover(output_dir)
    try:
        return newest(output_dir)
    except FileNotFoundError:
        several = os.path.lexists(os.path.join(output_dir, WORDS))
        advice = "its trainings are those of several seeds; name them with --seeds" if several else "leave --resume out"
        raise FileNotFoundError(f"{output_dir}: no checkpoint in it to go on from; {advice}") from None


def settings_file(command, output_dir):
    """Where it stands in the output folder what --resume need not be told again."""
    return os.path.join(output_dir, f"{command}.json")


def saved_settings(command, output_dir):
    """What a training was told; nothing when that is not there."""
    from llmc.config.json_files import read_json
    from llmc.system.small_file import is_there

    path = settings_file(command, output_dir)
    return read_json(path) if is_there(path) else {}


def begun(args, given, defaults):
    """The settings of a training that begins.

    Parameters
    ----------
    args : argparse.Namespace
    given : dict
        What the words say beside the fields of TrainingArguments.
    defaults : dict
        Of those fields, where the command has its own.

    Returns
    -------
    dict
        `given`, and the fields under "training".
    """
    return given | {"training": defaults | _training(args)}


def resumed(command, args, given):
    """(checkpoint, settings) of a training that goes on: what the words say now, else what they said when it began."""
    training = _training(args)
    if training.pop("overwrite_output_dir", False):
        raise Usage(f"{command}: --resume goes on with what is there, --overwrite replaces it; give one of them")
    output_dir = training["output_dir"]
    checkpoint, saved = last_checkpoint(output_dir), saved_settings(command, output_dir)
    said = {name: value for name, value in given.items() if value}
    return checkpoint, dict.fromkeys(given) | saved | said | {"training": saved.get("training", {}) | training}


def _training(args):
    """The fields of TrainingArguments that were given; the folder in any case."""
    from llmc import TrainingArguments

    return {"output_dir": TrainingArguments.output_dir, **train_flags.given(args)}


def reads(settings, *others):
    """The files and folders that a training reads, of its settings and `others`."""
    return [*settings["data"], *(settings["eval_data"] or ()), *filter(None, others)]


def refuse_occupied(training, inputs, adapter=False):
    """Raise ConfigError, before the work, where `output_dir` holds what another run left and may not be overwritten."""
    from llmc.train.output_folder import OutputFolder

    OutputFolder(training.output_dir, training.overwrite_output_dir, inputs, adapter)


def carry_out(command, trainer, settings, checkpoint):
    """Train, from a checkpoint or None, and print what it came to.

    Parameters
    ----------
    command : "train" or "lora"
    trainer : llmc.Trainer
    settings : dict
        What --resume is to know.
    checkpoint : str or None
    """
    output_dir = trainer.args.output_dir
    if not checkpoint:
        trainer._beside = {os.path.basename(settings_file(command, output_dir)): _remembered(settings)}
    try:
        result = trainer.train(resume_from_checkpoint=checkpoint)
    except KeyboardInterrupt:
        saved = checkpoint or trainer._owned
        farewell = _farewell(command, output_dir) if saved else "stopped before the first step; nothing was saved"
        raise KeyboardInterrupt(farewell) from None
    print(Table(["step", "epoch", "loss", "eval_loss", "perplexity", "tokens", "seconds", "tokens/s"], [
        {"step": result.step, "epoch": result.epoch, "loss": result.loss, "eval_loss": result.eval_loss,
         "perplexity": result.perplexity, "tokens": result.tokens, "seconds": result.seconds,
         "tokens/s": round(result.tokens / result.seconds) if result.seconds else None}],
        f"the {TRAINED[command]} is in {output_dir}, its losses in {os.path.join(output_dir, 'loss.png')}"))


def forecast(model, training, data, length):
    """A table of what a training takes, of the model or of the adapters that train.

    Parameters
    ----------
    model : llmc.Model
    training : TrainingArguments
    data : dataset
    length : int
        Tokens of an item.

    Returns
    -------
    Table
    """
    batch = training.per_device_train_batch_size
    estimate = model.estimate(batch=batch, length=length, train=True)
    trained = model.trained().values()
    per_epoch = -(-len(data) // (batch * training.gradient_accumulation_steps))
    steps = training.max_steps if training.max_steps > 0 else round(training.num_train_epochs * per_epoch)
    flops = estimate["flops"] * training.gradient_accumulation_steps
    rows = {"parameters": f"{model.num_parameters():,}", "parameters that train": f"{sum(a.size for a in trained):,}",
            "items": f"{len(data):,}", "steps": f"{steps:,}", "steps of an epoch": f"{per_epoch:,}",
            "FLOPs of a step": count(flops), "FLOPs": count(steps * flops), "memory": count(estimate["memory"], "B"),
            "a checkpoint on disk": count(3 * sum(a.nbytes for a in trained), "B")}
    return Table(["what", "value"], [{"what": what, "value": value} for what, value in rows.items()])


def _remembered(settings):
    """The settings as a training that goes on needs them: from any folder, and with nothing to overwrite."""
    paths = {name: settings[name] and list(map(os.path.abspath, settings[name])) for name in ("data", "eval_data")}
    training = {name: value for name, value in settings["training"].items() if name != "overwrite_output_dir"}
    return {**settings, **paths, "training": training}


def _farewell(command, output_dir):
    """What a user is told after Ctrl-C."""
    from llmc.train.checkpoint import newest

    try:
        return (f"stopped; {newest(output_dir)} is saved, and llmc {command} --resume --output-dir {output_dir} goes "
                f"on from it")
    except (FileNotFoundError, CheckpointError):
        return "stopped before the first step; there is no checkpoint"
