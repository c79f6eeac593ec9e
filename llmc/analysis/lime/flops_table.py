"""Parameters, FLOPs and peak memory of models side by side (table 6 of version 1, table 8 of version 2)."""

from llmc.analysis.lime.flops import flops, is_dynamic, is_mixed, require_counted, routes, streams
from llmc.calls import public
from llmc.checks import whole
from llmc.config import Config
from llmc.core import _core
from llmc.errors import ConfigError

FAMILIES = ("llama", "lime1-static", "lime1-dynamic", "hc")  # the rows of table 6
SIZES = dict(vocab_size=50257, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
             tie_word_embeddings=True)  # fmt: skip


@public
def flops_table(configs=None, batch=1, length=2048):
    """What models cost beside the first of them. Nothing is allocated.

    Parameters
    ----------
    configs : {name: llmc.Config}, optional
        The first is the base. By default llama, lime1-static, lime1-dynamic and hc at the paper's size.
    batch, length : int
        Of the memories; FLOPs are of one sequence of `length`.

    Returns
    -------
    list of dict
        `name`; `parameters` and `flops` (forward, the authors' convention), exact integers; `parameters_change` and
        `flops_change`, fractions of the first row; `train_memory` and `inference_memory`, the paper's formulas of what
        is held beside a LLaMA, in numbers, not bytes; 0 where it has none.

    Raises
    ------
    ConfigError, TypeError
        For no configuration, or one of which `flops` knows nothing.
    """
    batch, length = whole(batch, "batch", 1, most=None), whole(length, "length", 1)
    if configs is None:
        configs = {family: Config(family, **SIZES) for family in FAMILIES}
    if not hasattr(configs, "items"):
        raise TypeError(f"configs are a dict of configurations by name, not {type(configs).__name__}")
    if not configs:
        raise ConfigError("configs are {}, not at least one configuration")
    rows = [_row(name, config, batch, length) for name, config in configs.items()]
    for row in rows:
        row |= {f"{key}_change": (row[key] - rows[0][key]) / rows[0][key] for key in ("parameters", "flops")}
    order = ("name", "parameters", "parameters_change", "flops", "flops_change", "train_memory", "inference_memory")
    return [{key: row[key] for key in order} for row in rows]


def _row(name, config, batch, length):
    require_counted(config)
    train, inference = memories(config, batch, length)
    return {"name": name, "parameters": _core.Model(config.spec(), False).parameter_count,
            "flops": flops(config, length), "train_memory": train, "inference_memory": inference}  # fmt: skip


def memories(config, batch, length):
    """What the paper says a training and a forward pass hold beside a LLaMA's, in numbers."""
    N, C, H, L = batch * length, config.hidden_size, config.num_attention_heads, config.num_hidden_layers
    if S := streams(config):
        return hyper_memories(N, C, L, S)
    if is_mixed(config):
        return mixed_memories(N, C, H, L, is_dynamic(config))
    return 0, 0


def mixed_memories(N, C, H, L, dynamic):
    """A mixture of each head in every layer with a router; of dynamic ones the probabilities too."""
    probabilities = (N * H * routes(L), L * N * H) if dynamic else (0, 0)
    return probabilities[0] + (L - 1) * N * H * C, probabilities[1] + N * H * C


def hyper_memories(N, C, L, S):
    """The further streams and the connections, of every branch or of one."""
    one = N * ((S - 1) * C + S * (S + 2))
    return 2 * L * one, one
