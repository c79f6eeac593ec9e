"""Parameter groups: which parameters are updated at a rate, and with a weight decay, of their own."""

from collections.abc import Mapping, MutableMapping
from fnmatch import fnmatchcase

from llmc.checks import number
from llmc.errors import ConfigError, UnknownNameError, nearest

OWN = ("lr", "weight_decay")  # what a group may say; the rest is the optimizer's


class ParameterGroup(MutableMapping):
    """Parameters that are updated alike: `{"params": names, "lr": float, "weight_decay": float}`.

    "lr" may be set between steps; it is then the group's own. What a group does not say itself is the optimizer's.

    Attributes
    ----------
    own : dict
        What it says itself.
    """

    def __init__(self, names, own, settings):
        self._names, self.own, self._settings = tuple(names), own, settings

    def __getitem__(self, key):
        if key == "params":
            return list(self._names)
        if key not in OWN:
            raise KeyError(key)
        return self.own.get(key, self._settings[key])

    def __setitem__(self, key, value):
        if key != "lr":
            raise ConfigError(f"{key!r} of a group cannot be set, only 'lr'; make the optimizer with other groups")
        self.own["lr"] = rate(value, "lr of a group")

    def __delitem__(self, key):
        raise ConfigError(f"{key!r} of a group cannot be removed; make the optimizer with other groups")

    def __iter__(self):
        return iter(("params", *OWN))

    def __len__(self):
        return 1 + len(OWN)

    def __repr__(self):
        return repr(dict(self))

    def saved(self):
        """What `restored` takes."""
        return {"params": list(self._names), **self.own}


def rate(value, name):
    """A rate or a decay, as a float: finite, of at least 0."""
    return float(number(value, name, 0))


def grouped(groups, names, settings):
    """The groups that a user asks for, and behind them the rest.

    Parameters
    ----------
    groups : iterable of mappings, or None
        {"params": a glob over whole names or a list of them, "lr": float, "weight_decay": float}, the last two
        optional. The first group that matches a parameter has it.
    names : list of str
        All parameters that are trained.
    settings : dict
        The optimizer's own "lr" and "weight_decay", looked up whenever they count.

    Raises
    ------
    UnknownNameError
        When a glob matches no parameter.
    ConfigError
        For a key that a group does not have, or a rate or a decay that is impossible.
    TypeError
        For groups that are not a list of mappings.
    """
    left, made = list(names), []
    for place, group in enumerate(read_groups(groups, "groups")):
        globs, own = group.pop("params"), group
        for glob in globs:
            _require_match(glob, names, f"groups[{place}]")
        taken = [name for name in left if any(fnmatchcase(name, glob) for glob in globs)]
        left = [name for name in left if name not in taken]
        made.append(ParameterGroup(taken, own, settings))
    return [*made, ParameterGroup(left, {}, settings)]


def read_groups(groups, name):
    """Groups as a list of dicts, "params" a list of globs, rates and decays floats; what parameters there are is open.

    Parameters
    ----------
    groups : iterable of mappings, or None
    name : str
        What the caller calls them.

    Raises
    ------
    ConfigError, TypeError
        As of `grouped`.
    """
    if isinstance(groups, (str, Mapping)) or not hasattr(groups or [], "__iter__"):
        raise TypeError(f"{name} must be a list of dicts with 'params', not {groups!r}")
    read = [_read(group, f"{name}[{place}]") for place, group in enumerate(groups or [])]
    return [{"params": globs, **own} for globs, own in read]


def restored(groups, saved):
    """What saved groups say themselves, one for each of these groups, whose parameters must be theirs.

    Raises
    ------
    ConfigError, TypeError
        When they have other parameters, or say what a group does not say.
    """
    if not isinstance(saved, (list, tuple)):
        raise TypeError(f"groups of a state must be a list, not {saved!r}")
    said = [_read(group, f"groups[{place}]") for place, group in enumerate(saved)]
    here, there = [sorted(group["params"]) for group in groups], [sorted(names) for names, _ in said]
    if here != there:
        sizes = [[len(names) for names in each] for each in (there, here)]
        raise ConfigError(f"groups: the state has groups of {sizes[0]} parameters, this optimizer of {sizes[1]}, or of "
                          f"others; make it with the groups of the one that was saved")
    return [own for _, own in said]


def _read(group, where):
    if not isinstance(group, Mapping):
        raise TypeError(f"{where} must be a dict with 'params', not {group!r}")
    for key in group:
        if key not in ("params", *OWN):
            near = nearest(str(key), ("params", *OWN)) or f"there are params, {', '.join(OWN)}"
            raise ConfigError(f"{where} has no key {key!r}; {near}")
    if "params" not in group:
        raise ConfigError(f"{where} has no 'params': a glob over the parameters' names, or a list of them")
    several = hasattr(group["params"], "__iter__") and not isinstance(group["params"], str)
    globs = list(group["params"]) if several else [group["params"]]
    if not all(isinstance(glob, str) for glob in globs):
        raise TypeError(f"{where}: params must be a glob or a list of names, not {group['params']!r}")
    return globs, {key: rate(group[key], f"{key} of {where}") for key in OWN if key in group}


def _require_match(glob, names, where):
    if not any(fnmatchcase(name, glob) for name in names):
        near = nearest(glob, names) or "optimizer.state_dict()['exp_avg'] has their names"
        raise UnknownNameError(f"{where}: '{glob}' matches no parameter that is trained; {near}")
