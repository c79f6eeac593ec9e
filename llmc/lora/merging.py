"""Merging: adding adapters to the weights they stand beside, checked by comparing logits."""

import numpy as np

from llmc.errors import ConfigError, NonFiniteError
from llmc.lora.attached import copy_name
from llmc.run import Run

# How far the logits of the merged model may be from those of the attached one, by how weights are stored.
TOLERANCE = {"float64": 1e-4, "float32": 1e-4, "bfloat16": 2e-2, "float16": 2e-2}
_PROBE = 32  # tokens


def delta(A, B, scale, in_out=False):
    """What a branch adds to its weight: scale B A as (O, I), or as (I, O) where weights are stored so."""
    product = (B * B.dtype.type(scale)) @ A
    return product.T if in_out else product


def add(name, weight, deltas):
    """`weight` plus every delta, as it is stored, and the largest part of the deltas that storing lost.

    Raises
    ------
    NonFiniteError
        When a number is not finite.
    """
    exact = weight.astype(np.promote_types(weight.dtype, np.float32))
    for each in deltas:
        exact += each
    stored = exact.astype(weight.dtype)
    if not np.isfinite(stored).all():
        raise NonFiniteError(f"{name}: the merged weight is not finite, so the adapter is broken; nothing was merged")
    return stored, float(np.abs(stored.astype(exact.dtype) - exact).max(initial=0.0))


def probe(config):
    """Token ids that the comparison is made on: (1, T), spread over the vocabulary."""
    length = min(_PROBE, config.max_position_embeddings)
    return np.random.default_rng(0).integers(0, config.vocab_size, (1, length))


def compare(before, after, stored):
    """How far two logits are apart.

    Raises
    ------
    ConfigError
        When it is more than merging may change.
    """
    apart = float(np.abs(before.astype(np.float64) - after).max())
    if not apart <= TOLERANCE[str(stored)]:
        raise ConfigError(f"the logits of the merged model are {apart:.3g} from those with the adapter attached, more "
                          f"than {TOLERANCE[str(stored)]:g} for weights stored as {stored}; nothing was merged: keep "
                          f"the adapter attached, or merge into weights stored wider")
    return apart


class Merging:
    """The part of a Model that merges its adapters."""

    def merge_adapter(self, adapter_names=None):
        """Add the active adapters, or those named, to the weights; what is overwritten is kept for `unmerge_adapter`.

        Raises
        ------
        ConfigError
            When they are merged already or disabled, or when the logits would differ by more than 1e-4 (2e-2 for
            weights stored as bfloat16, whose rounding loss is printed); nothing is changed.
        NonFiniteError
            When a merged weight is not finite; nothing is changed.
        """
        self._require_adapters("merge_adapter")
        if self.dtype == "int8":
            raise ConfigError("nothing is merged into weights stored as int8, whose rounding would swallow most of an "
                              "adapter: keep it attached, or open the model with dtype='bfloat16' or 'float32'")
        if self._merged:
            raise ConfigError(f"adapters are merged already: {', '.join(self._merged)}; call unmerge_adapter() first")
        if not self._enabled:
            raise ConfigError("adapters are disabled; call enable_adapters() first")
        if isinstance(adapter_names, str):
            raise TypeError(f"adapter_names is a list of names, not {adapter_names!r}")
        names = self.active_adapters() if adapter_names is None else list(adapter_names)
        adapters = {name: self._adapter(name) for name in names}
        ids, dtype = probe(self.config), self._parameters[f"{self._model.embedding_name}.weight"].dtype
        try:
            self._model.set_adapters(names, [])
            before = self._exact_logits(ids)
            self._overwrite(adapters)
            self._model.set_adapters([], [])
            compare(before, self._exact_logits(ids), dtype)
        except BaseException:
            self._restore()
            self._tell_core()
            raise
        self._merged = names

    def unmerge_adapter(self):
        """Put back the base's weights, to the bit; the adapters count as before."""
        if not self._merged:
            raise ConfigError("no adapter is merged; merge_adapter() merges the active ones")
        self._restore()
        self._merged = []
        self._tell_core()

    def merge_and_unload(self):
        """Merge the active adapters, forget all adapters, and return the model, now plain."""
        if not self._merged:
            self.merge_adapter()
        for name in list(self._adapters):
            self._model.delete_adapter(name)
        self._start_without_adapters()
        return self

    def _exact_logits(self, ids):
        """The logits by float32 products: others would round more than merging does."""
        run = Run(self, *ids.shape, float32=True)
        run.forward(ids)
        return run.logits.copy()

    def _overwrite(self, adapters):
        """Write the merged weights, keeping what they replace."""
        deltas, copies = {}, {}
        for name, adapter in adapters.items():
            tensors = self._model.adapter_parameters(name)
            for path, branch in adapter.branches.items():
                A, B = (tensors[f"{path}.lora_{half}.{name}.weight"] for half in "AB")
                deltas.setdefault(f"{path}.weight", []).append((A, B, branch.scale, self._is_in_out(path)))
            copies |= {parameter: tensors[copy_name(parameter, name)] for parameter in adapter.copies}
        lost = 0.0
        with self._writing():
            for name in dict.fromkeys([*copies, *deltas]):
                view = self._parameters[name]
                weight = copies.get(name, view)
                stored, loss = add(name, weight, (delta(*pair) for pair in deltas.get(name, ())))
                lost = max(lost, loss)
                self._overwritten[name] = view.copy()
                view[...] = stored
        if view.dtype.itemsize < 4:
            print(f"merged into {view.dtype} weights: rounding lost up to {lost:.3g}")

    def _restore(self):
        with self._writing():
            for name, array in self._overwritten.items():
                self._parameters[name][...] = array
        self._overwritten = {}
