"""The tree of a model: as torch prints it, and as a table."""

from llmc.lora import overview
from llmc.run import Run
from llmc.show.table import Table, count


def _modules(model):
    """{path: (part, FLOPs)} of the modules, in the order in which a forward pass leaves them."""
    run = Run(model, 1, 1)
    flops = {}
    for op, path, _, count_of_step, *_ in run._core.steps():
        if op != "low_rank":  # an adapter's, which has its own place
            flops[path] = flops.get(path, 0.0) + count_of_step
    found = {path: (part, flops.get(path, 0.0)) for path, (part, _) in run.parts().items()}
    return _with_containers(found, model._model.layout())


def _with_containers(found, layout):
    """The same with what has weights but is no hook point, where it stands; it costs what is computed inside it."""
    parts = {name.rpartition(".")[0]: part for name, (part, *_) in layout.items()}
    before, waiting = {}, []
    for path in parts:
        if path in found:
            before[path], waiting = waiting, []
        else:
            waiting.append(path)
    placed = {}
    for path, what in found.items():
        for each in before.get(path, ()):
            inside = (flops for name, (_, flops) in found.items() if name.startswith(f"{each}."))
            placed[each] = parts[each], sum(inside, 0.0)
        placed[path] = what
    return placed


def _weights(model):
    """{module path: {leaf: array}}"""
    modules = {}
    for name, array in model._stored_tensors().items():
        path, _, leaf = name.rpartition(".")
        modules.setdefault(path, {})[leaf] = array
    return modules


_CONNECTIONS = ("attention_connection", "feed_forward_connection")
_NORMS = {"layer": "LayerNorm", "rms": "RMSNorm"}


def _kind(model, part, weights):
    if part in _CONNECTIONS:
        return f"HyperConnection({model._spec['streams']}, dynamic={model._spec['dynamic']})"
    if "weight" not in weights:
        return "Router"
    weight = weights["weight"]
    if part in ("embed", "positions"):
        return f"Embedding({weight.shape[0]}, {weight.shape[1]})"
    if part == "norm":
        return f"{_NORMS[model._spec['norm']]}(({weight.shape[0]},), eps={model._spec['norm_eps']:g})"
    if model._spec["in_out"] and part != "head":
        return f"Conv1D(nf={weight.shape[1]}, nx={weight.shape[0]})"
    return f"Linear(in_features={weight.shape[1]}, out_features={weight.shape[0]}, bias={'bias' in weights})"


def text(model):
    """The tree, equal layers folded into one."""
    modules, weights = _modules(model), _weights(model)
    root = {}
    for path in sorted(modules, key=_order(modules)):
        node = root
        for name in path.split("."):
            node = node.setdefault(name, {})
    beside = overview.in_tree(model.adapters, model.adapters.states())
    bare = f"LayerNorm(({model.config.hidden_size},), eps={model._spec['branch_norm_eps']:g}, elementwise_affine=False)"
    kinds = {path: bare if part == "norm" else _CONTAINERS.get(part) for path, (part, _) in modules.items()}
    kinds |= {path: _kind(model, modules[path][0], weights[path]) + beside.get(path, "")
              for path in weights if path in modules}
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
    if any(node.values()) and all(part.isdigit() for part in node):
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
            lines += [f"{pad}({part}): {_container(part, child, kinds.get(path))}(", *inner, f"{pad})"]
        else:
            lines.append(f"{pad}({part}): {kinds.get(path, 'Module()')}")
    return lines


_CONTAINERS = {"attention": "Attention", "feed_forward": "MLP", "router": "Route()"}  # a router that holds no other


def _container(name, child, kind):
    if all(inner.isdigit() for inner in child):
        return "ModuleList"
    return "Router" if kind == _CONTAINERS["router"] else kind or name.capitalize()


def summary(model):
    """A table: one row a module with weights, in the order of a forward pass, each adapter's own below its linear."""
    modules, weights = _modules(model), _weights(model)
    tied = model._model.head_name if model.config.tie_word_embeddings else None
    rows = []
    for path in sorted((path for path in modules if path in weights), key=_order(modules)):
        part, flops = modules[path]
        kind = _kind(model, part, weights[path]).partition("(")[0]
        shape = weights[path].get("weight", next(iter(weights[path].values()))).shape
        rows.append(_row(path, kind, {} if path == tied else weights[path], shape, flops))
        rows += [row for name, state in model.adapters.states().items()
                 for row in _adapter_rows(path, name, state, weights)]
    note = f"{model.num_parameters():,} parameters, {count(sum(row['FLOPs'] for row in rows), 'FLOP')} a token"
    return Table(["module", "kind", "shape", "parameters", "FLOPs", "bytes"], rows, note)


def _adapter_rows(path, name, state, weights):
    """What an adapter has at a module, under the names of its tensors."""
    for kind, part in (("LoRA", "lora_A"), ("LoRA", "lora_B"), ("copy", "lora_copy")):
        own = weights.get(f"{path}.{part}.{name}")
        if own is None:
            continue
        shape = next(iter(own.values())).shape
        multiplies = kind == "LoRA" and state.computes
        yield _row(f"{path}.{part}.{name}", kind, own, shape, 2 * shape[0] * shape[1] if multiplies else 0)


def _row(path, kind, own, shape, flops):
    return {"module": path, "kind": kind, "shape": shape, "parameters": sum(a.size for a in own.values()),
            "FLOPs": int(flops), "bytes": sum(a.nbytes for a in own.values())}
