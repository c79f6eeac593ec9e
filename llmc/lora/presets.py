"""Presets: what people adapt, in the names of the modules that a model has.

"domain" (q, v) for a new domain, style or body of knowledge; "context" (q, k, v) for how context is understood: logic,
code, structured data; "attention" (q, k, v, o) for hard reasoning and specialised analysis; "mlp" (gate, up, down) for
formats and how information is generalised; "all-linear" for all of them.
"""

from llmc.errors import ConfigError
from llmc.lora.suffixes import condense

PRESETS = {
    "domain": ("q", "v"),
    "context": ("q", "k", "v"),
    "attention": ("q", "k", "v", "o"),
    "mlp": ("gate", "up", "down"),
    "all-linear": None,
}

# The end of a linear's path, and the parts it plays; a fused one plays several.
_PARTS = {
    "q_proj": ("q",), "k_proj": ("k",), "v_proj": ("v",), "o_proj": ("o",),
    "gate_proj": ("gate",), "up_proj": ("up",), "down_proj": ("down",),
    "c_attn": ("q", "k", "v"), "attn.c_proj": ("o",), "mlp.c_fc": ("up",), "mlp.c_proj": ("down",),
}  # fmt: skip

# What peft adapts when target_modules is None, by model_type.
_DEFAULTS = {"gpt2": ["c_attn"], "llama": ["q_proj", "v_proj"], "mistral": ["q_proj", "v_proj"]}


def translate(targets, model_type, linears, modules):
    """`target_modules` as peft understands it: presets and None become lists of names.

    Parameters
    ----------
    targets : None, str or list of str
    model_type : str
    linears : iterable of str
        Paths of the linears that "all-linear" means: those of the blocks.
    modules : iterable of str
        Paths of all modules.

    Returns
    -------
    str or list of str

    Raises
    ------
    ConfigError
        When peft has no default for the family, or a preset takes a part of a fused matrix.
    """
    if targets is None:
        if model_type not in _DEFAULTS:
            raise ConfigError(f"target_modules is None, and peft has no default for {model_type}; "
                              f"give a preset ({', '.join(PRESETS)}) or names")
        return list(_DEFAULTS[model_type])
    if isinstance(targets, str) and targets.lower() == "all-linear":
        return condense(linears, modules)
    if isinstance(targets, str) and targets in PRESETS:
        return _names(targets, linears)
    return targets


def _names(preset, linears):
    wanted = set(PRESETS[preset])
    names = []
    for end, parts in _PARTS.items():
        if wanted.isdisjoint(parts) or not any(path.endswith(f".{end}") for path in linears):
            continue
        if not wanted.issuperset(parts):
            raise ConfigError(
                f"target_modules {preset!r} is {' and '.join(PRESETS[preset])} alone, but this family keeps "
                f"{', '.join(parts)} in one matrix, {end}, and an adapter of it reaches all of them; "
                f"take 'context' or ['{end}'] to adapt {', '.join(parts)}")
        names.append(end)
    if not names:
        raise ConfigError(f"target_modules {preset!r}: this model has none of {', '.join(PRESETS[preset])}; "
                          f"take 'all-linear' or names")
    return names
