"""Checkpoints: read and written (safetensors, torch's .bin without torch) as Hugging Face lays them out."""

import importlib

from llmc.checkpoint.manifest import verify, write_manifest
from llmc.checkpoint.names import Alignment, align, piece_of
from llmc.checkpoint.reading import WEIGHTS, Checkpoint
from llmc.checkpoint.reading import open_checkpoint as open
from llmc.checkpoint.roles import layer, part, role
from llmc.checkpoint.formats.torch_writing import write_torch
from llmc.checkpoint.writing import write

# What compares checkpoints stands above models and adapters, which read checkpoints with what stands here. So that this
# folder does not look up, what users find under its name is fetched from there when they ask for it.
_ABOVE = {"Diff": "llmc.diff", "Extraction": "llmc.diff", "Listing": "llmc.diff", "diff": "llmc.diff",
          "extract_lora": "llmc.diff", "inspect": "llmc.diff"}


def __getattr__(name):
    if name not in _ABOVE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_ABOVE[name]), name)


def __dir__():
    return [*globals(), *_ABOVE]


__all__ = ["WEIGHTS", "Alignment", "Checkpoint", "Diff", "Extraction", "Listing", "align", "diff", "extract_lora",
           "inspect", "layer", "open", "part", "piece_of", "role", "verify", "write", "write_manifest", "write_torch"]
