"""LoRA: low-rank adapters beside a frozen base, interchangeable with peft."""

from llmc.lora.adapters import Adapters
from llmc.lora.lora_config import LoraConfig

__all__ = ["Adapters", "LoraConfig"]
