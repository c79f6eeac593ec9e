"""Mixing: what a weighted combination of adapters adapts, and its matrices."""


import numpy as np

from llmc.calls import warn
from llmc.checks import whole
from llmc.errors import ConfigError
from llmc.lora import weighted
from llmc.lora.attached import Attached, Branch, exact, module_paths


def mix(sources, tensors, weights, linears, parameters, combination_type, svd_rank, svd_clamp, density,
        majority_sign_method, seed):  # fmt: skip
    """Combine adapters as `add_weighted_adapter` is asked to.

    Parameters
    ----------
    sources : dict of str to Attached
    tensors : dict of str to dict
        {tensor: array} of each.
    weights : list of float
    linears : iterable of str
        Paths of the model's linears.
    parameters : iterable of str
        Names of the base's parameters.

    Returns
    -------
    (Attached, dict of str to (A, B))
        The new adapter, and its matrices by the path of the linear.

    Raises
    ------
    ConfigError
        When the arguments are not possible.
    """
    for name, adapter in sources.items():
        if adapter.copies:
            raise ConfigError(f"adapter {name!r} has its own {next(iter(adapter.copies))} (bias or "
                              f"modules_to_save), which cannot be combined")
    ranks = [max(branch.rank for branch in adapter.branches.values()) for adapter in sources.values()]
    kind, rank = weighted.check(combination_type, ranks, weights, svd_rank, svd_clamp, density, majority_sign_method)
    random = np.random.default_rng(whole(seed, "seed"))
    pairs, kept = {}, []
    for path in linears:
        there = [(weight, *_pair(adapter, tensors[name], name, path))
                 for (name, adapter), weight in zip(sources.items(), weights) if path in adapter.branches]
        if there:
            A, B, share = weighted.combine(kind, [row[1:] for row in there], [row[0] for row in there], rank, density,
                                           majority_sign_method, svd_clamp, random)
            pairs[path] = A, B
            kept.append(share)
    if kind != "svd" and min(kept) < 0.99:
        warn(f"{combination_type}: rank {rank} keeps {min(kept):.0%} of a delta's squared norm in the worst "
             f"module, {np.mean(kept):.0%} on average; a larger svd_rank keeps more")
    rank = max(len(A) for A, _ in pairs.values())
    branches = {path: Branch(rank, rank, 1.0) for path in pairs}
    first = next(iter(sources.values())).config.replace(r=rank, lora_alpha=rank)
    return Attached(exact(first, branches, module_paths(parameters)), branches, {}), pairs


def _pair(adapter, tensors, name, path):
    A, B = (tensors[f"{path}.lora_{half}.{name}.weight"] for half in "AB")
    return A, B, adapter.branches[path].scale
