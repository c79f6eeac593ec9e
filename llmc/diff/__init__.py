"""Checkpoints side by side: what is inside one, and what a base and its fine-tune differ in.

What is public stands in `llmc.checkpoint` too, where a user looks for it.
"""

from llmc.diff.comparing import diff
from llmc.diff.differences import Diff
from llmc.diff.extracting import extract_lora
from llmc.diff.extraction import Extraction
from llmc.diff.listing import Listing, inspect

__all__ = ["Diff", "Extraction", "Listing", "diff", "extract_lora", "inspect"]
