"""Condensing a list of module paths to the fewest endings that mean exactly them."""


def condense(paths, modules):
    """The shortest endings that match all of `paths` and none of the other `modules`.

    Parameters
    ----------
    paths, modules : iterable of str

    Returns
    -------
    list of str
        In the order of `paths`; a path for which no ending will do stands whole.
    """
    paths = list(dict.fromkeys(paths))
    others = {ending for path in set(modules) - set(paths) for ending in endings(path)}
    found = []
    for path in paths:
        if not any(path == ending or path.endswith(f".{ending}") for ending in found):
            found.append(next((ending for ending in endings(path) if ending not in others), path))
    return found


def endings(path):
    """`c`, `b.c` and `a.b.c` of `a.b.c`."""
    parts = path.split(".")
    return [".".join(parts[start:]) for start in reversed(range(len(parts)))]
