"""Configurations: the fields of config.json, their spellings, rules and rotary scalings."""

from llmc.config.config import Config
