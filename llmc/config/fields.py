"""The families: one row each, saying which fields of config.json it has, their defaults and spellings."""

import difflib
import math
import operator
from dataclasses import dataclass, replace

from llmc.errors import ConfigError

LARGEST = 2**31 - 1  # the core counts every dimension in an int

# transformers' name of an activation -> its number in csrc/kernels/kernels.h (enum Activation)
ACTIVATIONS = {
    "linear": 0,
    "gelu": 1, "gelu_python": 1,
    "gelu_new": 2, "gelu_fast": 2, "gelu_pytorch_tanh": 2, "gelu_python_tanh": 2, "gelu_accurate": 2,
    "quick_gelu": 3,
    "silu": 4, "swish": 4,
    "relu": 5,
    "relu2": 6,
    "relu6": 7,
    "leaky_relu": 8,
    "tanh": 9,
    "sigmoid": 10,
    "mish": 11,
    "gelu_10": 12,
    "laplace": 13,
}  # fmt: skip

DTYPES = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int8")


def shown(value):
    """A value as an error message shows it: never long, and never an error itself."""
    try:
        text = repr(value)
    except ValueError:  # Python does not print a whole number of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 200 else text[:200] + " …"


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


@dataclass(frozen=True)
class Family:
    """One row.

    Attributes
    ----------
    architecture : str
        transformers' class for the whole language model.
    names : dict
        {canonical name: the spelling that this family writes}, where they differ.
    defaults : dict
        The fields the family has, and what they are when they are not given.
    fixed : dict
        The fields it does not have, and the one value with which a configuration may still name them; None for a
        DERIVED field is the value that follows from the others.
    may_be_none : tuple of str
        The DERIVED fields that need not be given.
    activations : dict
        {name: number in the core}.
    rope : bool
        Rotary positions; learned ones otherwise.
    heads_divide_width : bool
        Whether `hidden_size` must be a multiple of `num_attention_heads` although `head_dim` is given.
    pads : bool
        Whether the embedding of `pad_token_id` starts as zeros.
    """

    architecture: str
    names: dict
    defaults: dict
    fixed: dict
    may_be_none: tuple
    activations: dict
    rope: bool
    heads_divide_width: bool
    pads: bool


_LLAMA = Family(
    architecture="LlamaForCausalLM",
    names={"norm_eps": "rms_norm_eps", "attn_pdrop": "attention_dropout"},
    defaults=dict(
        vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=None, head_dim=None, max_position_embeddings=2048, hidden_act="silu", norm_eps=1e-6,
        initializer_range=0.02, attn_pdrop=0.0, attention_bias=False, mlp_bias=False, tie_word_embeddings=False,
        bos_token_id=1, eos_token_id=2, pad_token_id=None, dtype="float32",
    ),
    fixed=dict(
        embd_pdrop=0.0, resid_pdrop=0.0, sliding_window=None, scale_attn_weights=True,
        scale_attn_by_inverse_layer_idx=False, reorder_and_upcast_attn=False,
    ),
    may_be_none=("num_key_value_heads", "head_dim"),
    activations=ACTIVATIONS,
    rope=True,
    heads_divide_width=True,
    pads=True,
)  # fmt: skip

_MISTRAL = replace(
    _LLAMA,
    architecture="MistralForCausalLM",
    defaults={name: value for name, value in _LLAMA.defaults.items() if name not in ("attention_bias", "mlp_bias")}
    | dict(intermediate_size=14336, num_key_value_heads=8, max_position_embeddings=131072, sliding_window=4096),
    fixed={name: value for name, value in _LLAMA.fixed.items() if name != "sliding_window"}
    | dict(attention_bias=False, mlp_bias=False),
    heads_divide_width=False,
)

_GPT2 = Family(
    architecture="GPT2LMHeadModel",
    names={
        "hidden_size": "n_embd", "intermediate_size": "n_inner", "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head", "max_position_embeddings": "n_positions",
        "hidden_act": "activation_function", "norm_eps": "layer_norm_epsilon",
    },
    defaults=dict(
        vocab_size=50257, hidden_size=768, intermediate_size=None, num_hidden_layers=12, num_attention_heads=12,
        max_position_embeddings=1024, hidden_act="gelu_new", norm_eps=1e-5, initializer_range=0.02, embd_pdrop=0.1,
        resid_pdrop=0.1, attn_pdrop=0.1, tie_word_embeddings=True, scale_attn_weights=True,
        scale_attn_by_inverse_layer_idx=False, reorder_and_upcast_attn=False, bos_token_id=50256, eos_token_id=50256,
        pad_token_id=None, dtype="float32",
    ),
    fixed=dict(num_key_value_heads=None, head_dim=None, attention_bias=True, mlp_bias=True, sliding_window=None),
    may_be_none=("num_key_value_heads", "head_dim", "intermediate_size"),
    activations=ACTIVATIONS,
    rope=False,
    heads_divide_width=True,
    pads=False,
)  # fmt: skip

_SCALING = ("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn")
_GPT = replace(
    _GPT2,
    architecture="OpenAIGPTLMHeadModel",
    names=_GPT2.names | {"hidden_act": "afn"},
    defaults={
        name: value for name, value in _GPT2.defaults.items() if name not in (*_SCALING, "intermediate_size")
    }
    | dict(vocab_size=40478, max_position_embeddings=512, hidden_act="gelu", bos_token_id=None, eos_token_id=None),
    fixed=_GPT2.fixed | {name: _GPT2.defaults[name] for name in (*_SCALING, "intermediate_size")},
    activations={"gelu": 2, "relu": 5, "silu": 4, "swish": 4},  # its "gelu" has always been the tanh one
)

FAMILIES = {"openai-gpt": _GPT, "gpt2": _GPT2, "llama": _LLAMA, "mistral": _MISTRAL}

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


def family_of(model_type):
    """The row of a model type.

    Raises
    ------
    ConfigError
        When there is none; the message lists those there are, nearest first.
    """
    if isinstance(model_type, str) and model_type in FAMILIES:
        return FAMILIES[model_type]
    near = difflib.get_close_matches(shown(model_type).strip("'"), FAMILIES, n=len(FAMILIES), cutoff=0.0)
    raise ConfigError(f"model_type {shown(model_type)} is not one llmc has; nearest first: {', '.join(near)}")
