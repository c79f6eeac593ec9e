"""Totals: what the rows of a diff come to, all together and by layer, role and part."""

import math

from llmc.diff.pair import WORDS

STATUSES = ("identical", "rounded", "permuted", "changed", "missing", "extra", "incomparable")
_SAME = ("identical", "rounded")
_LOW = 4  # min(out, in) / this is the largest signal rank of a low-rank change


def summary(base, tuned, rows, measured_spectrum, seconds):
    """The summary of a diff.

    Parameters
    ----------
    base, tuned : str
    rows : list of dict
    measured_spectrum : bool
    seconds : float

    Returns
    -------
    dict
    """
    counted = [row for row in rows if row["role"] != "buffer"]
    once = counted_once(counted)
    changed = [row for row in counted if row["status"] in ("changed", "permuted")]
    ranks = [row["signal_rank"] for row in changed if row["signal_rank"] is not None]
    return {
        "base": base, "tuned": tuned, "tensors": len(counted), "numbers": sum(row["numbers"] or 0 for row in once),
        **{status: sum(row["status"] == status for row in counted) for status in STATUSES},
        "nonfinite": sum(bool(row["nonfinite"]) for row in counted),
        "structure": {word: count for word in WORDS if (count := sum(word in row["structure"] for row in counted))},
        **_norms(once), "signal_rank": max(ranks, default=None), "seconds": seconds,
        "looks_like": looks_like(counted, measured_spectrum),
    }  # fmt: skip


def looks_like(rows, measured_spectrum):
    """What the change looks like, in a word."""
    same = all(row["status"] in _SAME for row in rows)
    if same:
        exact = all(row["status"] == "identical" and not row["structure"] for row in rows)
        return "identical" if exact else "storage"
    odd = [row for row in rows if row["status"] in ("missing", "extra", "incomparable")]
    others = [row for row in rows if row["status"] in ("changed", "permuted")]
    if odd and not others:
        return "other-structure"
    if not measured_spectrum:
        return "changed"
    return "low-rank" if all(map(_is_low, others)) else "full"


def _is_low(row):
    shape = row["base_shape"]
    return len(shape) == 2 and row["signal_rank"] is not None and row["signal_rank"] <= min(shape) / _LOW


def by_key(rows, key):
    """Totals by "layer", "role" or "part", over the rows that were measured.

    Returns
    -------
    list of dict
        `key, tensors, changed, numbers, base_norm, delta_norm, relative_change, share`: layers ascending and None last,
        the others by share.
    """
    counted = counted_once(row for row in rows if row["role"] != "buffer")
    once = [row for row in counted if row["delta_norm"] is not None]
    whole = math.fsum(row["delta_norm"] ** 2 for row in once)
    groups = {}
    for row in once:
        groups.setdefault(row[key], []).append(row)
    found = [{key: value, "tensors": len(group), "changed": sum(row["status"] not in _SAME for row in group),
              "numbers": sum(row["numbers"] for row in group), **_norms(group), "share": _share(group, whole)}
             for value, group in groups.items()]  # fmt: skip
    if key == "layer":
        return sorted(found, key=lambda entry: (entry[key] is None, entry[key] or 0))
    return sorted(found, key=lambda entry: -entry["share"])


def _share(rows, whole):
    return math.fsum(row["delta_norm"] ** 2 for row in rows) / whole if whole else 0.0


def _norms(rows):
    measured = [row for row in rows if row["delta_norm"] is not None]
    base, delta = (math.sqrt(math.fsum(row[which] ** 2 for row in measured)) if measured else None
                   for which in ("base_norm", "delta_norm"))
    relative = delta / base if base else 0.0 if delta == 0 else None
    return {"base_norm": base, "delta_norm": delta, "relative_change": relative}


def counted_once(rows):
    """The rows without a head that is the embedding once more."""
    rows = list(rows)
    embeddings = {_fingerprint(row) for row in rows if row["role"] == "embedding"}
    return [row for row in rows if not (row["role"] == "head" and (
        "tied" in row["structure"] or row["base_norm"] is not None and _fingerprint(row) in embeddings))]


def _fingerprint(row):
    """What two rows of the same numbers agree in, and no others."""
    return tuple(tuple(value) if isinstance(value, list) else value for value in map(row.get, (
        "base_shape", "tuned_shape", "changed", "base_norm", "tuned_norm", "delta_norm", "cosine", "mean")))
