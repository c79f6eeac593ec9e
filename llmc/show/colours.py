"""The colours of pictures and pages, and colour scales: which colour a value has, and which values a legend shows."""

import numpy as np

INK, GREY, LINE, MARK, PALE = "#1f2430", "#7d8593", "#e3e6eb", "#e0562f", "#fdeae3"
WARM, COOL = "#e0762f", "#3565c9"
RISING = ("#f3f6fc", "#cbdaf4", "#94b5ea", "#5b8adb", "#2f5fb8", "#1c3f86", "#10244f")
BOTH_WAYS = ("#173a7c", "#3565c9", "#8fb0e8", "#f6f6f6", "#f3b78f", "#dd6f2c", "#8c3b0c")
SERIES = (COOL, WARM, "#2b9a72", "#8b5cc4", "#c8406b", "#1b9bb0", "#a9861c", "#6d4c3d", GREY,
          "#7fae1e")  # things side by side
DECADES = 3  # smaller values than the largest by more than so many are as good as nothing


def rising(values):
    """The scale of sizes: small and large ones are told apart alike, by a logarithm that passes through 0.

    Parameters
    ----------
    values : iterable of float or None
        All that will be shown.

    Returns
    -------
    Colours
    """
    sizes, most = _sizes(values)
    positive = sizes[sizes > 0]
    smallest = max(float(positive.min()), most / 10**DECADES) if len(positive) else most
    return Colours(most, unit=smallest)


def signed(values):
    """The scale of values with a sign, told apart as by `rising`: 0 is in the middle."""
    _, most = _sizes(values)
    return Colours(most, signed=True, unit=most / 10 ** (DECADES - 1))


def fixed(most, signed=False):
    """The linear scale of values that are known to end at `most`."""
    return Colours(most, signed=signed)


class Colours:
    """A colour scale, which `rising`, `signed` and `fixed` make.

    Parameters
    ----------
    most : float
        The value at its end; larger ones have the same colour.
    signed : bool
        Whether 0 is in the middle.
    unit : float, optional
        The size up to which the logarithm is nearly linear; without it the scale is linear throughout.
    """

    def __init__(self, most, signed=False, unit=None):
        self.most, self.signed, self.unit = most, signed, unit

    def place(self, value):
        """Where a value stands on the scale, 0 to 1."""
        size = min(abs(value), self.most)
        share = np.log1p(size / self.unit) / np.log1p(self.most / self.unit) if self.unit else size / self.most
        return float(0.5 + np.sign(value) * share / 2) if self.signed else float(share)

    def colour(self, value):
        """The colour of a value, "#rrggbb"."""
        return self.at(self.place(value))

    def at(self, share):
        """The colour at a place on the scale."""
        return blend(BOTH_WAYS if self.signed else RISING, share)

    def ink(self, value):
        """The colour of text that is read upon it."""
        red, green, blue = (int(self.colour(value)[i : i + 2], 16) / 255 for i in (1, 3, 5))
        return INK if 0.299 * red + 0.587 * green + 0.114 * blue > 0.55 else "#ffffff"

    def ticks(self):
        """Values for a legend, rising, each with its place: (value, place)."""
        if self.unit:
            decade = 10.0 ** np.floor(np.log10(self.most))
            marks = [0.0] + [mark for mark in (decade / 100, decade / 10, decade) if mark >= self.unit]
            marks += [step * decade for step in (2, 5) if step * decade <= self.most]
        else:
            marks = [self.most * share for share in (0, 0.25, 0.5, 0.75, 1)]
        marks = sorted({-mark for mark in marks} | set(marks)) if self.signed else marks
        return _apart([(mark, self.place(mark)) for mark in marks])


def blend(colours, share):
    """The colour a share (0 to 1) of the way along a list of colours."""
    at = min(max(share, 0.0), 1.0) * (len(colours) - 1)
    first = min(int(at), len(colours) - 2)
    low, high = (tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5)) for colour in colours[first : first + 2])
    return "#" + "".join(f"{round(a + (b - a) * (at - first)):02x}" for a, b in zip(low, high))


def _sizes(values):
    """The sizes of the values that there are, and the largest."""
    sizes = np.abs([value for value in values if value is not None] or [0.0])
    return sizes, float(sizes.max()) or 1.0


def _apart(marks, least=0.13):
    """Drop marks that would stand upon one another; 0 stays."""
    kept = []
    for mark, place in sorted(marks, key=lambda pair: (pair[0] != 0, -abs(pair[0]))):
        if all(abs(place - other) >= least for _, other in kept):
            kept.append((mark, place))
    return sorted(kept)
