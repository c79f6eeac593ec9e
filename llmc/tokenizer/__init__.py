"""Tokenizers: trained, opened and saved in Hugging Face's files."""

from llmc.tokenizer.tokenizer import Tokenizer

__all__ = ["Tokenizer"]
