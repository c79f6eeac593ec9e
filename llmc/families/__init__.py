"""Families: every architecture is a row of kinds, names, fields and starting values."""

from llmc.families.row import Row, add, kin, owners, row_of, rows
from llmc.families import gpt, llama, mistral, lime, lime1, hyper, assembled  # each adds rows, listed in this order
