"""FLOPs of a sequence in the convention of LIMe's authors: their counter's figures, as formulas."""

from llmc.calls import public
from llmc.checks import whole
from llmc.config import Config
from llmc.core import _core
from llmc.errors import ConfigError


@public
def flops(config, length=2048):
    """The FLOPs of one sequence's forward pass, as LIMe's authors count them.

    A multiply-add counts 1, but of attention 2; attention is not halved for causality; pow counts 2, rsqrt 6, sine and
    cosine 15, a LayerNorm 4 a number, mean and sum 1 a number read, other work element by element 1, embedding 0.
    `model.estimate` and plans count in llmc's own convention: 2 a multiply-add, the causal half of attention.

    Parameters
    ----------
    config : llmc.Config
        With RMSNorms, rotary positions, gated feed-forwards, and attention before feed-forward: llama, mistral, lime,
        lime1-static, lime1-dynamic, hc, hc-paper.
    length : int

    Returns
    -------
    int

    Raises
    ------
    ConfigError
        For another family, of which the authors' counter says nothing, or a length below 1.
    TypeError
        For what is no configuration, or a length that is no whole number.
    """
    require_counted(config)
    T = whole(length, "length", 1)
    V, C, F, L = config.vocab_size, config.hidden_size, config.intermediate_size, config.num_hidden_layers
    H, G, D = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    total = llama_flops(V, C, F, L, H, G, D, T)
    if is_routed(config):
        total += routed_flops(L, G, D, T)
    if is_mixed(config):
        total += mixed_flops(C, L, H, T, is_dynamic(config))
    if streams(config):
        total += hyper_flops(C, L, T, streams(config), config.hyper_dynamic, has_gains(config))
    return total


# --- what the counter sees of each family ----------------------------------------------------------------------------
def llama_flops(V, C, F, L, H, G, D, T):
    """Of a LLaMA."""
    linears = L * (2 * C * H * D + 2 * C * G * D + 3 * C * F) + C * V
    attention = L * (4 * H * T**2 * D + 3 * H * T**2)
    rotary = T * D // 2 + 32 * T * D + L * 7 * T * (H + G) * D // 2
    rest = (2 * L + 1) * norm_flops(C, T) + 2 * L * T * F + 2 * L * T * C
    return T * linears + attention + rotary + rest


def routed_flops(L, G, D, T):
    """What routed key/value heads add."""
    return 2 * T * D * G**2 * routes(L)


def mixed_flops(C, L, H, T, dynamic):
    """What mixtures of streams add: each is normalised again in every layer, and mixed for every head."""
    routers = routes(L) * T * C * H + routes(L) * T * H if dynamic else H * routes(L)
    return routes(L) * norm_flops(C, T) + routes(L) * T * C * H + routers


def hyper_flops(C, L, T, S, dynamic, gains):
    """What Hyper-Connections add; without gains their authors' bare norms stand in the place of RMSNorms."""
    whole_stream = T * S * C
    width = whole_stream * (2 * S + 3) + 4 * whole_stream + 3 * T * S * (S + 2) if dynamic else whole_stream * (S + 1)
    bare = 0 if gains else 4 * T * C
    total = 2 * L * (width + bare) + 2 * L * 3 * whole_stream // 2 + whole_stream
    return total if gains else total - 2 * L * norm_flops(C, T) - 2 * L * T * C


def norm_flops(C, T):
    """Of an RMSNorm."""
    return 5 * T * C + 7 * T


def routes(L):
    """Representations that one head of each layer with a router may read, all layers together."""
    return L * (L + 1) // 2 - 1


# --- what a configuration is -----------------------------------------------------------------------------------------
def require_counted(config):
    """Raise what `flops` raises for a configuration."""
    if not isinstance(config, Config):
        raise TypeError(f"flops are counted of a llmc.Config, not of {type(config).__name__}")
    spec = config.spec()
    gated = all(layer["feed_forward"] == "gated" for layer in spec["layers"])
    if (spec["norm"], spec["position"], spec["order"]) != ("rms", "rope", "sequential") or not gated:
        raise ConfigError(f"the authors' counter knows LLaMA and what is built on it, not {config.model_type}; "
                          f"model.estimate counts every family, in llmc's own convention")  # fmt: skip


def is_routed(config):
    """Whether key/value heads are routed."""
    return config.spec()["memory"] == "lime"


def is_mixed(config):
    """Whether heads read mixtures of streams."""
    return config.spec()["memory"] in ("static", "dynamic")


def is_dynamic(config):
    """Whether mixtures depend on the token."""
    return config.spec()["memory"] == "dynamic"


def streams(config):
    """The streams of Hyper-Connections; 0 without."""
    return getattr(config, "hyper_rate", 0)


def has_gains(config):
    """Whether the norms before the branches have gains."""
    names, shapes = config.spec()["names"], _core.Model(config.spec(), False).shapes()
    norm = names.get("attention_norm_in")
    return norm is not None and any(name.endswith(f".{norm}.weight") for name in shapes)
