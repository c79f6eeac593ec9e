"""Adapters: what a model does with its LoRA adapters."""

import contextlib
import warnings

from llmc.system import hub
from llmc.errors import ConfigError, UnknownNameError, nearest
from llmc.inputs import whole
from llmc.lora import adapter_files, initial_weights, overview
from llmc.lora.attached import attach, copy_name
from llmc.lora.lora_config import LoraConfig
from llmc.lora.merging import Merging
from llmc.lora.mixing import Mixing
from llmc.lora.trained import Trained


class Adapters(Merging, Mixing, Trained):
    """The part of a Model that has adapters. While there are any, the base is frozen.

    Adapters that are active are added to what their linears give, all of them; those that are trainable besides get
    gradients. The base's numbers are never touched, but by merging.
    """

    def _start_without_adapters(self):
        self._adapters = {}
        self._active, self._trainable, self._enabled = [], set(), True
        self._merged, self._overwritten = [], {}

    # --- coming and going --------------------------------------------------------------------------------------------
    def add_adapter(self, config, adapter_name="default", seed=0):
        """Put a new adapter beside the base; the first is active at once, and trains.

        Parameters
        ----------
        config : LoraConfig
        adapter_name : str
        seed : int
            Of the numbers A starts with; with the module's path it decides them.

        Raises
        ------
        ConfigError, UnknownNameError
            When the name is taken, or the config means nothing here, or what cannot be adapted; nothing is changed.
        """
        if not isinstance(config, LoraConfig):
            raise TypeError(f"a llmc.LoraConfig is needed, not {type(config).__name__}")
        self._check_new(adapter_name)
        seed, adapter = whole(seed, "seed"), self._attach(config)
        for branch in adapter.branches.values():
            initial_weights.check(config.init_lora_weights, branch.rank)

        def fill(tensors):
            for path in adapter.branches:
                A, B = (tensors[f"{path}.lora_{half}.{adapter_name}.weight"] for half in "AB")
                initial_weights.start(A, B, config.init_lora_weights, path, seed)

        self._put(adapter_name, adapter, fill, trainable=True)

    def load_adapter(self, directory, adapter_name="default", is_trainable=False):
        """Read an adapter that `save_adapter` or peft wrote; the first is active at once.

        Parameters
        ----------
        directory : path or str
            With adapter_config.json and adapter_model.safetensors or .bin, in it or in its folder `adapter_name`; or a
            name on the hub.
        adapter_name : str
            What it will be called here.
        is_trainable : bool
            Whether it gets gradients while it is active.

        Raises
        ------
        FileNotFoundError
            When it is not there.
        CheckpointError, ShapeError
            When it is damaged, not finite, or of another base; the message names tensors and shapes.
        ConfigError, UnknownNameError
            When it computes what llmc does not, or the name is taken. Nothing is changed in any case.
        """
        self._check_new(adapter_name)
        folder = adapter_files.find(hub.folder(directory), adapter_name)
        config = LoraConfig.from_pretrained(folder)
        if is_trainable and config.init_lora_weights == "mica":
            raise ConfigError(f"{folder}: init_lora_weights 'mica' trains A alone, which llmc does not; load it with "
                              f"is_trainable=False")
        adapter = self._attach(config, strict=False)
        keys = adapter.keys(adapter_name)
        arrays = adapter_files.load(folder, adapter.shapes(self._model.linears(), self._model.shapes()), self._beside())

        def fill(tensors):
            for key, array in arrays.items():
                tensors[keys[key]][...] = array

        self._put(adapter_name, adapter, fill, trainable=bool(is_trainable))

    def save_adapter(self, directory, adapter_name="default", safe_serialization=True):
        """Write an adapter as peft reads it: the default one into `directory` itself, others into its folder `name`.

        Parameters
        ----------
        directory : path or str
        adapter_name : str
        safe_serialization : bool
            True: adapter_model.safetensors; False: adapter_model.bin, torch's format.

        Raises
        ------
        UnknownNameError
            When there is no such adapter.
        NonFiniteError
            When a number of it is not finite; nothing is written.
        OSError
            When the place cannot be written to; what was there stays.
        """
        keys = self._adapter(adapter_name).keys(adapter_name)
        tensors = self._model.adapter_parameters(adapter_name)
        arrays = {key: tensors[name] for key, name in keys.items()}
        folder = adapter_files.folder_of(directory, adapter_name)
        adapter_files.save(folder, self._saved_config(adapter_name), arrays, safe_serialization)

    def _saved_config(self, name):
        config = self._adapters[name].config
        return config.replace(inference_mode=True, fan_in_fan_out=bool(self._model.in_out),
                              base_model_name_or_path=config.base_model_name_or_path or self._name_or_path)

    def delete_adapter(self, adapter_name):
        """Forget an adapter. If it was the active one, the first that is left becomes active."""
        self._adapter(adapter_name)
        self._refuse_while_merged("delete_adapter")
        self._model.delete_adapter(adapter_name)
        del self._adapters[adapter_name]
        self._trainable.discard(adapter_name)
        self._active = [name for name in self._active if name != adapter_name]
        if not self._active and self._adapters:
            self._active = [next(iter(self._adapters))]
            warnings.warn(f"adapter {adapter_name!r} was active; now {self._active[0]!r} is", stacklevel=2)
        self._tell_core()

    # --- which are active --------------------------------------------------------------------------------------------
    def set_adapter(self, adapter_name, inference_mode=False):
        """Make one adapter active, or several, whose branches add up.

        Parameters
        ----------
        adapter_name : str or list of str
        inference_mode : bool
            Leave them frozen; otherwise they train.

        Raises
        ------
        UnknownNameError
            When there is no such adapter; the message lists the nearest.
        ConfigError
            When two of them have their own copy of one parameter.
        """
        names = [adapter_name] if isinstance(adapter_name, str) else list(dict.fromkeys(adapter_name))
        if not names:
            raise ConfigError("no adapter is named; disable_adapters() gives the base")
        copies = {}
        for name in names:
            for parameter in self._adapter(name).copies:
                if copies.setdefault(parameter, name) != name:
                    raise ConfigError(f"adapters {copies[parameter]!r} and {name!r} both have their own {parameter}, "
                                      f"so one of them alone can be active")
        if self._merged:
            warnings.warn("the merged adapters are unmerged first", stacklevel=2)
            self.unmerge_adapter()
        self._active, self._trainable = names, set() if inference_mode else set(names)
        self._tell_core()

    def active_adapters(self):
        """The names of the adapters that count while adapters are enabled."""
        return list(self._active)

    def disable_adapters(self):
        """Compute as the base, until `enable_adapters`; what was merged is unmerged."""
        self._require_adapters("disable_adapters")
        if self._merged:
            self.unmerge_adapter()
        self._enabled = False
        self._tell_core()

    def enable_adapters(self):
        """Let the active adapters count again."""
        self._require_adapters("enable_adapters")
        self._enabled = True
        self._tell_core()

    # --- looking -----------------------------------------------------------------------------------------------------
    def print_trainable_parameters(self):
        """Print peft's line, and a table of what got an adapter."""
        print(overview.line(*self._count_parameters()))
        table = overview.table(self._adapters, self._model.linears(), self._states())
        if table.rows:
            print(table)

    def _count_parameters(self):
        """(numbers that train, all numbers), as peft counts: trained biases are the base's own."""
        trained, everything = 0, self.num_parameters()
        for name, adapter in self._adapters.items():
            tensors = self._model.adapter_parameters(name)
            biases = {copy_name(parameter, name) for parameter, is_bias in adapter.copies.items() if is_bias}
            everything += sum(array.size for tensor, array in tensors.items() if tensor not in biases)
            trained += sum(array.size for array in tensors.values()) if self._trains(name) else 0
        return (trained if self._adapters else everything), everything

    # --- for these ---------------------------------------------------------------------------------------------------
    def _attach(self, config, strict=True):
        tied = tuple(name for pair in self._tied().items() for name in pair)
        adapter = attach(config, self.config._family, self._model.layout(), self._model.shapes(),
                         tied, self.config.num_hidden_layers, strict)
        other = next((name for name, known in self._adapters.items() if known.config.bias != "none"), None)
        if config.bias != "none" and other is not None:
            raise ConfigError(f"bias {config.bias!r}: adapter {other!r} trains biases already, and one alone can")
        return adapter

    def _put(self, name, adapter, fill, trainable):
        """Let the core have an adapter, filled; or leave everything as it was."""
        branches = [(path, branch.rank, branch.scale, adapter.config.lora_dropout)
                    for path, branch in adapter.branches.items()]
        self._model.add_adapter(name, branches, list(adapter.copies))
        try:
            with self._writing():
                fill(self._model.adapter_parameters(name))
        except BaseException:
            self._model.delete_adapter(name)
            self._tell_core()
            raise
        if not self._adapters:
            self._active = [name]
        if trainable and (name in self._active):
            self._trainable.add(name)
        self._adapters[name] = adapter
        self._tell_core()

    def _tell_core(self):
        active = self._active if self._enabled and not self._merged else []
        self._model.set_adapters(active, [name for name in active if name in self._trainable])

    def _trains(self, name):
        return self._enabled and not self._merged and name in self._active and name in self._trainable

    def _states(self):
        """{adapter: "merged", "trains", "active" or "inactive"}"""
        active = self._active if self._enabled and not self._merged else []
        return {name: "merged" if name in self._merged else "trains" if self._trains(name)
                else "active" if name in active else "inactive" for name in self._adapters}

    def _names(self):
        return [*self._parameters, *(name for pair in self._tied().items() for name in pair)]

    def _is_in_out(self, path):
        return bool(self._model.in_out) and path != self._model.head_name

    def _beside(self):
        """Weights of the base that peft may store beside an adapter, by their keys in its file."""
        embeddings = (self._model.embedding_name, self._model.head_name)
        views = {path: self._stored_tensors().get(f"{path}.weight") for path in embeddings}
        return {f"{adapter_files.PREFIX}{path}{inside}.weight": view for path, view in views.items() if view is not None
                for inside in ("", ".base_layer")}

    def _adapter(self, name):
        if name not in self._adapters:
            known = ", ".join(self._adapters) or "none yet; add_adapter and load_adapter make one"
            raise UnknownNameError(f"there is no adapter {name!r}; {nearest(str(name), self._adapters) or known}")
        return self._adapters[name]

    def _require_adapters(self, call):
        if not self._adapters:
            raise ConfigError(f"{call}: the model has no adapter; add_adapter or load_adapter gives it one")

    def _refuse_while_merged(self, call):
        if self._merged:
            raise ConfigError(f"{call}: adapters are merged into the weights ({', '.join(self._merged)}); call "
                              f"unmerge_adapter() first, or merge_and_unload() to keep it so")

    def _refuse_unmerged(self, call):
        if self._adapters and not self._merged:
            raise ConfigError(f"{call}: the model has adapters ({', '.join(self._adapters)}) that are not merged; "
                              f"save_adapter writes them, merge_and_unload() makes them part of the weights")

    @contextlib.contextmanager
    def _writing(self):
        """Keeps readers out while parameters change."""
        self._model.begin_write()
        try:
            yield
        finally:
            self._model.end_write()

    def _check_new(self, name):
        if not isinstance(name, str):
            raise TypeError(f"adapter_name is a string, not {type(name).__name__}")
        if not name or len(name) > 64 or not all(c.isalnum() or c in "_-+ " for c in name):
            raise ConfigError(f"adapter_name {name!r}: a name is at most 64 letters, digits, '_', '-', '+', ' '")
        if name in self._adapters:
            raise ConfigError(f"there is an adapter {name!r} already, besides "
                              f"{', '.join(other for other in self._adapters if other != name) or 'no other'}; "
                              f"give another adapter_name, or delete_adapter({name!r}) first")
        self._refuse_while_merged("a new adapter")
