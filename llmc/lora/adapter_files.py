"""An adapter's files as peft lays them out: adapter_config.json and adapter_model.safetensors or .bin."""

import contextlib
import os
import re

import numpy as np

from llmc import checkpoint
from llmc.system.atomic import sync, temporary_directory
from llmc.errors import CheckpointError, ConfigError, NonFiniteError, ShapeError, nearest
from llmc.lora import lora_config
from llmc.system.small_file import is_there

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
PREFIX = "base_model.model."
_TWICE = re.compile(r".*\.(modules_to_save|original_module)\.bias")  # peft's, of bias="all" beside modules_to_save
_FLOATS = ("float32", "float16", "bfloat16", "float64")


def folder_of(directory, name):
    """Where the files of adapter `name` stand: the default one's in `directory` itself, others' in `directory/name`."""
    return os.fspath(directory) if name == "default" else os.path.join(directory, name)


def find(directory, name):
    """The folder to read adapter `name` from: its own in `directory`, or `directory` itself.

    Raises
    ------
    FileNotFoundError
        When there is no adapter in either.
    """
    places = dict.fromkeys([folder_of(directory, name), os.fspath(directory)])
    for place in places:
        if holds_adapter(place):
            return place
    raise FileNotFoundError(f"{os.path.join(directory, lora_config.FILE)}: there is no such file; an adapter's folder "
                            f"holds {lora_config.FILE} and {WEIGHTS[0]}")


def names_in(directory):
    """The names of the adapters whose files lie in a folder, as `folder_of` places them."""
    others = sorted(name for name in os.listdir(directory) if os.path.isdir(os.path.join(directory, name)))
    return [name for name in ("default", *others) if holds_adapter(folder_of(directory, name))]


def holds_adapter(folder):
    """Does an adapter lie in the folder itself?"""
    return is_there(os.path.join(folder, lora_config.FILE))


def base_of(folder):
    """The base that a folder with an adapter names, where it holds none itself; None for any other folder.

    Raises
    ------
    ConfigError
        When it names none.
    """
    if not holds_adapter(folder) or any(os.path.lexists(os.path.join(folder, name)) for name in checkpoint.WEIGHTS):
        return None
    path, base = os.path.join(folder, lora_config.FILE), lora_config.LoraConfig.from_pretrained(folder)
    base = base.base_model_name_or_path
    if not base:
        raise ConfigError(f"{path}: an adapter that does not say which base it is of (base_model_name_or_path); open "
                          f"the base, and load_adapter({str(folder)!r})")
    if os.path.isdir(base) and os.path.samefile(base, folder):
        raise ConfigError(f"{path}: base_model_name_or_path {base!r} names itself, and no base is in this folder; open "
                          f"the base, and load_adapter({str(folder)!r})")
    return base


def save(directory, config, tensors, safe_serialization=True, dtype="float32"):
    """Write an adapter; each of its two files appears whole, in the place of its predecessor.

    Parameters
    ----------
    directory : path
    config : LoraConfig
    tensors : dict
        {key in the file: array}.
    safe_serialization : bool
        Write safetensors; otherwise torch's format. Weights in the other one are removed: a reader takes what it
        finds first.
    dtype : "float32", "bfloat16" or "float16"
        Of safetensors.

    Raises
    ------
    NonFiniteError
        When a number is not finite; nothing is written.
    OSError
        When the place cannot be written to, or is full; what was there stays.
    """
    for key, array in tensors.items():
        if not np.isfinite(array).all():
            raise NonFiniteError(f"{directory}: {key} is not finite; nothing was saved")
    os.makedirs(directory, exist_ok=True)
    written, other = WEIGHTS if safe_serialization else WEIGHTS[::-1]
    with temporary_directory(directory, WEIGHTS[0]) as temporary:
        if safe_serialization:
            checkpoint.write(temporary, tensors, dtype=dtype, max_shard_size=1 << 62)
            os.rename(os.path.join(temporary, "model.safetensors"), os.path.join(temporary, written))
        else:
            singles = {key: np.asarray(array, np.float32) for key, array in tensors.items()}
            checkpoint.write_torch(os.path.join(temporary, written), singles)
        config.save_pretrained(temporary)
        for file in (written, lora_config.FILE):
            os.replace(os.path.join(temporary, file), os.path.join(directory, file))
    with contextlib.suppress(FileNotFoundError):
        os.remove(os.path.join(directory, other))
    sync(directory)


