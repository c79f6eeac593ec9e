"""LIMe, version 1 (Gerasimov et al., 2025): a LLaMA whose heads read mixtures of all streams so far."""

import math
from dataclasses import fields, replace

import numpy as np

from llmc.checks import number
from llmc.errors import ConfigError
from llmc.families import authors
from llmc.families.llama import LLAMA
from llmc.families.row import Row, add


class Mixtures(Row):
    """A row whose every head reads a mixture of its own."""

    def validate(self, config):
        """Every query head has keys and values of its own."""
        heads, groups = config.num_attention_heads, config.num_key_value_heads
        if groups != heads:
            raise ConfigError(f"num_key_value_heads {groups}: in {self.model_type} each of the {heads} query heads has "
                              "keys and values of its own mixture; leave it out")


def _share(value, name):
    return None if value is None else float(number(value, name, 0, 1, open_low=True, mistyped=ConfigError))


def _start_of_keys_and_values(config):
    """Uniform up to 1 / sqrt(heads x head_dim x width), as torch takes the fan of (1, heads, width, head_dim); the
    first layer reads no mixture and starts as a LLaMA."""
    most = 1 / math.sqrt(config.num_attention_heads * config.head_dim * config.hidden_size)

    def start(generator, out, rows, layer):
        if layer == 0:
            generator.standard_normal(dtype=np.float32, out=out)
            out *= np.float32(config.initializer_range or 0.02)
            return
        generator.random(dtype=np.float32, out=out)
        out -= np.float32(0.5)
        out *= np.float32(2 * most)

    return start if config.kv_init == "authors" else None


_BASE = Mixtures(**{field.name: getattr(LLAMA, field.name) for field in fields(LLAMA)} | dict(
    architecture="LIMeForCausalLM",
    modules=LLAMA.modules | {"router": "attention_router", "memory_norm": "input_layernorm_lime"},
    defaults={name: value for name, value in LLAMA.defaults.items() if name != "attention_bias"}
    | dict(kv_init="authors"),
    fixed=LLAMA.fixed | dict(attention_bias=False),
    starts={"k": _start_of_keys_and_values, "v": _start_of_keys_and_values},
    peft_targets=("q_proj",),
    unadapted=("k", "v", "router"),
    files=authors.LIME1,
))  # fmt: skip

add(
    replace(
        _BASE,
        model_type="lime1-static",
        memory="static",
        defaults=_BASE.defaults | dict(router_top_p=None),
        checks=_BASE.checks | {"router_top_p": _share},
        deviations={"router": lambda config: 0.1},
        exclusive=(*_BASE.exclusive, "router_top_p"),
    )
)
add(replace(_BASE, model_type="lime1-dynamic", memory="dynamic"))
