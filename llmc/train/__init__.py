"""Training: a Trainer, its arguments, and what it leaves behind."""

from llmc.train.arguments import TrainingArguments
from llmc.train.trainer import Trainer, TrainingResult

__all__ = ["Trainer", "TrainingArguments", "TrainingResult"]
