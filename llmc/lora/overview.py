"""What an adapter adapts, for people: peft's line, a table, and words in the tree of a model."""

import re

from llmc.show.table import Table

_LAYER = re.compile(r"\.(\d+)\.")


def line(trainable, everything):
    """peft's line."""
    return (f"trainable params: {trainable:,d} || all params: {everything:,d} || "
            f"trainable%: {100 * trainable / everything:.4f}")


def table(adapters, linears, states):
    """One row for the branches of an adapter that differ in nothing but their layer.

    Parameters
    ----------
    adapters : dict of str to Attached
    linears : dict of str to (int, int)
    states : dict of str to State

    Returns
    -------
    Table
    """
    rows = {}
    for name, adapter in adapters.items():
        state = states[name].value
        for path, branch in adapter.branches.items():
            layer = _LAYER.search(path)
            general = path[:layer.start()] + ".*." + path[layer.end():] if layer else path
            inputs, outputs = linears[path]
            row = rows.setdefault((name, general, branch, inputs, outputs), {
                "adapter": name, "state": state, "module": general, "layers": [], "rank": branch.rank,
                "alpha": branch.alpha, "scale": branch.scale, "dropout": adapter.config.lora_dropout, "parameters": 0})
            row["layers"] += [int(layer[1])] if layer else []
            row["parameters"] += branch.rank * (inputs + outputs)
        for parameter, is_bias in adapter.copies.items():
            rows[name, parameter] = {"adapter": name, "state": state, "module": parameter,
                                     "copy": "bias" if is_bias else "saved"}
    for row in rows.values():
        row["layers"] = spans(row.get("layers", []))
    columns = ["adapter", "state", "module", "layers", "rank", "alpha", "scale", "dropout", "parameters"]
    if any("copy" in row for row in rows.values()):
        columns.append("copy")
    return Table(columns, rows.values())


def in_tree(adapters, states):
    """{module path: what adapters have there}, as the tree of a model shows it behind the module's own words."""
    parts = {}
    for name, adapter in adapters.items():
        for path, branch in adapter.branches.items():
            parts.setdefault(path, []).append(
                f" + LoRA({name}, r={branch.rank}, alpha={branch.alpha:g}, {states[name].value})")
        leaves = {}
        for parameter in adapter.copies:
            module, _, leaf = parameter.rpartition(".")
            leaves.setdefault(module, []).append(leaf)
        for module, copied in leaves.items():
            parts.setdefault(module, []).append(f" or copy({name}, {' and '.join(copied)}, {states[name].value})")
    return {path: "".join(found) for path, found in parts.items()}


def spans(numbers):
    """[0, 1, 2, 5] as "0-2, 5"."""
    found = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in found)
