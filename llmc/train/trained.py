"""Trained: the files of what a training changes, the model or its adapters."""

from llmc import checkpoint
from llmc.errors import ConfigError
from llmc.lora import adapter_files
from llmc.lora.lora_config import LoraConfig

_NOT_COMPARED = ("base_model_name_or_path", "peft_version", "revision")


def adapters(model):
    """The names of the adapters that a training changes; none where it changes the model itself."""
    merged = model.adapters.merged() and not model.adapters.computing()
    return [] if merged else model.adapters.trained()


def write(directory, model):
    """Write a model as transformers opens it, or its adapters that train as peft does, into a folder."""
    names = adapters(model)
    if not names:
        model._write(directory)
    for name in names:
        model.save_adapter(directory, name)


def read(directory, model):
    """Take over what `write` wrote.

    Raises
    ------
    ConfigError
        When an adapter's config is not that of its namesake here.
    CheckpointError, ShapeError, FileNotFoundError
        When files are damaged, missing, or of another model.
    """
    if not model.adapters:
        with checkpoint.open(directory) as tensors:
            model.load_state_dict(tensors)
        return
    arrays = {}
    for name in model.adapters.trained():
        folder = adapter_files.folder_of(directory, name)
        _compare(folder, name, LoraConfig.from_pretrained(folder), model.adapters.saved_config(name))
        arrays |= model.adapters.read(folder, name)
    model.adapters.overwrite(arrays)


def _compare(folder, name, theirs, ours):
    there, here = theirs.to_dict(), ours.to_dict()
    for field in here:
        if field not in _NOT_COMPARED and there.get(field) != here[field]:
            raise ConfigError(f"{folder}: {field} of adapter {name!r} was {there.get(field)!r}, now it is "
                              f"{here[field]!r}; set it back, or train without resume_from_checkpoint")
