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
        "embedding", "norm", "linear", "adapter", "attention", "feed-forward", "block", "head" or "model".
    layer : int or None
        Its block; None outside the blocks.
    part : str
        Its path within the block ("" is the block itself), or the whole path outside.
    """

    name: str
    kind: str
    layer: int | None
    part: str

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
        return self.kind == "linear" and "attn" in self.part.split(".")[0]


def modules(model, shapes):
    """The hook points of a model.

    Parameters
    ----------
    model : llmc.Model
    shapes : dict
        {name: (input shape or None, output shape)} of every hook point; None: it reads ids.

    Returns
    -------
    list of Module
    """
    weights, head = model._stored_tensors(), model._model.head_name
    found = []
    for name, (input_shape, _) in shapes.items():
        steps = name.split(".")
        numbers = [i for i, step in enumerate(steps) if step.isdigit()]
        layer = int(steps[numbers[0]]) if numbers else None
        part = ".".join(steps[numbers[0] + 1 :]) if numbers else name
        weight = weights.get(f"{name}.weight")
        kind = "adapter" if ".lora_" in name else _kind(part, layer, weight, input_shape is None, name == head)
        found.append(Module(name, kind, layer, part))
    return found


def _kind(part, layer, weight, reads_ids, is_head):
    if is_head:
        return "head"
    if weight is not None:
        return "embedding" if reads_ids else "norm" if weight.ndim == 1 else "linear"
    if layer is None:
        return "model"
    if not part:
        return "block"
    return "attention" if "attn" in part else "feed-forward"
