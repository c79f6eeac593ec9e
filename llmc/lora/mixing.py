"""Mixing: new adapters that are weighted combinations of others."""

import warnings

import numpy as np

from llmc.errors import ConfigError
from llmc.inputs import whole
from llmc.lora import weighted
from llmc.lora.attached import Attached, Branch, exact, module_paths


class Mixing:
    """The part of a Model that combines its adapters."""

    def add_weighted_adapter(self, adapters, weights, adapter_name, combination_type="svd", svd_rank=None,
                             svd_clamp=None, density=None, majority_sign_method="total", seed=0):  # fmt: skip
        """Make a new adapter that is a weighted combination of others; it is neither active nor trained at first.

        Parameters
        ----------
        adapters : list of str
        weights : list of float
            One each; negative ones subtract.
        adapter_name : str
            Of the new adapter.
        combination_type : str
            "linear", "cat": the exact sum of the weighted deltas (s B A); the rank is the sum of ranks. "svd": its best
            approximation at `svd_rank`. "ties", "dare_linear", "dare_ties", "magnitude_prune", with or without "_svd":
            the deltas are thinned, and with ties a sign is elected, as in their papers; the best approximation at
            `svd_rank` is kept, and a warning says how much that is if it is under 99 %. "peft_linear": sums of
            sqrt(w s) A and of sqrt(w s) B, with the cross terms that peft's "linear" has.
        svd_rank : int, optional
            By default the largest rank among the adapters.
        svd_clamp : float, optional
            Clip what the SVD gives at this quantile.
        density : float
            Share of each delta that is kept, above 0 and at most 1.
        majority_sign_method : "total" or "frequency"
            The sign of the sum of the deltas, or of the sum of their signs.
        seed : int
            Of what is dropped at random.

        Raises
        ------
        UnknownNameError, ConfigError
            When an adapter is not there, the name is taken, or the arguments are not possible; nothing is changed.
        """
        if isinstance(adapters, str):
            raise TypeError(f"adapters is a list of names, not {adapters!r}")
        self._check_new(adapter_name)
        sources = {name: self._adapter(name) for name in adapters}
        weights = list(weights)
        if len(sources) < len(list(adapters)):
            raise ConfigError(f"adapters {list(adapters)}: one of them stands twice; add its weights")
        for name, adapter in sources.items():
            if adapter.copies:
                raise ConfigError(f"adapter {name!r} has its own {next(iter(adapter.copies))} (bias or "
                                  f"modules_to_save), which cannot be combined")
        ranks = [max(branch.rank for branch in adapter.branches.values()) for adapter in sources.values()]
        kind, rank = weighted.check(combination_type, ranks, weights, svd_rank, svd_clamp, density,
                                    majority_sign_method)
        random = np.random.default_rng(whole(seed, "seed"))
        pairs, kept = {}, []
        for path in self._model.linears():
            there = [(weight, *self._pair(name, path)) for (name, adapter), weight in zip(sources.items(), weights)
                     if path in adapter.branches]
            if there:
                A, B, share = weighted.combine(kind, [row[1:] for row in there], [row[0] for row in there], rank,
                                               density, majority_sign_method, svd_clamp, random)
                pairs[path] = A, B
                kept.append(share)
        if kind != "svd" and min(kept) < 0.99:
            warnings.warn(f"{combination_type}: rank {rank} keeps {min(kept):.0%} of a delta's squared norm in the "
                          f"worst module, {np.mean(kept):.0%} on average; a larger svd_rank keeps more", stacklevel=2)
        rank = max(len(A) for A, _ in pairs.values())
        branches = {path: Branch(rank, rank, 1.0) for path in pairs}
        first = next(iter(sources.values())).config.replace(r=rank, lora_alpha=rank)
        adapter = Attached(exact(first, branches, module_paths(self._names())), branches, {})

        def fill(tensors):
            for path, (A, B) in pairs.items():
                tensors[f"{path}.lora_A.{adapter_name}.weight"][: len(A)] = A
                tensors[f"{path}.lora_B.{adapter_name}.weight"][:, : len(A)] = B

        self._put(adapter_name, adapter, fill, trainable=False)

    def _pair(self, name, path):
        tensors = self._model.adapter_parameters(name)
        A, B = (tensors[f"{path}.lora_{half}.{name}.weight"] for half in "AB")
        return A, B, self._adapters[name].branches[path].scale
