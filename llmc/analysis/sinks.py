"""Sinks in words: where one position holds most of what a module reads."""


def sentences(sinks, kinds):
    """A line for each position and each place of the network, blocks first.

    Parameters
    ----------
    sinks : list of dict
        `name, layer, position, share`, as a measurement has them.
    kinds : dict
        {name: (kind, part within its block)} of the modules.

    Returns
    -------
    list of str
        "position 0 holds 92 to 98 % of the squared norm in layers 11-22".
    """
    groups = {}
    for sink in sinks:
        kind, part = kinds[sink["name"]]
        if kind == "norm":  # it reads the stream, as the block does or a branch of it
            continue
        where = "" if kind == "block" else part
        groups.setdefault((sink["position"], where), []).append(sink)
    in_order = sorted(groups.items(), key=lambda item: (item[0][1] != "", item[0][0]))
    return [_sentence(position, where, found) for (position, where), found in in_order]


def _sentence(position, where, found):
    shares = [100 * sink["share"] for sink in found]
    low, high = f"{min(shares):.0f}", f"{max(shares):.0f}"
    share = low if low == high else f"{low} to {high}"
    layers = [sink["layer"] for sink in found if sink["layer"] is not None]
    of = f" of what {where} reads" if where else ""
    return f"position {position} holds {share} % of the squared norm{of}" + (f" in {spans(layers)}" if layers else "")


def spans(layers):
    """"layer 3", or "layers 3-5, 9"."""
    runs = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    text = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
    return f"layer{'s' * (len(layers) > 1)} {text}"
