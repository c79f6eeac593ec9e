"""Linears: which modules of a base an adapter can stand beside, which of them are meant, and what they are called."""

import os

from llmc.checkpoint.names import bare_name
from llmc.checkpoint.roles import layer, role
from llmc.config import Config
from llmc.config.json_files import read_json
from llmc.errors import ConfigError
from llmc.families.row import rows as families
from llmc.lora.attached import attach, module_paths
from llmc.lora.presets import PRESETS
from llmc.lora.suffixes import condense
from llmc.lora.targets import find_targets, is_saved
from llmc.system.small_file import is_there

_ALL = "all-linear"


class Linears:
    """The linears of a base.

    Parameters
    ----------
    base : Side
    config : LoraConfig
        What is to be adapted, and kept whole.

    Attributes
    ----------
    targets : dict of str to (O, I)
        The linears that are meant, by their paths.
    parameters : dict of str to shape
        Every parameter of the model, a tied head's among them.

    Raises
    ------
    UnknownNameError, ConfigError
        When a name matches nothing, or means what cannot be adapted.
    """

    def __init__(self, base, config):
        self._config, self._tied = config, ()
        if base.config.get("model_type") in families():
            self._from_config(base)
        else:
            self._from_names(base)
        self._parameter_of = {bare_name(name): name for name in self.parameters}
        self._saved = {name for name in self.parameters if is_saved(config, name.rpartition(".")[0])}

    def _from_config(self, base):
        """As a Model of the base's configuration has them."""
        from llmc.model import Model

        config = _config(base)
        core = Model._core.Model(config.spec(), False)
        layout, self.parameters = core.layout(), {name: tuple(shape) for name, shape in core.shapes().items()}
        head, embedding = f"{core.head_name}.weight", f"{core.embedding_name}.weight"
        if config.tie_word_embeddings:
            self._tied = embedding, head
            self.parameters[head] = self.parameters[embedding]
        attached = attach(self._config, config._family, layout, self.parameters, self._tied, config.num_hidden_layers)
        self.targets = {path: tuple(core.linears()[path][::-1]) for path in attached.branches}
        self._in_out = bool(core.in_out)

    def _from_names(self, base):
        """As the names of matrices say, where no configuration of a known family is there."""
        names = [name for name in base.names() if role(name) != "buffer"]
        self.parameters = {name: tuple(base.shape(name)) for name in names}
        matrices = {name.removesuffix(".weight"): self.parameters[name] for name in names
                    if name.endswith(".weight") and len(self.parameters[name]) == 2}  # fmt: skip
        linears = {path: shape for path, shape in matrices.items() if role(f"{path}.weight") != "embedding"}
        config, modules = self._config, module_paths(names)
        targets = config.target_modules
        if targets is None or isinstance(targets, str) and targets in PRESETS and targets != _ALL:
            raise ConfigError(f"target_modules {targets!r} needs a config.json beside the base that says its family; "
                              f"give names, or {_ALL!r}")
        if targets == _ALL:
            blocks = [path for path in linears if role(f"{path}.weight") != "head"]
            config = config.replace(target_modules=condense(blocks, modules))
        layers = 1 + max((number for name in names if (number := layer(name)) is not None), default=0)
        found = find_targets(config, linears, modules, layers)
        turned = {path: base.lies_in_out(f"{path}.weight") for path in found}
        self.targets = {path: linears[path][::-1] if turned[path] else linears[path] for path in found}
        self._in_out = any(turned.values())

    def module_of(self, pair):
        """The path of the targeted linear whose weight a pair's base is; None for any other pair."""
        if pair.base is None or pair.title is not None:
            return None
        name = self._parameter_of.get(bare_name(pair.base.name), "")
        path = name.removesuffix(".weight")
        return path if name.endswith(".weight") and path in self.targets else None

    def copy_of(self, pair):
        """The name of the parameter that a pair may be kept whole as; None where there is none."""
        return self._parameter_of.get(bare_name(pair.title or (pair.base or pair.tuned).name))

    def is_saved(self, name):
        """Whether a parameter is of a module that is to be kept whole."""
        return name in self._saved

    def adapter(self, ranks, copies, base):
        """(LoraConfig, copies) of an adapter with these ranks: every parameter of a module that is kept is kept.

        Parameters
        ----------
        ranks : dict of str to int
            By the path of the linear.
        copies : dict of str to array
        base : Side
        """
        saved = list(dict.fromkeys(name.rpartition(".")[0] for name in copies))
        copies = dict(copies)
        if self._tied and self._tied[0] in copies and self._tied[1] not in copies:  # one matrix, two copies of it
            copies[self._tied[1]] = copies[self._tied[0]]
            saved.append(self._tied[1].rpartition(".")[0])
        there = {self._parameter_of.get(bare_name(name)): name for name in base.names()}
        for parameter in self.parameters:
            if parameter.rpartition(".")[0] in saved and parameter not in copies:
                copies[parameter] = base.read(there[parameter])
        common = max(set(ranks.values()), key=lambda rank: (list(ranks.values()).count(rank), rank))
        others = {path: rank for path, rank in ranks.items() if rank != common}
        config = self._config.replace(
            r=common, lora_alpha=common, target_modules=condense(ranks, module_paths(self.parameters)),
            layers_to_transform=None, rank_pattern=others, alpha_pattern=others, modules_to_save=saved or None,
            fan_in_fan_out=self._in_out, inference_mode=True,
            base_model_name_or_path=base.folder,
        )  # fmt: skip
        return config, copies


def _config(base):
    """The Config of a base: that of its folder, unless it has become another."""
    path = os.path.join(base.folder or "", "config.json")
    return Config.from_pretrained(base.folder) if is_there(path) and read_json(path) == base.config \
        else Config.from_dict(base.config)  # fmt: skip
