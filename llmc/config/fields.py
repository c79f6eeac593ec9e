"""The fields of config.json: their names and spellings, how a value is checked, and what is refused."""

import math
import operator

from llmc.errors import ConfigError, shown

LARGEST = 2**31 - 1  # the core counts every dimension in an int

DTYPES = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int8")


def _size(value):
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < 1:
        raise ConfigError("is not a positive whole number")
    if number > LARGEST:
        raise ConfigError(f"is above {LARGEST}, the largest size there is")
    return number


def _size_or_none(value):
    return None if value is None else _size(value)


def _flag(value):
    if type(value).__name__ not in ("bool", "bool_"):
        raise ConfigError("is not true or false")
    return bool(value)


def _fraction(value):
    try:
        number = math.nan if isinstance(value, (bool, str)) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0.0 <= number <= 1.0:
        raise ConfigError("is not a number from 0 to 1")
    return number


def _rate(value):
    rate = 0.0 if value is None else _fraction(value)
    if rate == 1.0:
        raise ConfigError("would drop everything; a rate is below 1")
    return rate


def _token(value):
    try:
        token = None if value is None else operator.index("" if isinstance(value, bool) else value)
    except TypeError:
        raise ConfigError("is not a token id (a whole number) or null") from None
    if token is not None and abs(token) > LARGEST:
        raise ConfigError(f"is a token id beyond {LARGEST}")
    return token


def _tokens(value):
    if not isinstance(value, (list, tuple)):
        return _token(value)
    if any(item is None for item in value):
        raise ConfigError("is a list with null in it; a list holds token ids")
    return [_token(item) for item in value]


def _activation(value):
    if not isinstance(value, str):
        raise ConfigError("is not the name of an activation function")
    return value


def _dtype(value):
    name = "float32" if value is None else shown(value).strip("'").removeprefix("torch.")
    if name not in DTYPES:
        raise ConfigError(f"is not a dtype of weights; those are {', '.join(DTYPES)}")
    return name


# canonical name -> how a value is checked, and the other names under which the same field is known
FIELDS = {
    "vocab_size": (_size, ()),
    "hidden_size": (_size, ("n_embd",)),
    "intermediate_size": (_size_or_none, ("n_inner",)),
    "num_hidden_layers": (_size, ("n_layer",)),
    "num_attention_heads": (_size, ("n_head",)),
    "num_key_value_heads": (_size_or_none, ()),
    "head_dim": (_size_or_none, ()),
    "max_position_embeddings": (_size, ("n_positions",)),
    "hidden_act": (_activation, ("activation_function", "afn")),
    "norm_eps": (_fraction, ("rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps")),
    "initializer_range": (_fraction, ()),
    "embd_pdrop": (_rate, ()),
    "resid_pdrop": (_rate, ()),
    "attn_pdrop": (_rate, ("attention_dropout",)),
    "attention_bias": (_flag, ()),
    "mlp_bias": (_flag, ()),
    "tie_word_embeddings": (_flag, ()),
    "sliding_window": (_size_or_none, ()),
    "scale_attn_weights": (_flag, ()),
    "scale_attn_by_inverse_layer_idx": (_flag, ()),
    "reorder_and_upcast_attn": (_flag, ()),  # a matter of half precision: in float32 the same products
    "bos_token_id": (_token, ()),
    "eos_token_id": (_tokens, ()),
    "pad_token_id": (_token, ()),
    "dtype": (_dtype, ("torch_dtype",)),
}
CANONICAL = {name: field for field, (_, others) in FIELDS.items() for name in (field, *others)}
DERIVED = ("num_key_value_heads", "head_dim", "intermediate_size")  # None: what follows from the other sizes
ROPE_FIELDS = ("rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor")


_NOT_DONE = "llmc does not do that"
# Fields that no family here has but that change what transformers computes: (values that change nothing, reason)
REFUSED = {
    "add_cross_attention": ((None, False), "the decoder would read an encoder that is not there; set it to false"),
    "attention_chunk_size": ((None,), f"the cache would be cut into chunks; {_NOT_DONE}; set it to null"),
    "is_causal": ((True,), f"tokens would see the ones after them; {_NOT_DONE}; leave it out"),
    "is_encoder_decoder": ((None, False), f"these families are decoders; {_NOT_DONE}; set it to false"),
    "kv_sharing_modes": ((None,), f"layers would share keys and values; {_NOT_DONE}; set it to null"),
    "per_layer_config": ((None, {}), f"layers would differ from each other; {_NOT_DONE}; leave it out"),
    "pruned_heads": ((None, {}), f"layers would differ in their heads; {_NOT_DONE}; save the model without pruning"),
    "quantization_config": ((None, {}), f"the weights are quantised; {_NOT_DONE}; open the checkpoint before"),
}
