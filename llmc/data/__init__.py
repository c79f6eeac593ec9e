"""Data: texts, scenes and token files as items of `input_ids`, `labels` and `attention_mask`, and batches of them."""

from llmc.data import arithmetic
from llmc.data.arithmetic_dataset import ArithmeticDataset
from llmc.data.collate import collate
from llmc.data.blocks import TokenBlockDataset, tokenize_file
from llmc.data.builtin import builtin_text, split_text
from llmc.data.jsonl import JsonlDataset
from llmc.data.scene import Scene
from llmc.data.scene_dataset import SceneDataset
from llmc.data.scene_files import check_scenes, read_scenes, write_scenes
from llmc.data.streaming import StreamingTextDataset
from llmc.data.text import TextDataset

__all__ = ["ArithmeticDataset", "JsonlDataset", "Scene", "SceneDataset", "StreamingTextDataset", "TextDataset",
           "TokenBlockDataset", "arithmetic", "builtin_text", "check_scenes", "collate", "read_scenes",
           "split_text", "tokenize_file", "write_scenes"]
