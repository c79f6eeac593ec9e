"""Data: texts and token files as items of `input_ids`, `labels` and `attention_mask`, and the batches made of them."""

from llmc.data.collate import collate
from llmc.data.blocks import TokenBlockDataset, tokenize_file
from llmc.data.builtin import builtin_text, split_text
from llmc.data.jsonl import JsonlDataset
from llmc.data.streaming import StreamingTextDataset
from llmc.data.text import TextDataset

__all__ = ["JsonlDataset", "StreamingTextDataset", "TextDataset", "TokenBlockDataset", "builtin_text", "collate",
           "split_text", "tokenize_file"]
