"""Checkpoints of a training: folders that appear whole, are found again, and resume to the same bits."""

import os
import re
import shutil
from collections.abc import Mapping

import numpy as np

from llmc.calls import warn
from llmc import checkpoint
from llmc.system.atomic import require_space, staged_directory, temporary_directory
from llmc.errors import CheckpointError, ConfigError, NonFiniteError
from llmc.lora import adapter_files
from llmc.train import trained
from llmc.train.state import read_state, write_state

BEST = "checkpoint-best"
OPTIMIZER = "optimizer.safetensors"
_NUMBERED = re.compile(r"checkpoint-(\d+)")
_ROOM = 16 << 20  # bytes, for all that is no weight

# A changed value makes another training: refused, or said, by name. The others only decide what is written when.
_REFUSED = ("seed",)
_SAID = ("per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "router_learning_rate",
         "parameter_groups", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "warmup_ratio", "weight_decay",
         "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "on_nonfinite")


def save(path, model, optimizer, state, tokenizer=None, **beside):
    """Write a checkpoint: the model as transformers opens it, or the adapters that train as peft does, the tokenizer,
    the moments (not without an optimizer: weights alone), the state, a manifest.

    It appears at `path` at one instant, when all is on the disk; the model is never copied in memory.

    Raises
    ------
    NonFiniteError
        When a parameter or a moment is not finite; nothing is written.
    OSError
        When the place cannot be written to, or the disk is too small; what was there stays.
    """
    parameters, tensors = model.trained(), _moments(optimizer) if optimizer else {}
    require_finite(path, {**parameters, **tensors})
    require_room(os.path.dirname(os.path.abspath(path)), model, optimizer)
    with staged_directory(path) as folder:
        trained.write(folder, model)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        if optimizer:
            apart = os.path.join(folder, ".optimizer")  # no adapter is called so
            checkpoint.write(apart, tensors, max_shard_size=_nbytes(tensors))
            os.rename(os.path.join(apart, "model.safetensors"), os.path.join(folder, OPTIMIZER))
            os.rmdir(apart)
        write_state(folder, state, **beside)
        checkpoint.write_manifest(folder)


def require_names(model):
    """Raise ConfigError when an adapter that trains is called as a checkpoint is: their folders lie side by side."""
    for name in model.adapters.trained():
        if name == BEST or _NUMBERED.fullmatch(name):
            raise ConfigError(f"adapter {name!r} is called as a checkpoint is, and would lie in its place in "
                              f"output_dir; give it another adapter_name")


def is_checkpoint(folder, name):
    """Whether a folder's entry is a checkpoint of a training, by its name."""
    return (name == BEST or bool(_NUMBERED.fullmatch(name))) and os.path.isdir(os.path.join(folder, name))


def require_room(folder, model, optimizer):
    """Raise OSError unless the disk of a folder has room for one more checkpoint; of weights without an optimizer."""
    moments = _nbytes(_moments(optimizer)) if optimizer else 0
    require_space(folder, _nbytes(model.trained()) + moments + _ROOM)


def _require_moments(path):
    """Raise CheckpointError for weights alone: a manifest that holds, without moments."""
    if not os.path.lexists(os.path.join(path, OPTIMIZER)):
        raise _WeightsAlone(f"{path} holds weights alone (save_only_model=True), not what resuming needs; resume from "
                            f"a whole checkpoint, or open it with llmc.Model.from_pretrained and train from step 1")


class _WeightsAlone(CheckpointError):
    """A checkpoint that is as it should be, and not to be resumed from."""


def _moments(optimizer):
    moments = optimizer.state_dict()
    return {f"{kind}.{name}": view for kind in ("exp_avg", "exp_avg_sq") for name, view in moments[kind].items()}


def _nbytes(arrays):
    return sum(view.nbytes for view in arrays.values())


def require_finite(path, arrays):
    """Raise NonFiniteError, with the name of the first array that is not finite, before it is written to `path`."""
    if bad := first_nonfinite(arrays):
        raise NonFiniteError(f"{path}: {bad} is not finite; nothing was saved")


def first_nonfinite(arrays):
    """The name of the first array that holds a number that is not finite, or None; nothing is copied."""
    return next((name for name, array in arrays.items() if not np.isfinite([array.min(), array.max()]).all()), None)


def link(source, path):
    """Make `path` a checkpoint with the files of `source`, which lie on the disk once where it has links."""
    with staged_directory(path) as folder:
        shutil.copytree(source, folder, copy_function=_link, dirs_exist_ok=True)


def _link(source, target):
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def found(output_dir):
    """The checkpoints `checkpoint-N` of a folder, the newest first: (started, step, path)."""
    rows = []
    for name in os.listdir(output_dir) if os.path.isdir(output_dir) else ():
        if match := _NUMBERED.fullmatch(name):
            path = os.path.join(output_dir, name)
            try:
                rows.append((read_state(path)[0].started, int(match[1]), path))
            except (CheckpointError, OSError):
                rows.append((0.0, int(match[1]), path))
    return sorted(rows, reverse=True)


def newest(output_dir):
    """The path of the newest checkpoint that is whole, of the training that began last; weights alone are not.

    Raises
    ------
    FileNotFoundError
        When there is no checkpoint.
    CheckpointError
        When none of them is whole.
    """
    reasons, alone = [], []
    for _, _, path in found(output_dir):
        try:
            checkpoint.verify(path)
            read_state(path)
            _require_moments(path)
        except _WeightsAlone:
            alone.append(os.path.basename(path))
            continue
        except (CheckpointError, OSError) as error:
            reasons.append(str(error))
            continue
        reasons += _passed_over(alone)
        for reason in reasons:
            warn(f"{reason}; resuming from {path}", RuntimeWarning)
        return path
    if reasons or alone:
        reasons += _passed_over(alone)
        raise CheckpointError(f"{output_dir}: no checkpoint is whole: {'; '.join(reasons)}")
    raise FileNotFoundError(f"{output_dir}: no checkpoint-N to resume from; train without resume_from_checkpoint")


def _passed_over(names):
    """What is said of checkpoints that are weights alone, the newest first, in a line or none."""
    if not names:
        return []
    hold = f"{names[-1]} to {names[0]} hold" if len(names) > 1 else f"{names[0]} holds"
    return [f"{hold} weights alone (save_only_model=True), not what resuming needs"]


def newest_path(output_dir, started):
    """The newest checkpoint of the training that began at `started`, or None."""
    return next((path for began, _, path in found(output_dir) if began == started), None)


def of_one_training(path, output_dir):
    """Whether a checkpoint is of a training that has checkpoints in a folder."""
    try:
        return newest_path(output_dir, read_state(path)[0].started) is not None
    except (CheckpointError, OSError):  # it is refused in words when it is read
        return False


def rotate(output_dir, limit, started):
    """Remove the oldest checkpoints of the training that began at `started`, so that `limit` are left.

    The newest is verified before; each goes from its place at one instant.
    """
    own = [path for began, _, path in found(output_dir) if began == started]
    if len(own) <= limit:
        return
    checkpoint.verify(own[0])
    for path in own[limit:]:
        with temporary_directory(output_dir, os.path.basename(path)) as folder:
            os.rename(path, os.path.join(folder, os.path.basename(path)))


def load(path, model, optimizer, args, max_steps, dataset_length, kernels):
    """Take over a checkpoint: parameters, moments, and the state, which is returned.

    Raises
    ------
    CheckpointError
        When it is damaged, weights alone, or no checkpoint of a training; the message names the file.
    ConfigError
        When it is of another model, other data or another seed.
    FileNotFoundError
        When it is not there.

    Warns
    -----
    RuntimeWarning
        When arguments or kernels are not those it was made with, so that the bits will differ.
    """
    path = os.fspath(path)
    if not os.path.isdir(path):
        raise FileNotFoundError(f"{path}: no such checkpoint")
    state, beside = read_state(path)
    checkpoint.verify(path)
    _require_moments(path)
    _compare_models(path, model)
    _compare(path, "train_dataset's length", beside.get("dataset_length"), dataset_length, refused=True)
    before = beside.get("args") or {}
    for name in _REFUSED:
        _compare(path, name, before.get(name), getattr(args, name), refused=True)
    for name in _SAID:
        _compare(path, name, before.get(name), getattr(args, name))
    _compare(path, "max_steps", state.max_steps, max_steps)
    for name, value in kernels.items():
        _compare(path, name, (beside.get("kernels") or {}).get(name), value)
    with checkpoint.open(os.path.join(path, OPTIMIZER)) as moments:
        trained.read(path, model)
        optimizer.load_state_dict({"step": state.updates} | {
            kind: _Moments(moments, kind) for kind in ("exp_avg", "exp_avg_sq")})
    state.max_steps = max_steps
    return state


class _Moments(Mapping):
    """{parameter: moment} of one kind, read from the optimizer's file one at a time."""

    def __init__(self, file, kind):
        self._names = {name.removeprefix(f"{kind}."): name for name in file if name.startswith(f"{kind}.")}
        self._file = file

    def __getitem__(self, name):
        return self._file[self._names[name]]

    def __iter__(self):
        return iter(self._names)

    def __len__(self):
        return len(self._names)


def _compare_models(path, model):
    there, here = adapter_files.names_in(path), model.adapters.trained()
    if set(there) != set(here):
        raise ConfigError(f"{path} holds {_described(there)}, but what is to be trained is {_described(here)}; train "
                          f"without resume_from_checkpoint, or what was trained before")
    if here:
        return
    theirs, ours = type(model.config).from_pretrained(path), model.config
    found, wanted = _described_model(theirs), _described_model(ours)
    for name in {**wanted, **found}:
        there, here = found.get(name), wanted.get(name)
        if there != here:
            raise ConfigError(f"{path}: its model has {name} {there}, the one to train {here}; open the model that is "
                              f"to be trained from there")


def _described_model(config):
    """{name: value} of all that decides what a model computes, a layer's own behind what all layers share."""
    spec = config.spec()
    layers = spec.pop("layers")
    fields = {"model_type": config.model_type, **spec, "rope_parameters": config.rope_parameters}
    return fields | {f"{name} of layer {i}": value for i, layer in enumerate(layers) for name, value in layer.items()}


def _described(adapters):
    if adapters in ([], ["default"]):
        return "an adapter" if adapters else "a whole model"
    return f"adapter{'s' * (len(adapters) > 1)} {', '.join(adapters)}"


def _compare(path, name, there, here, refused=False):
    if there == here:
        return
    if refused:
        raise ConfigError(f"{path}: {name} was {there}, now it is {here}, so the data would come in another order; "
                          f"set it back, or train without resume_from_checkpoint")
    warn(f"{path}: {name} was {there}, now it is {here}: the bits will not be those of the training that was "
         f"interrupted", RuntimeWarning)
