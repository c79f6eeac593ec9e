"""The files of LIMe's authors: their names and layouts, of version 2 and of version 1."""

from llmc.families.spelling import Spelling

_Q, _K, _V = (f"self_attn.{part}_proj.weight" for part in "qkv")

LIME = (Spelling("self_attn.kv_proj_weight", of=(_K, _V), theirs=("nDG", "C"), ours=("n", "GD", "C")),)

LIME1 = (
    Spelling("self_attn.q_proj_default.weight", of=(_Q,), first_layer=1),
    *(
        Spelling(f"self_attn.{name}_proj_lime.lime_kv_proj", of=(own,), theirs=("n", "H", "C", "D"),
                 ours=("n", "HD", "C"), first_layer=1)
        for name, own in (("k", _K), ("v", _V))
    ),
    Spelling("attention_router.top_p_weights", of=()),
)  # fmt: skip
