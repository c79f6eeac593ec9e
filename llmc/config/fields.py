"""The fields of config.json: their names and spellings, how a value is checked, and what is refused."""

from llmc.checks import LARGEST, flag, number, whole, wrong
from llmc.dtype_words import dtype_word
from llmc.errors import ConfigError

DTYPES = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int8")


def size(value, name):
    """A size that a model can have."""
    return whole(value, name, 1, mistyped=ConfigError)


def size_or_none(value, name):
    """The same, or None."""
    return None if value is None else size(value, name)


def true_or_false(value, name):
    """A bool."""
    return flag(value, name, mistyped=ConfigError)


def _fraction(value, name):
    return float(number(value, name, 0, 1, mistyped=ConfigError))


def _rate(value, name):
    return 0.0 if value is None else float(number(value, name, 0, 1, open_high=True, mistyped=ConfigError))


def _token(value, name):
    return None if value is None else whole(value, name, -LARGEST, mistyped=ConfigError)


def _tokens(value, name):
    if not isinstance(value, (list, tuple)):
        return _token(value, name)
    if any(item is None for item in value):
        raise ConfigError(wrong(name, value, "a list of token ids: null is none"))
    return [_token(item, name) for item in value]


def _activation(value, name):
    if not isinstance(value, str):
        raise ConfigError(wrong(name, value, "the name of an activation function"))
    return value


def _dtype(value, name):
    word = "float32" if value is None else dtype_word(value)
    if not isinstance(word, str) or word not in DTYPES:
        raise ConfigError(wrong(name, value, f"a dtype of weights: {', '.join(DTYPES)}"))
    return word


# canonical name -> how a value is checked, and the other names under which the same field is known
FIELDS = {
    "vocab_size": (size, ()),
    "hidden_size": (size, ("n_embd",)),
    "intermediate_size": (size_or_none, ("n_inner",)),
    "num_hidden_layers": (size, ("n_layer",)),
    "num_attention_heads": (size, ("n_head",)),
    "num_key_value_heads": (size_or_none, ()),
    "head_dim": (size_or_none, ()),
    "max_position_embeddings": (size, ("n_positions",)),
    "hidden_act": (_activation, ("activation_function", "afn")),
    "norm_eps": (_fraction, ("rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps")),
    "initializer_range": (_fraction, ()),
    "embd_pdrop": (_rate, ()),
    "resid_pdrop": (_rate, ()),
    "attn_pdrop": (_rate, ("attention_dropout",)),
    "attention_bias": (true_or_false, ()),
    "mlp_bias": (true_or_false, ()),
    "tie_word_embeddings": (true_or_false, ()),
    "sliding_window": (size_or_none, ()),
    "scale_attn_weights": (true_or_false, ()),
    "scale_attn_by_inverse_layer_idx": (true_or_false, ()),
    "reorder_and_upcast_attn": (true_or_false, ()),  # a matter of half precision: in float32 the same products
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

# What else transformers' configurations have, of this release or an earlier one: kept, though nothing depends on it.
TRANSFORMERS = frozenset(
    """architectures attn_implementation auto_map bad_words_ids begin_suppress_tokens cache_implementation
    chunk_size_feed_forward cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample
    early_stopping encoder_no_repeat_ngram_size exponential_decay_length_penalty finetuning_task forced_bos_token_id
    forced_eos_token_id id2label is_decoder label2id layer_types length_penalty max_length max_new_tokens min_length
    min_new_tokens min_p model_type n_ctx name_or_path no_repeat_ngram_size num_beam_groups num_beams num_labels
    num_return_sequences original_max_position_embeddings output_attentions output_hidden_states output_scores prefix
    problem_type remove_invalid_values repetition_penalty return_dict return_dict_in_generate sep_token_id
    suppress_tokens task_specific_params temperature tf_legacy_loss tie_encoder_decoder tokenizer_class top_k top_p
    torchscript transformers_version typical_p use_bfloat16 use_cache use_return_dict""".split()
)
