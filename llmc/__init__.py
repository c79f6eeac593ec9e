"""llmc: train GPT, GPT-2, LLaMA and Mistral on a CPU, look inside them, and exchange them with Hugging Face."""

from llmc.system import command as _command  # first: from here on Ctrl-C ends a command in a line
from llmc import analysis, checkpoint, data, functional
from llmc.config import Architecture, Config
from llmc.core import get_num_threads, set_num_threads
from llmc.doctor import doctor
from llmc.errors import (
    BusyError,
    CheckpointError,
    ConfigError,
    DataError,
    Error,
    NonFiniteError,
    ShapeError,
    UnknownNameError,
)
from llmc.lora import LoraConfig
from llmc.model import Model
from llmc.optimizer import AdamW
from llmc.tokenizer import Tokenizer
from llmc.train import Trainer, TrainingArguments

__version__ = "0.1.0"

_LATE = ("harness", "lime")  # parts that few programs use, imported when they are named


def __getattr__(name):
    if name not in _LATE:
        raise AttributeError(f"module 'llmc' has no attribute {name!r}")
    import importlib

    return importlib.import_module(f"llmc.{name}")


def __dir__():
    return sorted({*globals(), *_LATE})
