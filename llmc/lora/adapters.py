"""Adapters: those of a model, by name, the state each is in, and how they come and go."""

import errno
import os
from collections.abc import Mapping
from contextlib import contextmanager

from llmc.calls import warn
from llmc.checks import whole
from llmc.errors import ConfigError, UnknownNameError, nearest
from llmc.lora import adapter_files, initial_weights, merging, mixing, overview
from llmc.lora.activity import State
from llmc.lora.attached import attach, copy_name
from llmc.lora.lora_config import LoraConfig
from llmc.system import hub
from llmc.weights.stored import writing


class Adapters(Mapping):
    """{name: Attached} of the adapters beside a base. While there are any, the base is frozen.

    Adapters that are active are added to what their linears give, all of them; those that train get gradients besides.
    The base's numbers are never touched, but by merging. `llmc.adaptable` says what each call does, and what it raises.

    Parameters
    ----------
    core : _core.Model
    parameters : dict of str to array
        The base's, as they are stored.
    config : Config
    tied : dict of str to str
        {the head's weight: the embedding's}, where they are one.
    """

    def __init__(self, core, parameters, config, tied):
        self._core, self._parameters, self._config, self._tied = core, parameters, config, tied
        self._start()

    def _start(self):
        self._attached, self._states, self._enabled = {}, {}, True  # states as if enabled, the active ones first
        self.overwritten, self._unmerged = {}, None  # the base's weights that merged ones replace; the states before

    def __getitem__(self, name):
        self._require(name)
        return self._attached[name]

    def __iter__(self):
        return iter(self._attached)

    def __len__(self):
        return len(self._attached)

    # --- states ------------------------------------------------------------------------------------------------------
    def state(self, name):
        """The State of an adapter."""
        return self._states[name] if self._enabled else State.INACTIVE

    def states(self):
        """{name: State}"""
        return {name: self.state(name) for name in self}

    def computing(self):
        """The names of those that a pass multiplies by."""
        return [name for name in self if self.state(name).computes]

    def merged(self):
        """The names of those that are a part of the weights."""
        return [name for name in self if self.state(name) is State.MERGED]

    def active(self):
        """The names of those that count while adapters are enabled."""
        return [name for name, state in self._states.items() if state is not State.INACTIVE]

    def trained(self):
        """The names of those that train, or of those that are active when none does."""
        return [name for name in self.active() if self.state(name) is State.TRAINS] or self.active()

    # --- tensors and files -------------------------------------------------------------------------------------------
    def parameters(self, name):
        """{tensor: writable view} of an adapter."""
        return self._core.adapter_parameters(name)

    def saved_config(self, name, base=None):
        """The config as peft is to find it beside the tensors; `base` is where the model came from."""
        config = self[name].config
        return config.replace(inference_mode=True, fan_in_fan_out=bool(self._core.in_out),
                              base_model_name_or_path=config.base_model_name_or_path or base)

    def save(self, directory, name, safe_serialization, base):
        """Write peft's files: the default adapter's in `directory`, others' in its folder `name`."""
        keys, tensors = self[name].keys(name), self.parameters(name)
        arrays = {key: tensors[tensor] for key, tensor in keys.items()}
        if not os.fspath(directory):  # joined with a name it would be a folder of the working directory
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), directory)
        folder = adapter_files.folder_of(directory, name)
        adapter_files.save(folder, self.saved_config(name, base), arrays, safe_serialization)

    def read(self, folder, name):
        """{tensor: array} of an adapter's files, checked against the one of that name here."""
        return self._read(folder, name, self[name])

    def overwrite(self, arrays):
        """Write {tensor: array} into the tensors of adapters, while nobody reads."""
        views = {tensor: view for name in self for tensor, view in self.parameters(name).items()}
        with writing(self._core):
            for tensor, array in arrays.items():
                views[tensor][...] = array

    # --- coming and going --------------------------------------------------------------------------------------------
    def add(self, config, name, seed):
        """Put a new adapter beside the base."""
        if not isinstance(config, LoraConfig):
            raise TypeError(f"a llmc.LoraConfig is needed, not {type(config).__name__}")
        self._check_new(name)
        seed, adapter = whole(seed, "seed"), self._attach(config)
        for branch in adapter.branches.values():
            initial_weights.check(config.init_lora_weights, branch.rank)

        def fill(tensors):
            for path in adapter.branches:
                A, B = (tensors[f"{path}.lora_{half}.{name}.weight"] for half in "AB")
                initial_weights.start(A, B, config.init_lora_weights, path, seed)

        self._put(name, adapter, fill, trains=True)

    def load(self, directory, name, is_trainable):
        """Put an adapter beside the base that lies in peft's files."""
        self._check_new(name)
        folder = adapter_files.find(hub.folder(directory), name)
        config = LoraConfig.from_pretrained(folder)
        if is_trainable and config.init_lora_weights == "mica":
            raise ConfigError(f"{folder}: init_lora_weights 'mica' trains A alone, which llmc does not; load it with "
                              f"is_trainable=False")
        adapter = self._attach(config, strict=False)
        arrays = self._read(folder, name, adapter)

        def fill(tensors):
            for tensor, array in arrays.items():
                tensors[tensor][...] = array

        self._put(name, adapter, fill, trains=bool(is_trainable))

    def mix(self, adapters, weights, name, **options):
        """Put a weighted combination of adapters beside the base, inactive."""
        if isinstance(adapters, str):
            raise TypeError(f"adapters is a list of names, not {adapters!r}")
        self._check_new(name)
        sources = {source: self[source] for source in adapters}
        if len(sources) < len(list(adapters)):
            raise ConfigError(f"adapters {list(adapters)}: one of them stands twice; add its weights")
        tensors = {source: self.parameters(source) for source in sources}
        adapter, pairs = mixing.mix(sources, tensors, list(weights), self._core.linears(), self._shapes(), **options)

        def fill(tensors):
            for path, (A, B) in pairs.items():
                tensors[f"{path}.lora_A.{name}.weight"][: len(A)] = A
                tensors[f"{path}.lora_B.{name}.weight"][:, : len(A)] = B

        self._put(name, adapter, fill, trains=False)

    def delete(self, name):
        """Forget an adapter; if it was the only active one, the first that is left becomes active."""
        self._require(name)
        self.refuse_while_merged("delete_adapter")
        self._core.delete_adapter(name)
        del self._attached[name], self._states[name]
        if not self.active() and self._attached:
            first = next(iter(self._attached))
            self._states[first] = State.ACTIVE
            warn(f"adapter {name!r} was active; now {first!r} is")
        self._enabled = self._enabled or not self  # what is disabled is gone
        self._tell_core()

    @contextmanager
    def beside(self, directory):
        """For the time of a `with` block the adapter of a folder counts, beside those that count already.

        Behind it everything is as it was, but that runs and optimizers have to be made anew.
        """
        name, states, enabled, computing = "beside", dict(self._states), self._enabled, self.computing()
        while name in self:
            name += "+"
        self.load(directory, name, is_trainable=False)
        try:
            self._check_copies([*computing, name])
            self._enabled = True
            self._set_states([*computing, name], State.ACTIVE)
            yield
        finally:
            self._core.delete_adapter(name)
            del self._attached[name]
            self._states, self._enabled = states, enabled
            self._tell_core()

    # --- another base ------------------------------------------------------------------------------------------------
    def require_no_rows(self, call):
        """Raise ConfigError when a tensor of an adapter has a row for each token."""
        tables = {path: f"{path}.weight" for path in (self._core.embedding_name, self._core.head_name)}
        for name, adapter in self.items():
            for path, parameter in tables.items():
                if path in adapter.branches or parameter in adapter.copies:
                    raise ConfigError(f"{call}: adapter {name!r} has rows of its own for {parameter}; save_adapter and "
                                      f"delete_adapter({name!r}) first, and load or add it after")

    def move(self, core, parameters, config, tied):
        """Stand beside another base, in the states and with the numbers that they have; the base of before is void.

        Raises
        ------
        BusyError
            When somebody reads the base; nothing is changed.
        """
        for name, adapter in self.items():
            _add(core, name, adapter)
            views = core.adapter_parameters(name)
            for tensor, view in self.parameters(name).items():
                views[tensor][...] = view
        self._core.set_adapters([], [])  # so that what was made of it says so
        self._core, self._parameters, self._config, self._tied = core, parameters, config, tied
        self._tell_core()

    # --- which are active --------------------------------------------------------------------------------------------
    def set(self, names, inference_mode):
        """Make these the active ones."""
        names = [names] if isinstance(names, str) else list(dict.fromkeys(names))
        if not names:
            raise ConfigError("no adapter is named; disable_adapters() gives the base")
        self._check_copies(names)
        if self.merged():
            warn("the merged adapters are unmerged first")
            self.unmerge()
        self._set_states(names, State.ACTIVE if inference_mode else State.TRAINS)

    def disable(self):
        """Compute as the base; what was merged is unmerged."""
        self._require_any("disable_adapters")
        if self.merged():
            self.unmerge()
        self._enabled = False
        self._tell_core()

    def enable(self):
        """Let the active adapters count again."""
        self._require_any("enable_adapters")
        self._enabled = True
        self._tell_core()

    # --- merging -----------------------------------------------------------------------------------------------------
    def merge(self, names, logits, untie):
        """Add adapters to the weights; others that are active with them stay so. Narrow weights say what they lose.

        Parameters
        ----------
        names : list of str or None
            None: those that are active and not merged yet.
        logits : callable
            From ids to those of the model, by float32 products.
        untie : callable
            Gives the model a head apart from its embedding: called when one of the two is merged into.
        """
        self._require_any("merge_adapter")
        merging.require_wide(self._parameters)
        if not self._enabled:
            raise ConfigError("adapters are disabled; call enable_adapters() first")
        names, merged = self._to_merge(names), self.merged()
        went = self._states if set(names) <= set(self.active()) else dict.fromkeys(self, State.INACTIVE)
        beside = [name for name, state in went.items() if state.computes and name not in names]
        changed = self._changes([*merged, *names], beside)
        base = self._parameters | {head: self._parameters[embedding] for head, embedding in self._tied.items()}
        weights = merging.merged(base | self.overwritten, changed)
        if any(name in changed for pair in self._tied.items() for name in pair):
            untie()
        self.overwritten = self._write(weights, names, beside, logits) | self.overwritten
        self._unmerged = self._unmerged or self._states
        self._states = went | dict.fromkeys([*merged, *names], State.MERGED)
        self._tell_core()

    def unmerge(self):
        """Put back the base's weights, to the bit; the adapters count as before."""
        if not self.merged():
            raise ConfigError("no adapter is merged; merge_adapter() merges the active ones")
        merging.replace(self._core, self._parameters, self.overwritten, {})
        self._states, self._unmerged, self.overwritten = self._unmerged, None, {}
        self._tell_core()

    def unload(self, logits, untie):
        """Merge the active adapters, and forget them all."""
        if self.computing() or not self.merged():
            self.merge(None, logits, untie)
        for name in self:
            self._core.delete_adapter(name)
        self._start()

    def say_rounding(self, dtype):
        """Print what the merged weights lose when they are written in a dtype narrower than theirs."""
        rounding = merging.Rounding()
        for name, base in self.overwritten.items():
            exact = merging.wide(self._parameters[name])
            rounding.add(exact.astype(dtype), exact, merging.wide(base))
        rounding.say()

    def _to_merge(self, names):
        """The names to merge, checked."""
        if isinstance(names, str):
            raise TypeError(f"adapter_names is a list of names, not {names!r}")
        merged = self.merged()
        wanted = [name for name in self.active() if name not in merged] if names is None else list(dict.fromkeys(names))
        for name in wanted:
            self._require(name)
        if not wanted and names is not None:
            raise ConfigError("merge_adapter: no adapter is named; merge_adapter() merges the active ones")
        if merged and not all(self.state(name).computes for name in wanted or merged):
            raise ConfigError(f"adapters are merged already: {', '.join(merged)}; call unmerge_adapter() first")
        self._check_copies([*merged, *wanted])
        return wanted

    def _write(self, weights, names, beside, logits):
        """Write merged weights, and give back what they replace; logits that differ too much leave all as it was."""
        exact = all(weight.dtype.itemsize >= 4 for weight in weights.values())
        ids, kept = merging.probe(self._config), {}
        try:
            if exact:
                self._core.set_adapters([*names, *beside], [])
                before = logits(ids)
            merging.replace(self._core, self._parameters, weights, kept)
            if exact:
                self._core.set_adapters(beside, [])
                merging.compare(before, logits(ids))
        except BaseException:
            merging.replace(self._core, self._parameters, kept, {})
            self._tell_core()
            raise
        return kept

    def _changes(self, names, beside):
        """What adapters make of the base's parameters, where no adapter beside them reads a copy of its own."""
        changed = merging.changes({name: self[name] for name in names},
                                  {name: self.parameters(name) for name in names}, self._is_in_out)
        for name in beside:
            own = next((parameter for parameter in self[name].copies if parameter in changed), None)
            if own is not None:
                raise ConfigError(f"adapter {name!r} has its own {own}, which is read in place of the merged one; "
                                  f"merge both")
        return changed

    # --- looking -----------------------------------------------------------------------------------------------------
    def print_trainable(self):
        """Print peft's line, and a table of what got an adapter."""
        print(overview.line(*self._count_parameters()))
        table = overview.table(self, self._core.linears(), self.states())
        if table.rows:
            print(table)

    def _count_parameters(self):
        """(numbers that train, all numbers), as peft counts: trained biases are the base's own."""
        trained, everything = 0, self._core.parameter_count
        for name, adapter in self.items():
            tensors = self.parameters(name)
            biases = {copy_name(parameter, name) for parameter, is_bias in adapter.copies.items() if is_bias}
            everything += sum(array.size for tensor, array in tensors.items() if tensor not in biases)
            trained += sum(array.size for array in tensors.values()) if self.state(name) is State.TRAINS else 0
        return (trained if self else everything), everything

    # --- for these ---------------------------------------------------------------------------------------------------
    def _attach(self, config, strict=True):
        tied = tuple(name for pair in self._tied.items() for name in pair)
        adapter = attach(config, self._config._family, self._core.layout(), self._shapes(), tied,
                         self._config.num_hidden_layers, strict)
        other = next((name for name, known in self.items() if known.config.bias != "none"), None)
        if config.bias != "none" and other is not None:
            raise ConfigError(f"bias {config.bias!r}: adapter {other!r} trains biases already, and one alone can")
        return adapter

    def _put(self, name, adapter, fill, trains):
        """Let the core have an adapter, filled; or leave everything as it was."""
        _add(self._core, name, adapter)
        try:
            with writing(self._core):
                fill(self.parameters(name))
        except BaseException:
            self._core.delete_adapter(name)
            self._tell_core()
            raise
        self._states[name] = State.INACTIVE if self else State.TRAINS if trains else State.ACTIVE
        self._attached[name] = adapter
        self._tell_core()

    def _set_states(self, names, state):
        """Give these a state; the others are inactive."""
        inactive = dict.fromkeys((name for name in self if name not in names), State.INACTIVE)
        self._states = dict.fromkeys(names, state) | inactive
        self._tell_core()

    def _tell_core(self):
        computing = self.computing()
        self._core.set_adapters(computing, [name for name in computing if self.state(name) is State.TRAINS])

    def _shapes(self):
        """{parameter: shape} of the base, a tied head's among them."""
        shapes = self._core.shapes()
        return shapes | {head: shapes[embedding] for head, embedding in self._tied.items()}

    def _is_in_out(self, path):
        return bool(self._core.in_out) and path != self._core.head_name

    def _read(self, folder, name, adapter):
        shapes, keys = adapter.shapes(self._core.linears(), self._shapes()), adapter.keys(name)
        return {keys[key]: array for key, array in adapter_files.load(folder, shapes, self._beside()).items()}

    def _beside(self):
        """Weights of the base that peft may store beside an adapter, by their keys in its file."""
        views = {path: self._parameters.get(self._tied.get(f"{path}.weight", f"{path}.weight"))
                 for path in (self._core.embedding_name, self._core.head_name)}
        return {f"{adapter_files.PREFIX}{path}{inside}.weight": view for path, view in views.items() if view is not None
                for inside in ("", ".base_layer")}

    def refuse_unmerged(self, call):
        """Raise ConfigError when there are adapters that are no part of the weights, though they count."""
        if names := self.computing() or (not self.merged() and list(self)):
            raise ConfigError(f"{call}: the model has adapters ({', '.join(names)}) that are not merged; "
                              f"save_adapter writes them, merge_and_unload() makes them part of the weights")

    def refuse_while_merged(self, call):
        """Raise ConfigError when adapters are a part of the weights."""
        if merged := self.merged():
            raise ConfigError(f"{call}: adapters are merged into the weights ({', '.join(merged)}); call "
                              f"unmerge_adapter() first, or merge_and_unload() to keep it so")

    def _require(self, name):
        if name not in self._attached:
            known = ", ".join(self._attached) or "none yet; add_adapter and load_adapter make one"
            raise UnknownNameError(f"there is no adapter {name!r}; {nearest(str(name), self._attached) or known}")

    def _require_any(self, call):
        if not self:
            raise ConfigError(f"{call}: the model has no adapter; add_adapter or load_adapter gives it one")

    def _check_copies(self, names):
        """Raise ConfigError when two of these have their own copy of one parameter."""
        copies = {}
        for name in names:
            for parameter in self[name].copies:
                if copies.setdefault(parameter, name) != name:
                    raise ConfigError(f"adapters {copies[parameter]!r} and {name!r} both have their own {parameter}, "
                                      f"so one of them alone can be active")

    def _check_new(self, name):
        if not isinstance(name, str):
            raise TypeError(f"adapter_name is a string, not {type(name).__name__}")
        if not name or len(name) > 64 or not all(c.isalnum() or c in "_-+ " for c in name):
            raise ConfigError(f"adapter_name {name!r}: a name is at most 64 letters, digits, '_', '-', '+', ' '")
        if name in self:
            raise ConfigError(f"there is an adapter {name!r} already, besides "
                              f"{', '.join(other for other in self if other != name) or 'no other'}; "
                              f"give another adapter_name, or delete_adapter({name!r}) first")
        self.refuse_while_merged("a new adapter")


def _add(core, name, adapter):
    """Let a core have an adapter: branches that are zero, copies that are the base's."""
    branches = [(path, branch.rank, branch.scale, adapter.config.lora_dropout)
                for path, branch in adapter.branches.items()]
    core.add_adapter(name, branches, list(adapter.copies))
