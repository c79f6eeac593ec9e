"""Attached: one adapter of a model, what it adapts and how its tensors are called in files."""

from dataclasses import dataclass

from llmc.errors import ConfigError
from llmc.lora.adapter_files import PREFIX
from llmc.lora.presets import translate
from llmc.lora.suffixes import condense
from llmc.lora.targets import find_targets, is_saved, pattern_value, warn_unused


@dataclass(frozen=True)
class Branch:
    """The low-rank branch beside one linear."""

    rank: int
    alpha: float
    scale: float


@dataclass(frozen=True)
class Attached:
    """One adapter.

    Attributes
    ----------
    config : LoraConfig
        With the names of modules that peft understands in place of a preset.
    branches : dict of str to Branch
        By the path of the linear.
    copies : dict of str to bool
        Parameters of the base that have a trained copy; True: a bias of `bias`, False: of `modules_to_save`.
    """

    config: object
    branches: dict
    copies: dict

    def keys(self, name):
        """{key in peft's file: name of the tensor in a model where the adapter is called `name`}."""
        pairs = {f"{PREFIX}{path}.lora_{half}.weight": f"{path}.lora_{half}.{name}.weight"
                 for path in self.branches for half in "AB"}
        for parameter, is_bias in self.copies.items():
            module, _, leaf = parameter.rpartition(".")
            inside = ".base_layer" if is_bias and module in self.branches else ""
            pairs[f"{PREFIX}{module}{inside}.{leaf}"] = copy_name(parameter, name)
        return pairs

    def shapes(self, linears, parameters):
        """{key in peft's file: shape}."""
        shapes = {}
        for path, branch in self.branches.items():
            inputs, outputs = linears[path]
            shapes[f"{PREFIX}{path}.lora_A.weight"] = (branch.rank, inputs)
            shapes[f"{PREFIX}{path}.lora_B.weight"] = (outputs, branch.rank)
        copied = list(self.keys(""))[2 * len(self.branches):]
        return shapes | {key: parameters[name] for key, name in zip(copied, self.copies)}


def copy_name(parameter, adapter):
    """What the trained copy of a parameter is called."""
    module, _, leaf = parameter.rpartition(".")
    return f"{module}.lora_copy.{adapter}.{leaf}"


def attach(config, family, layout, parameters, tied, layers, strict=True):
    """What a config adapts in a model.

    Parameters
    ----------
    config : LoraConfig
    family : llmc.families.Row
    layout : dict
        {name: (part, layer, inputs, outputs)} of the base's parameters.
    parameters : dict of str to shape
        The base's, a tied head's among them.
    tied : tuple of str
        Parameters that are one: the head's and the embedding's, or none. Copies of them are apart.
    layers : int
    strict : bool
        Refuse a config of which one of several names matches nothing; peft's files may have such.

    Returns
    -------
    Attached

    Raises
    ------
    UnknownNameError, ConfigError
        When a name matches nothing, or means what cannot be adapted.
    """
    modules = module_paths(parameters)
    linears = {name.rpartition(".")[0]: part for name, (part, _, inputs, _) in layout.items() if inputs}
    in_blocks = {path: part for path, part in linears.items() if part != "head"}
    config = config.replace(target_modules=translate(config.target_modules, family, in_blocks, modules))
    paths = find_targets(config, linears, modules, layers, strict)
    _check_parts(family, {path: linears[path] for path in paths})
    if strict:
        warn_unused(config, paths, modules)
    copies = _saved(config, modules, parameters, paths, tied)
    copies |= {name: True for name in _biases(config, parameters, paths) if name not in copies}
    return Attached(config, {path: _branch(config, path) for path in paths}, copies)


def _check_parts(family, parts):
    for path, part in parts.items():
        if part in family.unadapted:
            raise ConfigError(f"target_modules means {path}, which can carry no adapter: every head of a "
                              f"{family.model_type} reads another mixture of streams; leave it out, or train it whole "
                              "with modules_to_save")


def exact(config, branches, modules):
    """A config that means exactly `branches`, {path: Branch} of one rank."""
    return config.replace(
        target_modules=condense(branches, modules), exclude_modules=None, layers_to_transform=None, layers_pattern=None,
        rank_pattern={}, alpha_pattern={}, use_rslora=False, lora_dropout=0.0, init_lora_weights=True,
    )  # fmt: skip


def module_paths(parameters):
    """Every module that parameters of these names lie in, outermost first."""
    paths = {}
    for name in parameters:
        parts = name.split(".")[:-1]
        paths.update(dict.fromkeys(".".join(parts[:depth]) for depth in range(1, len(parts) + 1)))
    return list(paths)


def _branch(config, path):
    rank = pattern_value(config.rank_pattern, path, config.r)
    alpha = pattern_value(config.alpha_pattern, path, config.lora_alpha)
    return Branch(rank, alpha, config.scale(rank, alpha))


def _saved(config, modules, parameters, paths, tied):
    saved = [path for path in modules if is_saved(config, path)]
    for path in saved:
        if config.ensure_weight_tying and any(name.startswith(f"{path}.") for name in tied):
            raise ConfigError(f"ensure_weight_tying: one copy for {' and '.join(tied)} is not trained here; leave it "
                              f"out, so that {path} gets a copy of its own")
        if both := next((target for target in paths if f"{target}.".startswith(f"{path}.")), None):
            raise ConfigError(f"modules_to_save {config.modules_to_save} trains {both} whole, and target_modules "
                              f"adapts it; leave it out of one of them")
    return {name: False for name in parameters if any(name.startswith(f"{path}.") for path in saved)}


def _biases(config, parameters, paths):
    if config.bias == "none":
        return []
    biases = [name for name in parameters if name.endswith(".bias")]
    return biases if config.bias == "all" else [name for name in biases if name.removesuffix(".bias") in set(paths)]
