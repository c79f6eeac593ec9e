"""GPT and GPT-2 (Radford et al., 2018 and 2019): learned positions, LayerNorm, one matrix for q, k and v."""

import math
from dataclasses import replace

from llmc.families.row import Row, add

_BLOCK = {
    "block": "h", "attention": "attn", "qkv": "c_attn", "o": "c_proj", "feed_forward": "mlp", "up": "c_fc",
    "down": "c_proj", "head": "lm_head",
}  # fmt: skip


def _plain(config):
    return config.initializer_range


def _always(config):
    return 0.02  # as in transformers, whatever initializer_range says


def _added_to_the_stream(config):
    return config.initializer_range / math.sqrt(2 * config.num_hidden_layers)


GPT2 = Row(
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    norm="layer",
    position="learned",
    feed_forward="mlp",
    in_out=True,
    modules=_BLOCK
    | {"root": "transformer", "embed": "wte", "positions": "wpe", "attention_norm_in": "ln_1",
       "feed_forward_norm_in": "ln_2", "final_norm": "ln_f"},
    spellings={
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
    deviations={"qkv": _plain, "up": _plain, "o": _added_to_the_stream, "down": _added_to_the_stream},
    peft_targets=("c_attn",),
    kept=(*(f"summary_{name}" for name in ("type", "use_proj", "activation", "proj_to_labels", "first_dropout")),
          "predict_special_tokens"),
)  # fmt: skip

_SCALING = ("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn")

add(
    replace(
        GPT2,
        model_type="openai-gpt",
        architecture="OpenAIGPTLMHeadModel",
        modules=_BLOCK
        | {"root": "transformer", "embed": "tokens_embed", "positions": "positions_embed",
           "attention_norm_sum": "ln_1", "feed_forward_norm_sum": "ln_2"},
        spellings=GPT2.spellings | {"hidden_act": "afn"},
        defaults={
            name: value for name, value in GPT2.defaults.items() if name not in (*_SCALING, "intermediate_size")
        }
        | dict(vocab_size=40478, max_position_embeddings=512, hidden_act="gelu", bos_token_id=None, eos_token_id=None),
        fixed=GPT2.fixed | {name: GPT2.defaults[name] for name in (*_SCALING, "intermediate_size")},
        activations={"gelu": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu"},  # its gelu is the tanh one
        deviations={part: _always for part in ("qkv", "o", "up", "down")},
        peft_targets=(),
    )
)  # fmt: skip
add(GPT2)
