"""The readers of checkpoint files, each checked byte by byte."""
