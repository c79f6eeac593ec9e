"""Roles: what a tensor is for, told by its Hugging Face name."""

import re

# The role of a tensor is the first of these found in its name.
ROLES = (
    ("adapter", r"(^|[._])lora_"),
    ("buffer", r"\.attn\.(masked_)?bias$|inv_freq$|position_ids$"),
    ("norm", r"(^|\.)(\w*norm|ln_\w+)\.(weight|bias)$"),
    ("embedding", r"(^|\.)(embed_tokens|wte|wpe|tokens_embed|positions_embed)\."),
    ("head", r"(^|\.)(lm_head|embed_out)\."),
    ("attention", r"(^|\.)(self_attn|attn)\."),
    ("feed-forward", r"(^|\.)(mlp|feed_forward)\."),
)


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
