"""Mistral (Jiang et al., 2023): a LLaMA whose queries see a window of keys."""

from dataclasses import replace

from llmc.families.llama import LLAMA
from llmc.families.row import add

_BIASES = ("attention_bias", "mlp_bias")

add(
    replace(
        LLAMA,
        model_type="mistral",
        architecture="MistralForCausalLM",
        defaults={name: value for name, value in LLAMA.defaults.items() if name not in _BIASES}
        | dict(intermediate_size=14336, num_key_value_heads=8, max_position_embeddings=131072, sliding_window=4096),
        fixed={name: value for name, value in LLAMA.fixed.items() if name != "sliding_window"}
        | {name: False for name in _BIASES},
        checks={},
        implied={},
        starts={},
        heads_divide_width=False,
    )
)
