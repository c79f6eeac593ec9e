"""Hyper-Connections (Zhu et al., 2024): a LLaMA of several residual streams; as LIMe's authors coded it, and as the
paper has it."""

import math
from dataclasses import replace

import numpy as np

from llmc.checks import LARGEST, flag, whole
from llmc.errors import ConfigError
from llmc.families.llama import LLAMA
from llmc.families.row import Row, add

CONNECTIONS = {"attention_connection": "hc_attn", "feed_forward_connection": "hc_mlp"}


def _rate(value, name):
    return whole(value, name, 1, mistyped=ConfigError)


def _dynamic(value, name):
    return flag(value, name, mistyped=ConfigError)


class Hyper(Row):
    """The row of such a family."""

    def validate(self, config):
        streams, width = config.hyper_rate, config.hidden_size
        if streams * max(streams + 2, width) > LARGEST:
            raise ConfigError(f"hyper_rate {streams} x hidden_size {width} is above {LARGEST}, the largest size there "
                              "is; make one smaller")


def _all(number):
    def fill(generator, out, rows, layer):
        out[...] = number

    return lambda config: fill


def _own_streams(first):
    """Every stream goes on as it is, and the branch reads one of them: the number `first(layer)`, round and round."""

    def fill(generator, out, rows, layer):
        streams = out.shape[1] - 1
        out[...] = np.eye(streams, streams + 1, 1, dtype=np.float32)[rows]
        if rows.start <= (reads := first(layer) % streams) < rows.stop:
            out[reads - rows.start, 0] = 1

    return lambda config: fill


def _starts(**first):
    """How connections start, of a branch that reads the stream `first[part](layer)`: as the plain residual."""
    numbers = {"static_beta": 1, "dynamic_alpha_fn": 0, "dynamic_alpha_scale": 0.01, "dynamic_beta_fn": 0,
               "dynamic_beta_scale": 0.01}  # fmt: skip
    return {(part, leaf): _all(number) for part in first for leaf, number in numbers.items()} | {
        (part, "static_alpha"): _own_streams(reads) for part, reads in first.items()
    }


def _summed(config):
    """The streams add up at the end, and what is added to each should come to as much as in a plain residual."""
    return (config.initializer_range or 0.02) / math.sqrt(config.hyper_rate)


HC = Hyper(
    **vars(LLAMA)
    | dict(
        model_type="hc",
        architecture="LlamaHCForCausalLM",
        residual="hyper",
        branch_norm="bare",
        branch_norm_eps=1e-5,
        modules=LLAMA.modules | CONNECTIONS,
        defaults=LLAMA.defaults | dict(kv_init="llama", hyper_rate=4, hyper_dynamic=True),
        implied={},
        checks=LLAMA.checks | {"hyper_rate": _rate, "hyper_dynamic": _dynamic},
        exclusive=(*LLAMA.exclusive, "hyper_rate", "hyper_dynamic"),
        starts=LLAMA.starts
        | _starts(attention_connection=lambda layer: layer, feed_forward_connection=lambda layer: layer),
    )
)

add(HC)
add(
    replace(
        HC,
        model_type="hc-paper",
        branch_norm=None,
        branch_norm_eps=None,
        deviations={"o": _summed, "down": _summed},
        starts=LLAMA.starts
        | _starts(attention_connection=lambda layer: 2 * layer, feed_forward_connection=lambda layer: 2 * layer + 1),
    )
)
