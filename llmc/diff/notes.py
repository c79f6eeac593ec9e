"""Notes: what of a diff is worth a line in words, one for all names that differ in their numbers alone."""

import re

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
_STRUCTURE = ("renamed", "tied", "fused", "split", "transposed", "reshaped", "resized")


def notes_of(rows, quantised=()):
    """The lines of a diff.

    Parameters
    ----------
    rows : list of dict
    quantised : iterable of str
        Which sides, "base" or "tuned", hold quantised numbers.

    Returns
    -------
    list of str
    """
    counted = [row for row in rows if row["role"] != "buffer"]
    lines = [f"{side} is quantised: its numbers count as float32, and it has no rounding floor" for side in quantised]
    if counted and all(row["status"] in ("missing", "extra") for row in counted):
        lines.append("nothing has a counterpart: the two are models of different kinds, or of other names (rename=)")
    for kind, say in (("missing", _missing), ("extra", _extra), ("incomparable", _incomparable)):
        lines += _lines([row for row in counted if row["status"] == kind], say)
    for word in _STRUCTURE:
        lines += _lines([row for row in counted if word in row["structure"]], _SAY[word])
    lines += _lines([row for row in counted if row["status"] == "permuted"], _permuted)
    lines += _lines([row for row in counted if row["nonfinite"]], _nonfinite)
    lines += _lines([row for row in counted if _is_below_floor(row)], _below_floor)
    return lines


def pattern(name):
    """A name with a star for each number between its dots."""
    return _NUMBER.sub("*", name)


def _lines(rows, say):
    groups = {}
    for row in rows:
        groups.setdefault((pattern(row["name"]), say(row, pattern)), []).append(row)
    return [f"{group[0]['name'] if len(group) == 1 else name}: "
            f"{say(group[0], str) if len(group) == 1 else said}{f' ({len(group)} tensors)' if len(group) > 1 else ''}"
            for (name, said), group in groups.items()]  # fmt: skip


def _missing(row, named):
    return f"{row['role']} of shape {row['base_shape']}, missing from tuned"


def _extra(row, named):
    return f"{row['role']} of shape {row['tuned_shape']}, in tuned alone"


def _incomparable(row, named):
    if row["base_shape"] == row["tuned_shape"]:
        return f"{row['base_dtype']} and {row['tuned_dtype']} are not compared"
    return f"shapes {row['base_shape']} and {row['tuned_shape']} share no leading part, so they are not compared"


def _permuted(row, named):
    return f"its {row['unit']}s are those of the base in another order"


def _nonfinite(row, named):
    return "holds numbers that are not finite, so nothing else is said of it"


def _is_below_floor(row):
    return (row["status"] in ("changed", "permuted") and row["rounding_floor"] is not None
            and row["relative_change"] is not None and row["relative_change"] < row["rounding_floor"])


def _below_floor(row, named):
    return "changed by less than rounding alone makes"


_SAY = {
    "renamed": lambda row, named: f"is {named(row['tuned_name'])} in tuned",
    "tied": lambda row, named: "one side alone stores it: compared with the other's embedding",
    "fused": lambda row, named: f"is a part of {named(row['tuned_name'].partition('[')[0])} in tuned",
    "split": lambda row, named: f"stands alone in tuned, as {named(row['tuned_name'])}",
    "transposed": lambda row, named: "stored the other way round in tuned",
    "reshaped": lambda row, named: f"shape {row['base_shape']} became {row['tuned_shape']}",
    "resized": lambda row, named: f"shape {row['base_shape']} became {row['tuned_shape']}; what both have is compared",
}
