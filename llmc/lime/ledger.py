"""What a folder has of a reproduction: the numbers, and of which scale, seed and models each entry is."""

import hashlib
import json
import os
from collections.abc import Mapping

from llmc.system.atomic import write_json

BY_OPERANDS = ("aet", "aet_curves")  # {model: {operands: …}}
NUMBERS, MADE = "numbers.json", ".made.json"


class Ledger:
    """The numbers of a folder.

    Parameters
    ----------
    out : path
    order : iterable of str
        The keys as they stand in the file.

    Attributes
    ----------
    numbers : dict
    """

    def __init__(self, out, order):
        self._out, self._order = out, list(order)
        self.numbers = read_object(os.path.join(out, NUMBERS)) or {}
        self._made = read_object(os.path.join(out, MADE)) or {}

    def has(self, key, origin, recipes):
        """Whether an entry is there, of this origin, and rests on all of these recipes."""
        made = self._made.get(key)
        return (key in self.numbers and _origin(made) == origin
                and digests(recipes) <= set(made.get("of", ())))  # fmt: skip

    def enter(self, key, entry, origin, recipes, notes):
        """Keep an entry, on the disk too.

        Of the arithmetic task the numbers of other operands, if they are of the same origin, stay.

        Parameters
        ----------
        key : str
        entry : object
            Fit for JSON.
        origin : [str, int]
            Scale and seed.
        recipes : iterable of dict
        notes : list of str
            What the page has to say about it.
        """
        of, before = digests(recipes), self._made.get(key)
        if key in BY_OPERANDS and key in self.numbers and _origin(before) == origin:
            entry = {name: _sorted(self.numbers[key].get(name, {}) | each) for name, each in entry.items()}
            of |= set(before["of"])
            notes = list(dict.fromkeys([*before["notes"], *notes]))
        self.numbers[key] = entry
        self.numbers = {each: self.numbers[each] for each in self._order if each in self.numbers}
        self._made[key] = {"scale": origin[0], "seed": origin[1], "of": sorted(of), "notes": notes}
        write_json(os.path.join(self._out, NUMBERS), self.numbers)
        write_json(os.path.join(self._out, MADE), self._made)

    def origins(self):
        """A line: which entries are of which scale and seed."""
        keys = {}
        for key in self.numbers:
            if key in self._made:
                keys.setdefault(tuple(_origin(self._made[key])), []).append(key)
        lines = [f"scale {scale}, seed {seed}" + (f": {', '.join(each)}" if len(keys) > 1 else "")
                 for (scale, seed), each in keys.items()]  # fmt: skip
        return "; ".join(lines).capitalize()

    def notes(self):
        """What is to be said about the entries, each thing once."""
        return list(dict.fromkeys(note for key in self.numbers for note in self._made.get(key, {}).get("notes", ())))


def digests(recipes):
    """A short word for each recipe."""
    return {hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16] for recipe in recipes}


def read_object(path):
    """The object of a JSON file; None where there is none that is whole."""
    try:
        with open(path, encoding="utf-8") as file:
            value = json.load(file)
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _origin(made):
    return [made["scale"], made["seed"]] if isinstance(made, Mapping) else None


def _sorted(by_operands):
    return {number: by_operands[number] for number in sorted(by_operands, key=int)}
