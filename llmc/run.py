"""Run: the passes of a model over batches of a given size, with a view of every hook point."""

import math
from fnmatch import fnmatchcase

import numpy as np

from llmc.calls import public
from llmc.checks import whole
from llmc.errors import ConfigError, DataError, UnknownNameError, nearest
from llmc.inputs import as_ids, as_mask, as_positions, as_targets, refuse_packed
from llmc.show.table import Table, count, many


@public
class Run:
    """A budget of at most `batch` rows and `length` tokens, and the memory a pass of that size takes.

    Made by `model.run(...)`. Views are windows, not photographs: their numbers change at the next forward pass. With
    `observe`, every module's work is summed up token by token while it is at hand: see `observed`. With `float32`,
    products are in float32 whatever the model's precision.
    """

    def __init__(self, model, batch, length, keep=None, backward=False, dropout=False, seed=0, gradients=None, past=0,
                 observe=False, float32=False):  # fmt: skip
        self.model, self.config = model, model.config
        self._backward = bool(backward)
        keep_all, globs = _keep(keep)
        if gradients is not None and not isinstance(gradients, Run):
            raise TypeError(f"gradients must be another run of this model, not {type(gradients).__name__}")
        self._core = model._core.Run(
            model._model, whole(batch, "batch", 1), whole(length, "length", 1), self._backward, bool(dropout), globs,
            keep_all, whole(past, "past"), whole(seed, "seed", most=2**64 - 1), gradients._core if gradients else None,
            observe=bool(observe), float32=bool(float32),
        )  # fmt: skip
        if globs:
            self._check_keep(globs)
        self.loss = None

    def _check_keep(self, globs):
        names = self.names()
        missed = [glob for glob in globs if not any(fnmatchcase(name, glob) for name in names)]
        exact = [glob for glob in missed if not set(glob) & set("*?[")]
        if exact or len(missed) == len(globs):
            name = (exact or missed)[0]
            hint = nearest(name, names) or "run.names() lists them"
            raise UnknownNameError(f"keep: '{name}' is no hook point of this model; {hint}")

    # --- passes ------------------------------------------------------------------------------------------------------
    def forward(self, ids, labels=None, attention_mask=None, num_items_in_batch=None, position_ids=None, until=None,
                skip=(), logits_to_keep=0):  # fmt: skip
        """One forward pass.

        Parameters
        ----------
        ids : (B, T) or (T,) integers
        labels : (B, T) integers, optional
            Shifted inside; -100 is ignored.
        attention_mask : (B, T) of 0 and 1, optional
        num_items_in_batch : float, optional
            Divides the summed loss; by default the labels that count in this batch.
        position_ids : (B, T) integers, optional
            By default counted along the mask.
        until : str, optional
            Stop after this module; its output may be written into, and `resume()` goes on. A pattern of attention
            (`….self_attn.pattern`) is one, kept or not: attention then multiplies what stands there.
        skip : iterable of str, optional
            Blocks that become the identity, branches that become zero.
        logits_to_keep : int
            Form the logits of the last positions alone; 0: of all.

        Returns
        -------
        float or None
            The loss; None without labels, or when the pass stopped at `until`.
        """
        arguments = self._arguments(ids, labels, attention_mask, num_items_in_batch, position_ids, skip)
        self.loss = self._core.forward(**arguments, until=until, last=whole(logits_to_keep, "logits_to_keep"))
        return self.loss

    def _forward_on_ids(self, ids, attention_mask):
        """The loss where labels are the ids, without padding and what it would predict."""
        arguments = self._arguments(ids, None, attention_mask, None, None, (), train=True)
        return self._core.forward(**arguments, until=None, last=0)

    def resume(self):
        """Go on after `forward(ids, until=...)`; the loss, or None without labels."""
        self.loss = self._core.resume()
        return self.loss

    def backward(self):
        """Add the gradients of the last loss to those that are there; one backward for each forward."""
        self._core.backward()

    def forward_backward(self, ids, labels=None, attention_mask=None, num_items_in_batch=None, position_ids=None,
                         skip=()):  # fmt: skip
        """`forward` and `backward` without computing the logits twice; labels that are None are the ids.

        Returns
        -------
        float
            The loss.
        """
        arguments = self._arguments(ids, labels, attention_mask, num_items_in_batch, position_ids, skip, train=True)
        self.loss = self._core.forward_backward(**arguments, until=None, last=0)
        return self.loss

    def zero_grad(self):
        """Forget the gradients."""
        self._core.zero_grad()

    def _arguments(self, ids, labels, attention_mask, num_items_in_batch, position_ids, skip, train=False):
        vocabulary = self.config.vocab_size
        ids = as_ids(ids, vocabulary)
        mask = as_mask(attention_mask, ids.shape)
        positions = as_positions(position_ids, mask, ids.shape, self.model._position_limit)
        if position_ids is not None and attention_mask is None:
            refuse_packed(positions)
        targets, items = None, 0.0
        if labels is not None or train:
            targets = as_targets(labels, ids, mask, vocabulary)
            items = float(np.count_nonzero(targets >= 0))
            if num_items_in_batch is not None:
                items = _items(num_items_in_batch)
        inv_freq, factor = self.model._frequencies(int(positions.max()) + 1)
        skip = [skip] if isinstance(skip, str) else list(skip or ())
        if not all(isinstance(name, str) for name in skip):
            raise TypeError(f"skip takes names of blocks and branches, not {skip!r}")
        return dict(ids=ids, targets=targets, positions=positions, mask=mask, inv_freq=inv_freq, rope_factor=factor,
                    items=items, shape=ids.shape, skip=skip)  # fmt: skip

    def _read(self, ids, positions, mask, frequencies):
        """Read on behind the past, as generation does: arrays that are checked already, int32 and uint8 (B, T).

        Returns
        -------
        list of int
            The likeliest token to follow, of every row; -1 where a logit is not finite. `_core.logits` are (B, 1, V).
        """
        self._core.read(ids, positions, mask, *frequencies)
        return self._core.likeliest()

    # --- looking inside ----------------------------------------------------------------------------------------------
    def names(self):
        """Every hook point: the dotted module paths of the checkpoint."""
        return [row[0] for row in self._core.modules()]

    def parts(self):
        """{hook point: (part, layer)}: what it is ("block", "attention", "q", "norm" …), and its layer or None."""
        return {name: (part, None if layer < 0 else layer) for name, *_, part, layer in self._core.modules()}

    def shapes(self):
        """{hook point: (shape of what it reads, shape of what it gives)}; None: it reads ids or positions."""
        return self._core.shapes()

    def observed(self):
        """What every module of the last forward did to its input, in a run made with `observe=True`.

        Returns
        -------
        dict
            {hook point: (B, T, 6) view}: sums over the features that input x and output y both have, of x*y, x^2, y^2
            and (y-x)^2, then over all features, of (y - mean(x))^2 and x^2; of a module that reads a tensor. Under a
            branch's name with "@stream" behind, x is the residual stream that it joins; of several, what it read of
            them.

        Raises
        ------
        Error
            When the last pass has not come to its end.
        """
        return self._core.observed()

    def input(self, name, copy=False):
        """What module `name` read in the last pass: a (B, T, C) view, or a copy; ids for an embedding are not kept.

        Raises
        ------
        UnknownNameError
            When there is no such hook point, or it is not kept.
        Error
            When the last pass has not reached it, or there was none.
        """
        return self._view(name, "input", copy)

    def output(self, name, copy=False):
        """What module `name` gave in the last pass: a (B, T, C) view, or a copy; it raises what `input` does.

        Blocks of Hyper-Connections read and give S streams side by side, (B, T, S * C): as (B, T, S, C), their sum over
        S is what corresponds to the one stream of other models, and what the final norm reads.
        """
        return self._view(name, "output", copy)

    def grad(self, name, copy=False):
        """The gradient of the loss by the output of module `name`, or by a parameter: a view, or a copy.

        That of a parameter is the sum of all backward passes since it was forgotten, and zero before the first. That of
        an output is the last backward pass's.

        Raises
        ------
        UnknownNameError
            When there is no such hook point or parameter, or it is not kept, or frozen.
        Error
            When no backward pass has gone through the last pass, or its loss does not depend on this output.
        """
        array = self._core.parameter_gradient(name)
        if array is not None:
            return array.copy() if copy else array
        return self._view(name, "grad", copy)

    def _view(self, name, which, copy):
        array = self._core.array(name, which)
        if array is None:
            self._refuse(name, which)
        return array.copy() if copy else array

    def _refuse(self, name, which):
        kept = {path: output for path, _, output, *_ in self._core.modules()}
        if name in self.model._stored_tensors():
            if which != "grad":
                why = f"is a parameter; run.{which} takes the path of a module, such as '{name.rpartition('.')[0]}'"
            elif not self._backward:
                why = "has no gradient: make the run with backward=True"
            elif name in self.model._tied():
                why = f"is tied: its gradient stands under '{self.model._model.embedding_name}.weight'"
            else:
                why = "is frozen, so it has no gradient"
            raise UnknownNameError(f"'{name}' {why}")
        if name not in kept:
            near = nearest(name, kept) or "run.names() lists them"
            raise UnknownNameError(f"there is no hook point '{name}'; {near}")
        if which == "grad" and not self._backward:
            raise UnknownNameError(f"'{name}' has no gradient: make the run with backward=True")
        if which == "input" and kept[name]:
            raise UnknownNameError(f"'{name}' reads token ids or positions, not a tensor")
        raise UnknownNameError(f"'{name}' was not kept: make the run with keep=['{name}'] or keep='all'")

    @property
    def logits(self):
        """The logits of the last pass, a (B, T, V) view.

        Raises
        ------
        UnknownNameError
            When the pass does not form them.
        Error
            When the last pass has not reached them, or there was none.
        """
        array = self._core.logits
        if array is None:
            head = self.model._model.head_name
            raise UnknownNameError(f"the logits were not formed: make the run with keep=['{head}'], or pass no labels")
        return array

    @property
    def plan(self):
        """The recorded plan; it prints itself: step, shapes, FLOPs, bytes."""
        rows = [
            {"step": op, "module": path, "shape": shape, "FLOPs": count(flops) if flops else None, "bytes": nbytes,
             "kept": kept, "backward": back}
            for op, path, shape, flops, nbytes, kept, back in self._core.steps()
        ]  # fmt: skip
        total = sum(row[3] for row in self._core.steps())
        note = f"{many(len(rows), 'step')}, {count(total, 'FLOP')} forward, {self.nbytes:,} bytes taken"
        return Table(["step", "module", "shape", "FLOPs", "bytes", "kept", "backward"], rows, note)

    @property
    def nbytes(self):
        """Bytes this run has taken: activations, scratch, cache, gradients."""
        return self._core.nbytes


def _items(value):
    try:
        items = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"num_items_in_batch must be a number, not {value!r}") from None
    if not 0 < items < math.inf:
        raise DataError(f"num_items_in_batch is {value}; it must be finite and above 0")
    return items


def _keep(keep):
    if keep is None:
        return False, []
    if isinstance(keep, str):
        keep = [keep]
    globs = list(keep)
    if not all(isinstance(glob, str) for glob in globs):
        raise ConfigError(f"keep takes 'all', a list of globs over module paths, or None, not {keep!r}")
    return "all" in globs, [glob for glob in globs if glob != "all"]
