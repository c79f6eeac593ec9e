"""Which figures and tables are asked for, in words or numbers."""

import re

from llmc.errors import UnknownNameError, nearest, shown
from llmc.lime.findings import WAYS
from llmc.lime.scales import SCALES


def keys_of(figures, scale):
    """The keys of numbers.json that are asked for, in the paper's order.

    Parameters
    ----------
    figures : "all", str with commas, or list
        5, "5", "05", "fig5" and "fig05" are the same.
    scale : str

    Raises
    ------
    UnknownNameError
        For a scale or a figure that there is not, or that the scale does not have.
    TypeError
        For what are no words.
    """
    there = [key for key, way in WAYS.items() if getattr(scale_of(scale), way.part)]
    if figures == "all":
        return there
    words = figures.split(",") if isinstance(figures, str) else figures
    if isinstance(words, bytes) or not hasattr(words, "__iter__"):
        raise TypeError(f"figures is {shown(figures)}, not 'all', words with commas, or a list of them")
    asked = {_key(word) for word in words}
    for key in asked:
        if key not in there:
            raise UnknownNameError(f"scale {scale!r} has no {key}; it has {', '.join(there)}")
    return [key for key in WAYS if key in asked]


def scale_of(name):
    """The scale of a name."""
    if not isinstance(name, str) or name not in SCALES:
        told = [each for each in SCALES if each != "tiny"]  # which the tests alone take
        near = nearest(str(name), told) or f"there are {', '.join(told)}"
        raise UnknownNameError(f"scale is {shown(name)}, none that there is; {near}")
    return SCALES[name]


def _key(word):
    if isinstance(word, bool) or not isinstance(word, (str, int)):
        raise TypeError(f"figures has {shown(word)}, not a number or the word of a figure or table")
    text = str(word).strip().lower()
    match = re.fullmatch(r"(fig|table)?0*([0-9]+)", text)
    key = text if not match else f"table{match[2]}" if match[1] == "table" else f"fig{match[2].zfill(2)}"
    if key not in WAYS:
        near = nearest(key, WAYS) or f"there are {', '.join(WAYS)}"
        raise UnknownNameError(f"figures has {shown(word)}, no figure or table of the paper's; {near}")
    return key
