"""LLaMA (Touvron et al., 2023): RMSNorm before each branch, rotary positions, a gated feed-forward."""

import math

import numpy as np

from llmc.checks import one_of
from llmc.families.row import Row, add

MODULES = {
    "root": "model", "embed": "embed_tokens", "block": "layers", "final_norm": "norm", "head": "lm_head",
    "attention_norm_in": "input_layernorm", "attention": "self_attn",
    "q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj",
    "feed_forward_norm_in": "post_attention_layernorm", "feed_forward": "mlp",
    "gate": "gate_proj", "up": "up_proj", "down": "down_proj",
}  # fmt: skip


def kv_init(value, name):
    """How `k_proj` and `v_proj` start: as a LLaMA's, or as in the code of LIMe's authors."""
    return one_of(value, name, ("llama", "authors"))


def _uniform(generator, out, rows, layer):
    generator.random(dtype=np.float32, out=out)
    out -= np.float32(0.5)
    out *= np.float32(2 / math.sqrt(out.shape[1]))


def start_of_keys_and_values(config):
    """Uniform up to 1 / sqrt(inputs), as torch starts a matrix that no rule of a family reaches."""
    return _uniform if config.kv_init == "authors" else None


LLAMA = Row(
    model_type="llama",
    architecture="LlamaForCausalLM",
    norm="rms",
    position="rope",
    feed_forward="gated",
    modules=MODULES,
    spellings={"norm_eps": "rms_norm_eps", "attn_pdrop": "attention_dropout"},
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
    checks={"kv_init": kv_init},
    implied={"kv_init": "llama"},
    exclusive=("kv_init",),
    starts={"k": start_of_keys_and_values, "v": start_of_keys_and_values},
    pads=True,
    peft_targets=("q_proj", "v_proj"),
    kept=("pretraining_tp",),
)  # fmt: skip

add(LLAMA)
