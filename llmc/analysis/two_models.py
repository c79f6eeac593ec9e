"""Two models side by side, of which one at a time is in memory: what each gives on the same batches."""

import contextlib
import os

import numpy as np

from llmc import checkpoint
from llmc.analysis.computed_weights import ComputedWeights
from llmc.config import Config
from llmc.errors import ConfigError, nearest
from llmc.lora.adapter_files import holds_adapter
from llmc.model import Model
from llmc.run import Run
from llmc.system import hub


class Pass:
    """What one model gave on one batch. Views, which keep the numbers alive, and neither the run nor the model.

    Attributes
    ----------
    inputs, outputs : dict of str to (B, T, C) float32
        By hook point; one that reads ids or positions has no input.
    logits : (B, T, V) float32
    """

    def __init__(self, run, batch):
        run.forward(batch.ids, attention_mask=batch.mask)
        shapes = run.shapes()
        self.inputs = {name: run.input(name) for name, (read, _) in shapes.items() if read is not None}
        self.outputs = {name: run.output(name) for name in shapes}
        self.logits = run.logits


class TwoModels:
    """A base, and what became of it.

    Parameters
    ----------
    base : Model, folder, or a pair (either of these, an adapter's folder)
    tuned : as `base`, or the folder of an adapter of it

    Attributes
    ----------
    config : Config
        Of the base.
    vocab_size : int
        How many leading ids both have.
    context : int
        How many positions both were trained for.
    parts : dict
        {hook point: (part, layer)}

    Raises
    ------
    ConfigError
        When the two have not the same modules, or when `base` is an adapter's folder.
    """

    def __init__(self, base, tuned):
        if is_adapter(base):
            raise ConfigError(f"base is {os.fspath(base)!r}, the folder of an adapter; give the model that it is of, "
                              f"and the adapter as tuned")
        self._base, self._base_adapter = _pair(base)
        self._is_beside = is_adapter(tuned)
        self._tuned, self._tuned_adapter = (self._base, tuned) if self._is_beside else _pair(tuned)
        self.config, other = _config(self._base), _config(self._tuned)
        self.vocab_size = min(self.config.vocab_size, other.vocab_size)
        self.context = min(self.config.max_position_embeddings, other.max_position_embeddings)
        self._check(_core_of(self._base, self.config), _core_of(self._tuned, other))

    @property
    def folders(self):
        """The folders there are, the tuned one's first, where a tokenizer may lie."""
        sides = (self._tuned_adapter, self._tuned, self._base)
        return list(dict.fromkeys(side for side in sides if isinstance(side, (str, os.PathLike))))

    @contextlib.contextmanager
    def base(self):
        """The base, for the time of a `with` block."""
        with _standing(self._base, self._base_adapter) as model:
            yield model

    @contextlib.contextmanager
    def tuned(self):
        """What became of it, for the time of a `with` block."""
        with contextlib.ExitStack() as stack:
            if self._is_beside:
                model = stack.enter_context(self.base())
                stack.enter_context(model.adapters.beside(self._tuned_adapter))
            else:
                model = stack.enter_context(_standing(self._tuned, self._tuned_adapter))
            yield model

    def passes(self, given, step):
        """What both give on every batch.

        Parameters
        ----------
        given : list of Batch
        step : callable
            Called after each pass.

        Yields
        ------
        (Batch, Pass, Pass, ComputedWeights, ComputedWeights)
            The base's and the tuned model's.
        """
        with contextlib.ExitStack() as beside:
            model = _opened(self._base)
            if self._base_adapter is not None:
                beside.enter_context(model.adapters.beside(self._base_adapter))
            before, read = ComputedWeights(model), (_step(Pass(run, batch), step) for run, batch in _runs(model, given))
            if self._is_apart():
                tuned = self._tuned
            else:
                read = list(read)
                if not self._is_beside:
                    beside.close()
                    tuned, model = None, None  # the base's memory, before more is taken
                    if not isinstance(self._base, Model):
                        before.let_go(self._base)
                tuned = model if self._is_beside else _opened(self._tuned)
            if self._tuned_adapter is not None:
                beside.enter_context(tuned.adapters.beside(self._tuned_adapter))
            after, size = ComputedWeights(tuned), np.max([batch.ids.shape for batch in given], axis=0)
            run = Run(tuned, *map(int, size), keep="all")
            for batch, gave in zip(given, read):
                yield batch, gave, _step(Pass(run, batch), step), before, after

    def _is_apart(self):
        """Whether both are in memory whatever is done, and no adapter changes one of them in between."""
        return (isinstance(self._base, Model) and isinstance(self._tuned, Model) and not self._is_beside
                and self._base_adapter is None and self._tuned_adapter is None)

    def _check(self, core, other):
        """Raise ConfigError where the two have other modules, or parameters of other shapes, vocabularies apart."""
        modules, others = core.plan()[1], other.plan()[1]
        self.parts = {name: ("norm" if "norm" in part else part, None if layer < 0 else layer)
                      for name, (part, layer, *_) in modules.items()}  # fmt: skip
        lacking = next((name for name in modules if name not in others), None)
        surplus = next((name for name in others if name not in modules), None)
        if lacking is not None or surplus is not None:
            name, where, there = (lacking, "tuned", others) if lacking is not None else (surplus, "base", modules)
            raise ConfigError(f"the two are not of one structure: {where} has no module {name}; {nearest(name, there)}")
        tables = [f"{path}.weight" for path in (core.embedding_name, core.head_name)]
        for name, shape in core.shapes().items():
            theirs = other.shapes().get(name, shape)
            of_all = slice(1, None) if name in tables else slice(None)
            if shape[of_all] != theirs[of_all]:
                raise ConfigError(f"the two are not of one structure: {name} has shape {list(shape)} in base and "
                                  f"{list(theirs)} in tuned")


def is_adapter(side):
    """Whether a side is the folder of an adapter alone."""
    if not isinstance(side, (str, os.PathLike)) or not os.path.isdir(side):
        return False
    return holds_adapter(side) and not any(os.path.lexists(os.path.join(side, name)) for name in checkpoint.WEIGHTS)


def _pair(side):
    """(model or folder, adapter's folder or None)"""
    adapter = None
    if isinstance(side, tuple) and len(side) == 2:
        side, adapter = side
        if not isinstance(adapter, (str, os.PathLike)):
            raise TypeError(f"the second of a pair is an adapter's folder, not {type(adapter).__name__}")
    if not isinstance(side, (Model, str, os.PathLike)):
        raise TypeError(f"trace compares a llmc.Model or a folder with another, not {type(side).__name__}")
    return side, adapter


def _config(side):
    return side.config if isinstance(side, Model) else Config.from_pretrained(hub.located(side))


def _core_of(side, config):
    """What knows names and shapes, without memory for parameters."""
    return side._model if isinstance(side, Model) else Model._core.Model(config.spec(), False)


@contextlib.contextmanager
def _standing(side, adapter):
    model = _opened(side)
    with contextlib.nullcontext() if adapter is None else model.adapters.beside(adapter):
        yield model


def _opened(side):
    return side if isinstance(side, Model) else Model.from_pretrained(side)


def _runs(model, given):
    """A run for every batch: each has memory of its own, which lives as long as what was read from it."""
    return ((Run(model, *batch.ids.shape, keep="all"), batch) for batch in given)


def _step(value, step):
    step()
    return value
