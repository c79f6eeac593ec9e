"""Data: texts, scenes and token files as items of `input_ids`, `labels` and `attention_mask`, and batches of them."""

from importlib import import_module

from llmc.data.collate import collate
from llmc.data.blocks import TokenBlockDataset, tokenize_file
from llmc.data.builtin import builtin_text, split_text
from llmc.data.jsonl import JsonlDataset
from llmc.data.streaming import StreamingTextDataset
from llmc.data.text import TextDataset

__all__ = ["ArithmeticDataset", "JsonlDataset", "Scene", "SceneDataset", "StreamingTextDataset", "TextDataset",
           "TokenBlockDataset", "arithmetic", "builtin_text", "check_scenes", "collate", "read_scenes",
           "split_text", "tokenize_file", "write_scenes"]

_LATE = {  # what few programs use, imported when it is named: name -> the file that has it
    "ArithmeticDataset": "arithmetic_dataset", "Scene": "scene", "SceneDataset": "scene_dataset",
    "check_scenes": "scene_files", "read_scenes": "scene_files", "write_scenes": "scene_files",
}  # fmt: skip


def __getattr__(name):
    if name == "arithmetic":
        return import_module("llmc.data.arithmetic")
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found = getattr(import_module(f"llmc.data.{_LATE[name]}"), name)
    return found


def __dir__():
    return sorted({*globals(), *__all__})
