"""Data: texts and token files as items of `input_ids`, `labels` and `attention_mask`, and the batches made of them."""

from llmc.data import arithmetic
from llmc.data.arithmetic_dataset import ArithmeticDataset
from llmc.data.collate import collate
from llmc.data.blocks import TokenBlockDataset, tokenize_file
from llmc.data.builtin import builtin_text, split_text
from llmc.data.jsonl import JsonlDataset
from llmc.data.streaming import StreamingTextDataset
from llmc.data.text import TextDataset

__all__ = ["ArithmeticDataset", "JsonlDataset", "StreamingTextDataset", "TextDataset", "TokenBlockDataset",
           "arithmetic", "builtin_text", "collate", "split_text", "tokenize_file"]
