"""LIMe (Gerasimov et al., 2025): a LLaMA whose heads read keys and values routed from all layers up to their own."""

import math
from dataclasses import replace

import numpy as np

from llmc.checks import one_of
from llmc.families.llama import LLAMA
from llmc.families.row import add


def _router_init(value, name):
    return one_of(value, name, ("authors", "identity"))


def _own_heads(generator, out, rows, layer):
    """Every head reads itself in its own layer, and nothing of the layers before it."""
    heads = out.shape[1] // (layer + 1)
    out[:, :-heads] = 0
    out[:, -heads:] = np.eye(heads, dtype=np.float32)[rows]


def _own_heads_and_a_mixture(generator, out, rows, layer):
    """Beside itself a head reads a mixture of all earlier ones, of about the size of one of them."""
    earlier = generator.random(out.shape, np.float32) - np.float32(0.5)
    _own_heads(generator, out, rows, layer)
    before = slice(0, out.shape[1] * layer // (layer + 1))
    out[:, before] = earlier[:, before] * np.float32(2 * math.sqrt(3 / out.shape[1]))


def _start_of_routers(config):
    return _own_heads if config.router_init == "identity" else _own_heads_and_a_mixture


add(
    replace(
        LLAMA,
        model_type="lime",
        architecture="LIMeForCausalLM",
        memory="lime",
        modules=LLAMA.modules | {"router": "lime_router"},
        defaults={name: value for name, value in LLAMA.defaults.items() if name != "attention_bias"}
        | dict(kv_init="authors", router_init="authors"),
        fixed=LLAMA.fixed | dict(attention_bias=False),
        checks=LLAMA.checks | {"router_init": _router_init},
        exclusive=("router_init",),
        starts=LLAMA.starts | {"router": _start_of_routers},
    )
)
