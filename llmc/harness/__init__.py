"""lm-evaluation-harness: a model as it asks one, and its tasks by name. It is an extra, `llmc[eval]`."""

from llmc.harness.language_model import LM

__all__ = ["LM"]
