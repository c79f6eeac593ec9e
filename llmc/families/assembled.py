"""Assembled: a decoder of no family, put together by saying its kinds (`llmc.Architecture`)."""

from llmc.checks import flag, one_of, whole, wrong
from llmc.errors import ConfigError, shown
from llmc.families.llama import MODULES
from llmc.families.row import Row, add

BIASES = ("qkv", "o", "mlp")
_NORMS = {  # where norms stand -> {part: name}
    ("in",): {"attention_norm_in": "input_layernorm", "feed_forward_norm_in": "post_attention_layernorm"},
    ("out",): {"attention_norm_out": "post_attention_layernorm", "feed_forward_norm_out": "post_feedforward_layernorm"},
    ("sum",): {"attention_norm_sum": "post_attention_layernorm", "feed_forward_norm_sum": "post_feedforward_layernorm"},
    ("in", "out"): {
        "attention_norm_in": "input_layernorm", "attention_norm_out": "post_attention_layernorm",
        "feed_forward_norm_in": "pre_feedforward_layernorm", "feed_forward_norm_out": "post_feedforward_layernorm",
    },
}  # fmt: skip
_PLACES = {"in": ("in",), "out": ("out",), "sum": ("sum",)}
_BARE = {part: name for part, name in MODULES.items() if "norm" not in part}


def _one_of(*words):
    return lambda value, name: one_of(value, name, words)


def _each(check):
    """Of one value, or of a list of one a layer."""

    def check_each(value, name):
        if not isinstance(value, (list, tuple)):
            return check(value, name)
        return [check(item, f"{name}[{layer}]") for layer, item in enumerate(value)]

    return check_each


def _size(value, name):
    return whole(value, name, 1, mistyped=ConfigError)


def _or_none(check):
    return lambda value, name: None if value is None else check(value, name)


def _true_or_false(value, name):
    return flag(value, name, mistyped=ConfigError)


def _place(value, name):
    places = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, (list, tuple)) else None
    if places not in tuple(_NORMS):
        raise ConfigError(wrong(name, value, "'in', 'out', 'sum' or ('in', 'out')"))
    return places[0] if len(places) == 1 else list(places)


def _bias(value, name):
    if isinstance(value, bool):
        return value
    words = (value,) if isinstance(value, str) else value
    if not isinstance(words, (list, tuple)) or any(word not in BIASES for word in words):
        raise ConfigError(wrong(name, value, f"true, false or some of {', '.join(BIASES)}"))
    return [word for word in BIASES if word in words]


class Assembled(Row):
    """The row of such decoders: its kinds are fields of the configuration."""

    def kinds(self, config):
        own = {"norm": config.norm, "branch_norm": config.norm, "order": config.order, "position": config.position}
        return super().kinds(config) | own

    def names(self, config):
        places = config.norm_place if isinstance(config.norm_place, list) else [config.norm_place]
        norms = dict(_NORMS[tuple(places)])
        if config.order == "parallel":
            del norms["feed_forward_norm_in"]
        if config.final_norm:
            norms["final_norm"] = MODULES["final_norm"]
        if config.position == "learned":
            norms["positions"] = "embed_positions"
        return _BARE | norms

    def biases(self, config):
        return {word: config.bias is True or (config.bias is not False and word in config.bias) for word in BIASES}

    def layers(self, config):
        def each(value):
            return value if isinstance(value, list) else [value] * config.num_hidden_layers

        rotary = list(dict.fromkeys(each(config.rope_theta)))
        fields = (config.sliding_window, config.rope_theta, config.feed_forward, config.intermediate_size)
        return [{"window": window or 0, "rotary": rotary.index(theta), "feed_forward": kind, "intermediate_size": width}
                for window, theta, kind, width in zip(*map(each, fields))]  # fmt: skip

    def validate(self, config):
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"):
            if config._fields[name] is None:
                raise ConfigError(f"{name} is not given; an assembled decoder has no default of it")
        for name in ("sliding_window", "rope_theta", "feed_forward", "intermediate_size"):
            value = getattr(config, name)
            if isinstance(value, list) and len(value) != config.num_hidden_layers:
                raise ConfigError(
                    f"{name} {shown(value)} has {len(value)} values, num_hidden_layers is {config.num_hidden_layers}; "
                    "give one, or one a layer"
                )
        if config.order == "parallel" and config.norm_place != "in":
            raise ConfigError(
                f"order 'parallel' with norm_place {config.norm_place!r}: both branches read what one norm before them "
                "gives; take norm_place='in', or order='sequential'"
            )


_DEFAULTS = dict(
    vocab_size=None, hidden_size=None, num_hidden_layers=None, num_attention_heads=None, num_key_value_heads=None,
    head_dim=None, intermediate_size=None, norm="rms", norm_place="in", final_norm=True, position="rope",
    feed_forward="gated", hidden_act="silu", order="sequential", bias=False, sliding_window=None,
    max_position_embeddings=2048, tie_word_embeddings=False, norm_eps=1e-5, initializer_range=0.02, embd_pdrop=0.0,
    resid_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=None, pad_token_id=None, dtype="float32",
)  # fmt: skip

add(
    Assembled(
        model_type="llmc",
        architecture="LlmcForCausalLM",
        norm="rms",
        position="rope",
        feed_forward="gated",
        modules=MODULES,
        defaults=_DEFAULTS,
        fixed=dict(
            attention_bias=False, mlp_bias=False, scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False,
            reorder_and_upcast_attn=False,
        ),
        may_be_none=("num_key_value_heads", "head_dim", "intermediate_size"),
        checks={
            "norm": _one_of("rms", "layer", "bare"),
            "norm_place": _place,
            "final_norm": _true_or_false,
            "position": _one_of("rope", "learned", "none"),
            "feed_forward": _each(_one_of("gated", "mlp")),
            "order": _one_of("sequential", "parallel"),
            "bias": _bias,
            "sliding_window": _each(_or_none(_size)),
            "intermediate_size": _or_none(_each(_size)),
        },
        heads_divide_width=False,
        pads=True,
        by_layer=True,
    )
)  # fmt: skip
