"""The hook points of a model as an analysis sees them: what each is, and where in the network it stands."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Module:
    """One hook point.

    Attributes
    ----------
    name : str
        Its dotted path.
    kind : str
        "embedding", "norm", "linear", "adapter", "attention", "router", "connection", "feed-forward", "block", "head"
        or "model".
    layer : int or None
        Its block; None outside the blocks.
    part : str
        Its path within the block ("" is the block itself), or the whole path outside.
    role : str
        What it is in the architecture, in the core's word: "q", "norm", "attention" …
    """

    name: str
    kind: str
    layer: int | None
    part: str
    role: str

    @property
    def is_branch(self):
        """Whether its output joins the residual stream."""
        return self.kind in ("attention", "feed-forward")

    @property
    def is_skippable(self):
        """Whether the model can run without it: a block, or a branch of one."""
        return self.kind == "block" or self.is_branch

    @property
    def is_attention_projection(self):
        """Whether it is a linear of the attention."""
        return self.kind == "linear" and self.role in ("q", "k", "v", "qkv", "o")


_KINDS = {"root": "model", "block": "block", "attention": "attention", "feed_forward": "feed-forward", "norm": "norm",
          "embed": "embedding", "positions": "embedding", "head": "head",
          "pattern": "attention", "router": "router", "attention_connection": "connection",
          "feed_forward_connection": "connection"}  # the rest are linears


def modules(parts, shapes):
    """The hook points of a model.

    Parameters
    ----------
    parts : dict
        {name: (part, layer)}, as `run.parts()` gives them.
    shapes : dict
        {name: …} of the hook points and of adapters, whose names continue those of the linears they belong to.

    Returns
    -------
    list of Module
    """
    found = []
    for name in shapes:
        linear = name.partition(".lora_")[0]
        role, layer = parts[linear]
        kind = "adapter" if name != linear else _KINDS.get(role, "linear")
        found.append(Module(name, kind, layer, path_within(name, layer), role))
    return found


def path_within(name, layer):
    """The path of a module within its block, "" for the block itself; the whole path outside the blocks."""
    if layer is None:
        return name
    steps = name.split(".")
    return ".".join(steps[steps.index(str(layer)) + 1 :])
