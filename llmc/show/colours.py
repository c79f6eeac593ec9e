"""The colours of a heat map: which colour a value of a metric has, and which values a legend shows."""

import numpy as np

INK, GREY, LINE, MARK = "#1f2430", "#7d8593", "#e3e6eb", "#e0562f"
WARM, COOL = "#e0762f", "#3565c9"
RISING = ("#f3f6fc", "#cbdaf4", "#94b5ea", "#5b8adb", "#2f5fb8", "#1c3f86", "#10244f")
BOTH_WAYS = ("#173a7c", "#3565c9", "#8fb0e8", "#f6f6f6", "#f3b78f", "#dd6f2c", "#8c3b0c")
SIGNED = ("negative_cosine", "ablation", "difference")
FIXED = {"negative_cosine": 1.0, "angular_distance": 1.0, "cka": 1.0}  # metrics whose largest value is known
DECADES = 3  # smaller values than the largest by more than so many are as good as nothing


class Colours:
    """The colour scale of one metric.

    Small and large values are told apart alike (a logarithm that passes through 0), but for metrics that have a known
    largest value, which are linear. Metrics with a sign have 0 in the middle.

    Parameters
    ----------
    metric : str
    values : iterable of float or None
        All that will be shown.
    """

    def __init__(self, metric, values):
        sizes = np.abs([value for value in values if value is not None] or [0.0])
        self.signed, self.linear = metric in SIGNED, metric in FIXED
        self.most = FIXED.get(metric) or float(sizes.max()) or 1.0
        positive = sizes[sizes > 0]
        smallest = max(float(positive.min()), self.most / 10**DECADES) if len(positive) else self.most
        self._unit = self.most / 10 ** (DECADES - 1) if self.signed else smallest

    def place(self, value):
        """Where a value stands on the scale, 0 to 1."""
        size = min(abs(value), self.most)
        share = size / self.most if self.linear else np.log1p(size / self._unit) / np.log1p(self.most / self._unit)
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
        """Values for a legend, rising."""
        if self.linear:
            marks = [self.most * share for share in (0, 0.25, 0.5, 0.75, 1)]
        else:
            decade = 10.0 ** np.floor(np.log10(self.most))
            marks = [0.0] + [mark for mark in (decade / 100, decade / 10, decade) if mark >= self._unit]
            marks += [step * decade for step in (2, 5) if step * decade <= self.most]
        marks = sorted({-mark for mark in marks} | set(marks)) if self.signed else marks
        return _apart([(mark, self.place(mark)) for mark in marks])


def _apart(marks, least=0.13):
    """Drop marks that would stand upon one another; 0 stays."""
    kept = []
    for mark, place in sorted(marks, key=lambda pair: (pair[0] != 0, -abs(pair[0]))):
        if all(abs(place - other) >= least for _, other in kept):
            kept.append((mark, place))
    return sorted(kept)


def blend(colours, share):
    """The colour a share (0 to 1) of the way along a list of colours."""
    at = min(max(share, 0.0), 1.0) * (len(colours) - 1)
    first = min(int(at), len(colours) - 2)
    low, high = (tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5)) for colour in colours[first : first + 2])
    return "#" + "".join(f"{round(a + (b - a) * (at - first)):02x}" for a, b in zip(low, high))
