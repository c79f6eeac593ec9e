"""Configurations: the fields of config.json, their spellings, rules and rotary scalings."""

from llmc.config.architecture import Architecture
from llmc.config.config import Config
