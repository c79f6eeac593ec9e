"""Measurement: the metrics of every module, gathered batch by batch, and what is to be said about them."""

import numpy as np

from llmc.analysis.metrics import INPUT, OUTPUT, PER_TOKEN, WHOLE_INPUT, Course, tokens
from llmc.analysis.modules import modules
from llmc.analysis.observe import STREAM
from llmc.analysis.shapes import SKIPPED, mismatch_line, shape_case


class Measurement:
    """Grows with every batch; `rows` and `mismatches` say what it has come to.

    Parameters
    ----------
    parts : dict
        {name: (part, layer)} of every hook point.
    shapes : dict
        {name: (input shape or None, output shape)} of the first batch.
    metrics : tuple of str
    projections : {"truncate", "feature-mean"}
    ids_shape : (int, int)
        Of the first batch: what a module that reads ids reads.
    """

    def __init__(self, parts, shapes, metrics, projections, ids_shape):
        self.metrics = metrics
        self.modules = modules(parts, shapes)
        self.shapes = {
            name: (tuple(ids_shape if read is None else read), tuple(given)) for name, (read, given) in shapes.items()
        }
        self.cases = {m.name: shape_case(m, *self.shapes[m.name], projections) for m in self.modules}
        self.tokens = self.batches = 0
        self._courses = {(m.name, metric): Course() for m in self.modules for metric in metrics}
        self._missing = {}  # (name, metric) -> (why, how many values)
        self._squares = {}  # name -> sum of x^2 of its input, by position

    def observe(self, sums, metrics, positions):
        """Take in what `observed` saw of a batch; `tokens` and `batches` count what was seen."""
        self.batches += 1
        self.tokens += len(next(iter(sums.values())))
        for module in self.modules:
            if module.kind != "adapter" and module.name in sums:
                squares = np.bincount(positions, sums[module.name][:, WHOLE_INPUT])
                self._squares[module.name] = _added(self._squares.get(module.name), squares)
        for module in self.modules:
            name, case = module.name, self.cases[module.name]
            if case == SKIPPED or name not in sums:
                continue
            stream = sums.get(name + STREAM)
            for metric, values in tokens(metrics, sums[name], stream, case).items():
                there = np.isfinite(values)
                found = np.count_nonzero(there)
                if found:
                    weight = len(sums[name]) if metric == "lim" else found
                    self.add(name, metric, values[there].sum() / found, weight)
                if found < len(values):
                    seen = stream if stream is not None and metric == "relative_contribution" else sums[name]
                    seen = seen.sum(axis=0) if metric == "lim" else seen[np.argmin(there)]
                    self.miss(name, metric, _why(seen), len(values) - found)

    def add(self, name, metric, value, weight):
        """Take in the value of a batch, which counts `weight` times."""
        self._courses[name, metric].add(float(value), float(weight))

    def miss(self, name, metric, why, count=1):
        """Note that `count` values of a metric do not exist, and why."""
        self._missing[name, metric] = why, self._missing.get((name, metric), (why, 0))[1] + count

    @property
    def rows(self):
        """A dict for every module."""
        several = max((course.count for course in self._courses.values()), default=0) > 1
        return [self._row(module, several) for module in self.modules]

    def _row(self, module, several):
        input_shape, output_shape = self.shapes[module.name]
        row = {
            "name": module.name, "kind": module.kind, "layer": module.layer, "shape_case": self.cases[module.name],
            "input_shape": input_shape, "output_shape": output_shape,
        }  # fmt: skip
        for metric in self.metrics:
            row[metric] = self._courses[module.name, metric].mean
        if several:
            for metric in self.metrics:
                row[f"{metric}_spread"] = self._courses[module.name, metric].spread
        return row

    @property
    def sinks(self):
        """The modules of whose input one position holds more than half of the squared norm, of several.

        Returns
        -------
        list of dict
            `name, layer, position, share`.
        """
        found = []
        for module in self.modules:
            squares = self._squares.get(module.name)
            if squares is None or np.count_nonzero(squares) < 2 or not np.isfinite(squares).all():
                continue
            position, share = int(squares.argmax()), float(squares.max() / squares.sum())
            if share > 0.5:
                found.append({"name": module.name, "layer": module.layer, "position": position, "share": share})
        return found

    @property
    def mismatches(self):
        """A line for every module whose shapes differ, and for every value that does not exist."""
        lines = []
        for module in self.modules:
            name = module.name
            if module.kind != "adapter" and self.shapes[name][0] != self.shapes[name][1]:
                lines.append(mismatch_line(name, *self.shapes[name]))
            gone, partly = {}, {}
            for metric in self.metrics:
                if (name, metric) not in self._missing:
                    continue
                why, count = self._missing[name, metric]
                course = self._courses[name, metric]
                if not course.count:
                    gone.setdefault(why, []).append(metric)
                elif metric in PER_TOKEN:
                    partly.setdefault(f"{why} in {count} of {count + round(course.weight)} tokens", []).append(metric)
                else:
                    partly.setdefault(f"{why} in {count} of {count + course.count} batches", []).append(metric)
            lines += [f"layer {name}: {why}: no {', '.join(which)}" for why, which in gone.items()]
            lines += [f"layer {name}: {why}, left out of {', '.join(which)}" for why, which in partly.items()]
        return lines


def _added(one, two):
    """The sums of two courses by position, of which one may be longer."""
    if one is None or len(one) < len(two):
        one, two = two, one
    if two is not None:
        one[: len(two)] += two
    return one


def _why(sums):
    """Why sums (6,) give no value."""
    if not np.isfinite(sums).all():
        return "numbers are not finite"
    if sums[INPUT] == 0:
        return "the input is zero and the output is not"
    return "the output is zero and the input is not" if sums[OUTPUT] == 0 else "numbers are too large"
