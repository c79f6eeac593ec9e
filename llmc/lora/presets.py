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

_FUSED = {"qkv": ("q", "k", "v")}  # a matrix that plays several parts


def translate(targets, family, parts, modules):
    """`target_modules` as peft understands it: presets and None become lists of names.

    Parameters
    ----------
    targets : None, str or list of str
    family : llmc.families.Row
    parts : dict of str to str
        {path: part} of the linears that "all-linear" means: those of the blocks.
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
        if not family.peft_targets:
            raise ConfigError(f"target_modules is None, and peft has no default for {family.model_type}; "
                              f"give a preset ({', '.join(PRESETS)}) or names")
        return list(family.peft_targets)
    if isinstance(targets, str) and targets.lower() == "all-linear":
        return condense([path for path, part in parts.items() if part not in family.unadapted], modules)
    if isinstance(targets, str) and targets in PRESETS:
        return _names(targets, parts, modules)
    return targets


def _names(preset, parts, modules):
    wanted = set(PRESETS[preset])
    paths = []
    for path, part in parts.items():
        plays = _FUSED.get(part, (part,))
        if wanted.isdisjoint(plays):
            continue
        if not wanted.issuperset(plays):
            end = path.rpartition(".")[2]
            raise ConfigError(
                f"target_modules {preset!r} is {' and '.join(PRESETS[preset])} alone, but this family keeps "
                f"{', '.join(plays)} in one matrix, {end}, and an adapter of it reaches all of them; "
                f"take 'context' or ['{end}'] to adapt {', '.join(plays)}")
        paths.append(path)
    if not paths:
        raise ConfigError(f"target_modules {preset!r}: this model has none of {', '.join(PRESETS[preset])}; "
                          f"take 'all-linear' or names")
    return condense(paths, modules)
