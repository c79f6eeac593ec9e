"""Which scenes are held out: chosen by the seed and their ids alone."""

import hashlib
import json

from llmc.checks import number, whole
from llmc.errors import DataError


def held_out(scenes, fraction, seed, group):
    """The numbers of the scenes that are held out, rising.

    Parameters
    ----------
    scenes : list of Scene
    fraction : float
        Above 0 and below 1: max(1, round(fraction * scenes)) are held out, and one at least is not.
    seed : int
    group : str or None
        A dotted path into a scene, or "file": scenes of one value stay together, as many whole groups as first reach
        that number; scenes without the value are a group too.

    Raises
    ------
    DataError
        For fewer than two scenes or groups, or a path that no scene has.
    """
    fraction = number(fraction, "fraction", 0, 1, open_low=True, open_high=True)
    seed = whole(seed, "seed", most=None)
    values = range(len(scenes)) if group is None else _values(scenes, group)
    groups = {}
    for index, value in enumerate(values):
        groups.setdefault(value, []).append(index)
    if len(groups) < 2:
        what = f"scene{'s' * (len(scenes) != 1)}" if group is None else f"value of {group}"
        raise DataError(f"{len(groups)} {what}: nothing can be held out and something be left to learn")
    drawn = {index: hashlib.sha256(f"{seed}\0{scene.id}".encode()).digest() for index, scene in enumerate(scenes)}
    order = sorted(groups.values(), key=lambda members: min(drawn[index] for index in members))
    wanted, held = max(1, round(fraction * len(scenes))), []
    for members in order[:-1]:
        if len(held) >= wanted:
            break
        held += members
    return sorted(held)


def _values(scenes, group):
    """What each scene has at a dotted path, as text; "null" where it has nothing."""
    if group == "file":
        return [json.dumps(scene.file) for scene in scenes]
    if not isinstance(group, str):
        raise TypeError(f"group is {type(group).__name__}, not a dotted path such as 'meta.author', or 'file'")
    found = [_at(scene.to_dict(), group.split(".")) for scene in scenes]
    if all(value is None for value in found):
        raise DataError(f"group: no scene has {group!r}; a path is as 'meta.author', or 'file'")
    return [json.dumps(value, sort_keys=True, default=str) for value in found]


def _at(value, path):
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value
