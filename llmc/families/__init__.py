"""Families: every architecture is a row of kinds, names, fields and starting values."""

from llmc.families.row import Row, add, row_of, rows
from llmc.families import gpt, llama, mistral, lime, lime1, assembled  # each adds its rows, listed in this order