def load(folder, wanted, beside):
    """The tensors of an adapter, checked against those that the model expects.

    Parameters
    ----------
    folder : path
    wanted : dict
        {key in the file: shape}.
    beside : dict
        {key: array} of base weights that peft may store along; they must be the model's own.

    Returns
    -------
    dict
        {key in the file: float array}.

    Raises
    ------
    FileNotFoundError
        When there is no file of weights.
    CheckpointError, ShapeError
        When a tensor is missing, surplus, of another shape, or not finite; the message names it, and both shapes.
    """
    path = weights_in(folder)
    with checkpoint.open(path) as stored:
        found = keys_in(stored)
        _check_names(path, found, wanted, beside)
        for key in wanted:
            shape = tuple(stored.shape(found[key]))
            if shape != tuple(wanted[key]):
                raise ShapeError(f"{path}: {found[key]} has shape {shape}, this model needs {tuple(wanted[key])}: "
                                 f"{_resized(key, shape, wanted[key], beside)}the adapter is of another base, or its "
                                 f"adapter_config.json is of another adapter")
        tensors = {key: numbers(path, stored, found[key]) for key in wanted}
        for key in [key for key in beside if key in found and key not in wanted]:
            theirs = numbers(path, stored, found[key])
            ours = np.asarray(beside[key]).astype(stored.dtype(found[key])).astype(theirs.dtype)
            if theirs.shape != ours.shape or not np.allclose(theirs, ours, rtol=0, atol=1e-6):
                raise CheckpointError(f"{path}: {found[key]} is a weight of the base, and not this model's: "
                                      f"{_resized(key, theirs.shape, ours.shape, beside)}the adapter was trained on "
                                      f"another base, or on one that was resized")
    return tensors


def weights_in(folder):
    """The path of an adapter's tensors.

    Raises
    ------
    FileNotFoundError
        When there is none.
    """
    path = next((path for path in (os.path.join(folder, file) for file in WEIGHTS) if is_there(path)), None)
    if path is None:
        raise FileNotFoundError(f"{os.path.join(folder, WEIGHTS[0])}: there is no such file, nor {WEIGHTS[1]}")
    return path


def keys_in(stored):
    """{key as peft writes it: the file's} of what counts in an opened file."""
    return {key if key.startswith(PREFIX) else PREFIX + key: key for key in stored.names() if not _TWICE.fullmatch(key)}


def _resized(key, theirs, ours, beside):
    """What to do about a vocabulary that differs; nothing for any other difference."""
    if key not in beside or theirs[1:] != tuple(ours[1:]) or theirs == tuple(ours):
        return ""
    return f"model.resize_token_embeddings({theirs[0]}) gives it as many rows; otherwise "


def _check_names(path, found, wanted, beside):
    missing = [key for key in wanted if key not in found]
    surplus = [found[key] for key in found if key not in wanted and key not in beside]
    if not missing and not surplus:
        return
    said = [f"{word} {', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}"
            for word, names in (("missing", missing), ("surplus", surplus)) if names]
    near = nearest(surplus[0], wanted) if surplus else nearest(missing[0], found)
    raise CheckpointError(f"{path}: the tensors are not those of its adapter_config.json on this model: "
                          f"{'; '.join(said)}{f' ({near})' if near else ''}; the adapter is of another base")


def numbers(path, stored, name):
    """A tensor of an opened file of an adapter in float32, or in float64; CheckpointError where it is not finite."""
    if str(stored.dtype(name)) not in _FLOATS:
        raise CheckpointError(f"{path}: {name} has dtype {stored.dtype(name)}; adapters are {', '.join(_FLOATS)}")
    array = np.asarray(stored[name], dtype=np.float64 if str(stored.dtype(name)) == "float64" else np.float32)
    if not np.isfinite(array).all():
        raise CheckpointError(f"{path}: {name} holds numbers that are not finite; the adapter is broken")
    return array
