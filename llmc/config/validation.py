"""Validation: every field of a configuration against the others."""

from llmc.checks import LARGEST
from llmc.config import rope
from llmc.config.fields import DERIVED, REFUSED
from llmc.core import _core
from llmc.errors import ConfigError, shown
from llmc.families import rows

_LARGEST_TENSOR = 2**60  # numbers, so that their bytes fit in 63 bits


def validate(config):
    """Raise ConfigError, naming the field, the values that disagree, and the remedy."""
    config._family.validate(config)
    width, heads, groups = config.hidden_size, config.num_attention_heads, config.num_key_value_heads
    name_width, name_heads = config._name("hidden_size"), config._name("num_attention_heads")
    if width % heads and (config._family.heads_divide_width or config._fields["head_dim"] is None):
        raise ConfigError(f"{name_width} {width} is not a multiple of {name_heads} {heads}; change one of them")
    if heads % groups:
        raise ConfigError(
            f"{name_heads} {heads} is not a multiple of num_key_value_heads {groups}; every key/value head serves "
            "the same number of query heads"
        )
    for canonical in DERIVED:
        value, needed = config._value(canonical), config._derived(canonical)
        if canonical in config._family.fixed and value != needed:
            raise ConfigError(
                f"{config._name(canonical)} {value}: {config.model_type} has no such field and computes with {needed}; "
                "leave it out"
            )
    if config.hidden_act not in config._family.activations:
        raise ConfigError(
            f"{config._name('hidden_act')} {shown(config.hidden_act)} is not one that {config.model_type} has in llmc; "
            f"those are {', '.join(sorted(config._family.activations))}"
        )
    pad = config._fields["pad_token_id"]
    if config._family.pads and pad is not None and not -config.vocab_size <= pad < config.vocab_size:
        raise ConfigError(
            f"pad_token_id {pad} has no row in an embedding of vocab_size {config.vocab_size}; set it to null or "
            "to a token that exists"
        )
    _validate_sizes(config)
    _validate_refused(config)
    if config._has_rope:
        rope.validate(config)


def _validate_sizes(config):
    def said(canonical):
        return f"{config._name(canonical)} {config._value(canonical)}"

    width, heads, head_dim = config.hidden_size, config.num_attention_heads, config.head_dim
    if heads * head_dim > LARGEST:
        raise ConfigError(
            f"{said('num_attention_heads')} x {said('head_dim')} is above {LARGEST}, the largest size there is; "
            "make one smaller"
        )
    if config.num_hidden_layers > _core.LAYERS_MOST:
        raise ConfigError(f"{said('num_hidden_layers')} is above {_core.LAYERS_MOST}; take fewer")
    learned = config._family.kinds(config)["position"] == "learned"
    for canonical in ("vocab_size", "intermediate_size") + (("max_position_embeddings",) if learned else ()):
        if _most(config._value(canonical)) * width > _LARGEST_TENSOR:
            raise ConfigError(
                f"{said(canonical)} x {said('hidden_size')} is a matrix larger than any memory; make one smaller"
            )
    block = width * (4 * max(heads * head_dim, width) + 3 * _most(config.intermediate_size))
    if config.num_hidden_layers * block > _LARGEST_TENSOR:
        raise ConfigError(
            f"{said('num_hidden_layers')} of {said('hidden_size')} and {said('num_attention_heads')} x "
            f"{said('head_dim')} are larger than any memory; make one smaller"
        )


def _validate_refused(config):
    for name, (harmless, reason) in REFUSED.items():
        if name in config._extra and not any(config._extra[name] is v or config._extra[name] == v for v in harmless):
            raise ConfigError(f"{name} {shown(config._extra[name])}: {reason}")
    for name, value in config._extra.items():
        owners = [row.model_type for row in rows().values() if name in row.exclusive]
        if owners and value is not None:
            raise ConfigError(f"{name} {shown(value)} is a field of {' and '.join(owners)}, not of "
                              f"{config.model_type}; leave it out")
    kinds = config._extra.get("layer_types")
    if kinds is None:
        return
    windows, layers = config.sliding_window, config.num_hidden_layers
    by_layer = isinstance(windows, list)
    each = ["full_attention" if own is None else "sliding_attention" for own in (windows if by_layer else [windows])]
    if kinds != (each if by_layer else each * layers):
        said = f"the {layers} layers of {config.model_type} are {shown(each)}"
        if not by_layer:
            said = f"every one of the {layers} layers of {config.model_type} is {each[0]}"
        raise ConfigError(f"layer_types {shown(kinds)}: with sliding_window {windows} {said}; leave it out")


def _most(value):
    """The largest of what may be one value, or one a layer."""
    return max(each or 0 for each in value) if isinstance(value, list) else value
