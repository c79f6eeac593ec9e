"""Roles: what a tensor is for and where it stands, told by its Hugging Face name."""

import re

# Constants that older releases stored; they follow from the configuration.
BUFFER = (r"(?:.*\.)?(?:attn\.bias|attn\.masked_bias|attention\.bias|attention\.masked_bias|position_ids"
          r"|rotary_emb\.inv_freq|rotary_emb\.cos_cached|rotary_emb\.sin_cached|rope_freqs\.weight)$")  # fmt: skip
# The role of a tensor is the first of these found in its name.
ROLES = (
    ("adapter", r"(^|[._])lora_"),
    ("buffer", rf"^{BUFFER}|inv_freq$"),
    ("norm", r"(^|\.)(\w*norm(_lime)?|\w*[lL]ayer_?[nN]orm|ln_\w+)\.(weight|bias)$"),
    ("embedding", r"(^|\.)(embed_tokens|wte|wpe|tokens_embed|positions_embed|embed_positions|embed_in|"
                  r"(word|position|token_type)_embeddings)\."),
    ("head", r"(^|\.)(lm_head|embed_out)\."),
    ("attention", r"(^|\.)(self_attn|attn|self_attention|attention|attention_router|hc_attn)\."),
    ("feed-forward", r"(^|\.)(mlp|feed_forward|block_sparse_moe|hc_mlp)\."),
)  # fmt: skip


def role(name):
    """What a tensor is for.

    Parameters
    ----------
    name : str
        Its name in a checkpoint.

    Returns
    -------
    {"adapter", "buffer", "norm", "embedding", "head", "attention", "feed-forward", "other"}
        "other" when the name does not say.
    """
    return next((word for word, pattern in ROLES if re.search(pattern, name)), "other")


def layer(name):
    """The first number between the dots of a name; None where there is none.

    >>> layer("model.layers.3.mlp.experts.0.w1.weight")
    3
    """
    number = next((each for each in name.split(".")[1:-1] if each.isdecimal()), None)
    return None if number is None else int(number)


def part(name):
    """The module that a tensor belongs to, within its block; outside the blocks its whole path.

    >>> part("model.layers.3.self_attn.q_proj.weight"), part("model.norm.weight")
    ('self_attn.q_proj', 'model.norm')
    """
    parts = name.split(".")
    start = next((at + 1 for at, each in enumerate(parts[1:-1], 1) if each.isdecimal()), 0)
    return ".".join(parts[start:-1]) or parts[-1]
