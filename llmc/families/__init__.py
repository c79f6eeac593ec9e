"""Families: every architecture is a row of kinds, names, fields and starting values."""

from llmc.families.row import Row, add, kin, owners, row_of, rows
from llmc.families import gpt, llama, mistral, lime, hyper, assembled  # each adds rows; in this order they are listed
