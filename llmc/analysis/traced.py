"""Trace: what a trace found, as attributes, tables, files and pictures."""

import csv
import io

import numpy as np

from llmc.analysis import trace_page, trace_picture
from llmc.calls import public
from llmc.checks import whole
from llmc.errors import DataError, UnknownNameError, nearest
from llmc.show import exports
from llmc.show.table import Table

FORMAT, VERSION = "llmc-trace", 1
MEASURES = ("own_change", "output_change", "input_change", "cosine")
_PARTS = ("title", "modules", "layers", "tokens", "stream", "summary", "gained", "lost", "fields")
_SHOWN = 10  # rows of a printed table, and tokens of a line


@public
class Trace:
    """What the changed weights of a model move on a text. It prints itself.

    Attributes
    ----------
    modules : list of dict
        One for each hook point: `name, kind, layer, part`, how far what it reads and what it gives are from the base's
        (`input_change, output_change`: Frobenius norms over the tokens; `cosine` of a token's two outputs, mean), and
        `own_change`, what its own weights do to what the base's module reads; None for what has none.
    layers : list of dict
        One for each place of the residual stream, 0 the embeddings, l the output of block l: `layer, change, cosine,
        says`, the tokens that the tuned final norm and head make of the mean difference, `{id, text, score}`.
    tokens : list of dict
        One for each token that is not padding: `batch, position, id, text, kl, base_top, tuned_top, base_top_text,
        tuned_top_text, next, base_logprob, tuned_logprob`.
    stream : (L + 1, B, T) float32, or a list of such
        ‖h′ − h‖ / ‖h‖ of every token, NaN for padding; of several batches one each.
    summary : dict
        `tokens, kl_mean, kl_max, agreement, base_loss, tuned_loss`.
    gained, lost : list of dict
        The tokens whose probability rose and fell most, mean over the tokens: `{id, text, change}`.
    fields : list of dict or None
        Of scenes: `field, tokens, kl, change` (over the places of the stream).
    title : str
    source : str or None
        What the text is called, if somebody said so: the command line does.
    """

    def __init__(self, title, modules, layers, tokens, stream, summary, gained, lost, fields=None, source=None):
        self.title, self.modules, self.layers, self.tokens, self.stream = title, modules, layers, tokens, stream
        self.summary, self.gained, self.lost, self.fields, self.source = summary, gained, lost, fields, source

    def __eq__(self, other):
        return isinstance(other, Trace) and self.to_dict() == other.to_dict()

    __hash__ = None

    def top(self, n=10, by="own_change"):
        """The `n` modules in which a measure is largest, the largest first; those that have no value are left out.

        Raises
        ------
        UnknownNameError
            For a measure there is not; the message lists the nearest.
        """
        by, n = _measure(by), whole(n, "n", 1)
        rows = [row for row in self.modules if row[by] is not None]
        return sorted(rows, key=lambda row: -row[by])[:n]

    # --- files -------------------------------------------------------------------------------------------------------
    def save(self, path):
        """Write everything as .json, the modules as .csv, or a page to read as .html; the file appears whole.

        Raises
        ------
        ConfigError
            For another ending.
        OSError
            When the place cannot be written to.
        """
        exports.save(path, "a trace", self.to_dict, self._csv, lambda: trace_page.whole(self))

    def to_dict(self):
        """Everything, as JSON holds it."""
        found = {name: getattr(self, name) for name in _PARTS}
        several = isinstance(self.stream, list)
        found["stream"] = [_listed(each) for each in self.stream] if several else _listed(self.stream)
        return {"format": FORMAT, "version": VERSION, "source": self.source, **found}

    @classmethod
    def from_dict(cls, found):
        """The trace of what `to_dict` gave.

        Raises
        ------
        DataError
            When it is none, or of a later version.
        """
        if not isinstance(found, dict) or found.get("format") != FORMAT or found.get("version") != VERSION:
            raise DataError(f"this is no {FORMAT} of version {VERSION}")
        if lacking := [name for name in _PARTS if name not in found]:
            raise DataError(f"a {FORMAT} has {', '.join(_PARTS)}, and this one lacks {lacking[0]}")
        parts = {name: found[name] for name in _PARTS}
        try:
            parts["stream"] = _arrays(parts["stream"])
        except (TypeError, ValueError, IndexError):
            raise DataError(f"the stream of a {FORMAT} is numbers and nulls, (layers, batch, time)") from None
        return cls(**parts, source=found.get("source"))

    def _csv(self):
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.modules[0])
        writer.writerows(row.values() for row in self.modules)
        return text.getvalue()

    def plot(self, path, by="own_change"):
        """Draw layers by parts, coloured by a measure of the modules.

        Parameters
        ----------
        path : str
            A .png, .pdf or .svg, which appears whole.
        by : "own_change", "output_change", "input_change" or "cosine"

        Raises
        ------
        UnknownNameError
            For a measure there is not.
        ConfigError
            For another ending.
        ImportError
            Without matplotlib.
        """
        trace_picture.plot(self, path, _measure(by))

    # --- in a terminal, in a notebook --------------------------------------------------------------------------------
    def __str__(self):
        columns = ["name", "own_change", "output_change", "input_change", "cosine"]
        layers = [row | {"says": _line(row["says"] or [])} for row in self.layers]
        pieces = [
            f"{self.title}\n{Table(list(self.summary), [self.summary])}",
            f"the modules whose own weights do most\n{Table(columns, self.top(_SHOWN))}",
            f"the residual stream\n{Table(['layer', 'change', 'cosine', 'says'], layers)}",
        ]
        pieces += [f"{word}: {_line(rows, 'change')}" for word, rows in (("gained", self.gained), ("lost", self.lost))
                   if rows]  # fmt: skip
        if self.fields is not None:
            rows = [{"field": row["field"], "tokens": row["tokens"], "kl": row["kl"], "change": row["change"][-1]}
                    for row in self.fields]  # fmt: skip
            pieces.append(f"by scene field\n{Table(['field', 'tokens', 'kl', 'change'], rows)}")
        return "\n\n".join(pieces)

    __repr__ = __str__

    def _repr_html_(self):
        return trace_page.in_notebook(self)


def _measure(by):
    if by not in MEASURES:
        raise UnknownNameError(f"there is no measure {by!r}; "
                               f"{nearest(str(by), MEASURES) or f'there are ' + ', '.join(MEASURES)}")
    return by


def _line(rows, key=None):
    """Tokens in a line, by their texts where they have any."""
    rows = rows[:_SHOWN]
    words = [str(row["id"]) if row["text"] is None else repr(row["text"]) for row in rows]
    return " ".join(words if key is None else [f"{word} {row[key]:+.3g}" for word, row in zip(words, rows)])


def _listed(array):
    """An array as lists, each number in its shortest form; NaN is None."""
    if np.ndim(array):
        return [_listed(each) for each in array]
    return float(str(array)) if np.isfinite(array) else None


def _arrays(lists):
    """What `_listed` gave as one array, or as a list of arrays of several batches."""
    depth, inner = 0, lists
    while isinstance(inner, list):
        depth, inner = depth + 1, inner[0]
    if depth == 4:
        return [np.array(each, dtype=np.float32) for each in lists]
    array = np.array(lists, dtype=np.float32)
    if array.ndim != 3:
        raise ValueError(lists)
    return array
