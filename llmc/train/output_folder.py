"""The folder that a run writes into: what another run left in it is refused, or set aside until it has a successor."""

import os
import re
import shutil

from llmc import checkpoint
from llmc.errors import ConfigError
from llmc.lora import adapter_files, lora_config
from llmc.system.aside import Aside
from llmc.tokenizer import tokenizer_files
from llmc.train.checkpoint import is_checkpoint
from llmc.train.log import LOG

PICTURE = "loss.png"
SETTINGS = ("train.json", "lora.json", "demo.json")  # what a command was told
CONFIG = "config.json"
_SHARD = re.compile(r"(pytorch_)?model-\d+-of-\d+\.(safetensors|bin)")
_FILES = {CONFIG, "generation_config.json", *checkpoint.WEIGHTS, *adapter_files.WEIGHTS, lora_config.FILE, LOG, PICTURE,
          *SETTINGS, *tokenizer_files.FILES, "chat_template.jinja"}  # fmt: skip
WAYS = ("go on with it (resume_from_checkpoint=True, on the command line --resume), replace it "
        "(overwrite_output_dir=True, --overwrite), or name another folder")


class OutputFolder:
    """A folder that a run is about to write into; a context in which it does.

    What another run left there is set aside when the context begins, removed by `succeeded`, and put back when the
    context ends without.

    Parameters
    ----------
    path : str
    overwrite : bool
        Replace what another run left.
    inputs : iterable of str
        Files and folders that this run reads; names of the hub may be among them.
    own : bool
        What is there is this very run's, which goes on.
    adapter : bool
        What will be written is an adapter.
    ways : str
        What a user can do about an occupied folder.

    Raises
    ------
    ConfigError
        When the folder is occupied and may not be overwritten, or an adapter would come into the folder of a model.
        Nothing is changed.
    BusyError
        When another run has set aside what was there, and has written nothing yet.
    """

    def __init__(self, path, overwrite=False, inputs=(), adapter=False, own=False, ways=WAYS):
        self.path, self._aside = path, None
        recover(path)
        refuse_adapter(path, adapter)
        self.occupied = "" if own else held(path)
        if not self.occupied:
            return
        if read := next((each for each in inputs if each and _lies_in(each, path)), None):
            raise ConfigError(f"{path} holds {self.occupied}, and {read}, which this run reads: it is not overwritten; "
                              f"name another folder")
        if not overwrite:
            raise ConfigError(f"{path} holds {self.occupied} of another run; {ways}")

    def __enter__(self):
        os.makedirs(self.path, exist_ok=True)
        if self.occupied:
            self._aside = Aside(self.path, _files_of_a_run(self.path))
        return self

    def succeeded(self):
        """The first checkpoint, or the model, is there: what was set aside goes."""
        if self._aside:
            self._aside.discard()
            self._aside = None

    def __exit__(self, kind, error, trace):
        if self._aside:
            _put_back(self.path, self._aside)
            self._aside = None


def held(path):
    """What a run has left in a folder that is worth keeping, in words; empty for none: its log alone is not."""
    if not os.path.isdir(path):
        return ""
    said = ["a model"] if any(os.path.lexists(os.path.join(path, name)) for name in checkpoint.WEIGHTS) else []
    if adapters := _adapters(path):
        said.append("an adapter" if len(adapters) == 1 else f"adapters {', '.join(adapters)}")
    if checkpoints := [name for name in os.listdir(path) if is_checkpoint(path, name)]:
        said.append(checkpoints[0] if len(checkpoints) == 1 else f"{len(checkpoints)} checkpoints")
    return " and ".join(filter(None, [", ".join(said[:-1]), *said[-1:]]))


def refuse_adapter(path, adapter=True):
    """ConfigError where an adapter would come into the folder of a model."""
    if adapter and os.path.lexists(os.path.join(path, CONFIG)):
        raise ConfigError(f"{path} holds a model ({CONFIG}), and an adapter beside it would be taken for a part of it; "
                          f"name another folder")


def _adapters(path):
    """The names of the adapters that one run has left in a folder; a run in a folder below is another one."""
    if os.path.lexists(os.path.join(path, CONFIG)):
        return ["default"] if adapter_files.holds_adapter(path) else []
    names = [name for name in adapter_files.names_in(path) if not is_checkpoint(path, name)]
    return [name for name in names if name == "default" or not _is_a_run(os.path.join(path, name))]


def _is_a_run(path):
    """Whether a folder below is a run of its own, or a model."""
    return any(name in (LOG, CONFIG) or is_checkpoint(path, name) for name in os.listdir(path))


def _files_of_a_run(path):
    """The names of what a run leaves in a folder; all else in it is the user's."""
    adapters = set(_adapters(path))
    return [name for name in os.listdir(path) if name in _FILES or _SHARD.fullmatch(name) or name in adapters
            or is_checkpoint(path, name)]  # fmt: skip


def _lies_in(name, path):
    """Whether a file or folder is a folder, or lies in it; what is not here does not."""
    folder = os.path.realpath(path)
    return os.path.exists(name) and os.path.commonpath([folder, os.path.realpath(name)]) == folder


def recover(path):
    """End what a run that died has begun: what it had set aside is put back, unless it has a successor."""
    aside, whole = Aside.found(path)
    if aside and whole and held(path):
        aside.discard()
    elif aside and whole:
        _put_back(path, aside)
    elif aside:
        aside.put_back()


def _put_back(path, aside):
    for name in _files_of_a_run(path):  # what the run without success has left
        place = os.path.join(path, name)
        shutil.rmtree(place) if os.path.isdir(place) and not os.path.islink(place) else os.remove(place)
    aside.put_back()
