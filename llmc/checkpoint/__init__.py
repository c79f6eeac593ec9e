"""Checkpoints: read and written (safetensors, torch's .bin without torch) as Hugging Face lays them out."""

from llmc.checkpoint.manifest import verify, write_manifest
from llmc.checkpoint.names import Alignment, align, piece_of
from llmc.checkpoint.reading import WEIGHTS, Checkpoint
from llmc.checkpoint.reading import open_checkpoint as open
from llmc.checkpoint.roles import role
from llmc.checkpoint.formats.torch_writing import write_torch
from llmc.checkpoint.writing import write

__all__ = ["WEIGHTS", "Alignment", "Checkpoint", "align", "open", "piece_of", "role", "verify", "write",
           "write_manifest", "write_torch"]
