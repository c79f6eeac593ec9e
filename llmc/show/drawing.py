"""Drawing: a block of an architecture as lines, read from its recorded plan."""

from collections import namedtuple

_Step = namedtuple("_Step", "op path ins outs")
_ARM, _IN, _BACK, _STREAM = " ├──▶ ", " │    ", " +◀───┘", " │"


def drawing(config, core):
    """The blocks of a model: norms, branches and where they rejoin the stream, with sizes.

    Parameters
    ----------
    config : Config
    core : _core.Model
        Made from `config.spec()`; it needs no memory.

    Returns
    -------
    str
        A block for each kind of layer there is.
    """
    spec = config.spec()
    rows, modules = core.plan()
    steps = [_Step(*row) for row in rows]
    ops = {}
    for step in steps:
        ops.setdefault(modules.get(step.path, (None, None))[1], []).append(step.op)
    layers = {}  # equal ones together
    for i, layer in enumerate(spec["layers"]):
        layers.setdefault((*sorted(layer.items()), *ops[i]), []).append(i)
    blocks = {row[1]: name for name, row in modules.items() if row[0] == "block"}
    parts = []
    for same in layers.values():
        parts.append(_title(config, same, len(spec["layers"])))
        parts += _Block(spec, same[0], blocks[same[0]], steps, modules).lines() + [""]
    return "\n".join(parts).rstrip() + "\n"


def _title(config, same, count):
    runs = [[same[0], same[0]]]
    for i in same[1:]:
        if i == runs[-1][1] + 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    which = ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)
    return f"{config.architectures[0]}: block{'s' * (len(same) > 1)} {which} of {count}\n"


class _Block:
    """The lines of one block."""

    def __init__(self, spec, layer, path, steps, modules):
        self.spec, self.own, self.path, self.modules = spec, spec["layers"][layer], path, modules
        self.steps = [step for step in steps if step.path.startswith(f"{path}.") or step.path == path]
        self.stream = modules[path][2]
        self.made_by = {place: name for step in steps for place, name, _ in step.outs}
        self.widths = {place: width for step in steps for place, _, width in step.outs}

    def lines(self):
        count = self.spec["streams"]
        width = f"{f'{count} streams' if count > 1 else 'stream'} ({self.spec['hidden_size']})"
        found, inside = [width, _STREAM], False
        for step in self.steps:
            if step.op in ("add", "hyper_depth"):
                found += [_BACK, _STREAM]
                self.stream, inside = step.outs[0][0], False
                continue
            text = self._texts(step)
            if self._part(step).endswith("norm_sum"):
                found += [f"{_STREAM}{' ' * (len(_IN) - len(_STREAM))}{line}" for line in text] + [_STREAM]
                self.stream = step.outs[0][0]
                continue
            if not inside and step.ins and step.ins[0] != self.stream:
                text.insert(0, f"(what {self._name(self.made_by[step.ins[0]])} gave)")
            found += [(_IN if inside or i else _ARM) + line for i, line in enumerate(text)]
            inside = True
        return [*found, width]

    def _part(self, step):
        return self.modules[step.path][0] if step.path in self.modules else ""

    def _name(self, path):
        return path.removeprefix(f"{self.path}.")

    def _texts(self, step):
        describe = getattr(self, f"_{step.op}", None)
        return describe(step) if describe else [f"{self._name(step.path):30}{step.op}"]

    def _rmsnorm(self, step):
        return [f"{self._name(step.path):30}RMSNorm"]

    def _layernorm(self, step):
        return [f"{self._name(step.path):30}LayerNorm{' without weights' * (self.spec['branch_norm'] == 'bare')}"]

    def _hyper_width(self, step):
        how = "as each token says" if self.spec["dynamic"] else "the same of every token"
        return [f"{self._name(step.path):30}a mixture of the streams, {how}"]

    def _linear(self, step):
        return [f"{self._name(name):29} {self._inputs(name)} → {width}" for _, name, width in step.outs]

    def _inputs(self, name):
        return self.widths[self.modules[name][2]]

    def _rope(self, step):
        return [f"{'rope':30}on {self._name(self.made_by[step.ins[0]])}"]

    def _route(self, step):
        heads = self.spec["num_key_value_heads"]
        return [f"{self._name(step.path):30}{heads} heads routed from this layer and those before it"]

    def _statistic(self, step):
        return []  # a norm without its row of numbers: the mixtures apply it

    def _softmax_offered(self, step):
        heads = self.spec["num_attention_heads"]
        return [f"{self._name(step.path):30}{heads} heads weigh this stream and those of the layers before it"]

    def _prune(self, step):
        return [f"{'':30}each keeps the likeliest, above {self.spec['router_top_p']:g} together"]

    def _mixture(self, step):
        heads, size = self.spec["num_attention_heads"], self.spec["head_dim"]
        return [f"{self._name(name):30}{heads} x {self.spec['hidden_size']} → {size}, a mixture of streams each"
                for _, name, _ in step.outs]

    def _attend(self, step):
        heads, groups = self.spec["num_attention_heads"], self.spec["num_key_value_heads"]
        text = f"{'attention':30}{heads} heads of {self.spec['head_dim']}"
        text += f", {groups} of keys and values" if groups != heads else ""
        return [text + (f", a window of {self.own['window']}" if self.own["window"] else "")]

    def _gate(self, step):
        gate, up = (self._name(self.made_by[place]).rpartition(".")[2] for place in step.ins)
        return [f"{self.spec['activation']}({gate}) · {up}"]

    def _activate(self, step):
        return [self.spec["activation"]]
