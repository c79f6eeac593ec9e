"""The tree of a model: as torch prints it, and as a table."""

from llmc.run import Run


def _modules(model):
    """{path: kind} of the modules, in order; kinds of those with weights come from the plan's steps."""
    run = Run(model, 1, 1)
    paths = [row[0] for row in run._core.modules()]
    steps = {}
    for op, path, _, flops, *_ in run._core.steps():
        steps.setdefault(path, (op, 0.0))
        steps[path] = (steps[path][0], steps[path][1] + flops)
    return paths, steps


def _weights(model):
    """{module path: {leaf: array}}"""
    modules = {}
    for name, array in model.state_dict().items():
        path, _, leaf = name.rpartition(".")
        modules.setdefault(path, {})[leaf] = array
    return modules


def _kind(model, path, weights, op):
    weight = weights["weight"]
    if op == "embed":
        return f"Embedding({weight.shape[0]}, {weight.shape[1]})"
    if op in ("layernorm", "rmsnorm"):
        name = {"layernorm": "LayerNorm", "rmsnorm": "RMSNorm"}[op]
        return f"{name}(({weight.shape[0]},), eps={model._spec['norm_eps']:g})"
    bias = "bias" in weights
    if model._model.in_out and path != model._model.head_name:
        return f"Conv1D(nf={weight.shape[1]}, nx={weight.shape[0]})"
    return f"Linear(in_features={weight.shape[1]}, out_features={weight.shape[0]}, bias={bias})"


def text(model):
    """The tree, equal layers folded into one."""
    paths, steps = _modules(model)
    weights = _weights(model)
    root = {}
    for path in sorted(paths, key=_order(paths)):
        node = root
        for part in path.split("."):
            node = node.setdefault(part, {})
    kinds = {path: _kind(model, path, weights[path], steps[path][0]) for path in weights if path in steps}
    name = (model.config.architectures or [type(model).__name__])[0]
    return "\n".join([f"{name}(", *_lines(root, kinds, "", 1), ")"])


def _order(paths):
    """Modules are left after their children: sort by where the first of each subtree stands."""
    first = {}
    for i, path in enumerate(paths):
        parts = path.split(".")
        for depth in range(1, len(parts) + 1):
            first.setdefault(".".join(parts[:depth]), i)
    return lambda path: [first[".".join(path.split(".")[: d + 1])] for d in range(path.count(".") + 1)]


def _lines(node, kinds, prefix, depth):
    lines, pad = [], "  " * depth
    if node and all(part.isdigit() for part in node):
        blocks = {part: _lines(child, kinds, f"{prefix}{part}.", depth + 1) for part, child in node.items()}
        parts = list(node)
        start = 0
        for i in range(1, len(parts) + 1):
            if i < len(parts) and blocks[parts[i]] == blocks[parts[start]]:
                continue
            alone = i - start == 1
            span, times = (parts[start], "") if alone else (f"{parts[start]}-{parts[i - 1]}", f"{i - start} x ")
            lines += [f"{pad}({span}): {times}Block(", *blocks[parts[start]], f"{pad})"]
            start = i
        return lines
    for part, child in node.items():
        path = prefix + part
        if child:
            inner = _lines(child, kinds, f"{path}.", depth + 1)
            lines += [f"{pad}({part}): {_container(part, child)}(", *inner, f"{pad})"]
        else:
            lines.append(f"{pad}({part}): {kinds.get(path, 'Module()')}")
    return lines


def _container(part, child):
    if all(name.isdigit() for name in child):
        return "ModuleList"
    return {"attn": "Attention", "self_attn": "Attention", "mlp": "MLP"}.get(part, part.capitalize())


def summary_rows(model):
    """One row a module with weights, in the order of a forward pass."""
    paths, steps = _modules(model)
    weights = _weights(model)
    tied = model._model.head_name if model.config.tie_word_embeddings else None
    rows = []
    for path in sorted((p for p in paths if p in weights), key=_order(paths)):
        op, flops = steps.get(path, ("linear", 0.0))
        own = {} if path == tied else weights[path]
        rows.append({
            "module": path, "kind": _kind(model, path, weights[path], op).partition("(")[0],
            "shape": weights[path]["weight"].shape, "parameters": sum(a.size for a in own.values()),
            "FLOPs": int(flops), "bytes": sum(a.nbytes for a in own.values()),
        })  # fmt: skip
    return rows
