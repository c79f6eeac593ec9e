"""Diff: what two checkpoints differ in, as rows, totals, notes, files and pictures."""

from llmc.analysis import Trace
from llmc.calls import public
from llmc.diff import files
from llmc.diff.headline import counts, headline
from llmc.diff.tensor_row import CHANGE, KEYS, SPECTRUM
from llmc.diff.viewer import page
from llmc.errors import UnknownNameError, nearest, shown
from llmc.show import exports, picture
from llmc.show.table import Table

FORMAT, VERSION = "llmc-diff", 1
BY = tuple(key for key in (*CHANGE, *SPECTRUM, "changed", "units_90", "intruders", "numbers")
           if key not in ("max_at", "spectrum_method", "singular_values", "energy"))  # fmt: skip
_PARTS = ("summary", "rows", "by_layer", "by_role", "by_part", "notes", "trace")
_PRINTED = 10


@public
class Diff:
    """Two checkpoints side by side. It prints itself: the summary, what it comes to, the tensors that changed most.

    Attributes
    ----------
    rows : list of dict
        One a tensor of either side, in the base's order, then those that only the tuned one has.
    summary : dict
    by_layer, by_role, by_part : list of dict
    notes : list of str
    trace : llmc.analysis.Trace or None
        What the changed weights move on a text, where one was given; otherwise None.
    """

    def __init__(self, summary, rows, by_layer, by_role, by_part, notes, trace=None):
        self.summary, self.rows, self.notes, self.trace = summary, rows, notes, trace
        self.by_layer, self.by_role, self.by_part = by_layer, by_role, by_part

    def __getitem__(self, name):
        """The row of a tensor, by the base's name or by the tuned one's."""
        for key in ("name", "tuned_name"):
            for row in self.rows:
                if row[key] == name:
                    return row
        names = [row["name"] for row in self.rows]
        raise UnknownNameError(f"there is no tensor {shown(name)} on either side; "
                               f"{nearest(str(name), names[:2000]) or f'there are {len(names)} others'}")

    def __eq__(self, other):
        return isinstance(other, Diff) and self.to_dict() == other.to_dict()

    __hash__ = None

    def top(self, n=10, by="relative_change"):
        """The rows of the largest values of a key, the largest first; those without a value are left out.

        Parameters
        ----------
        n : int
        by : str
            A key of the rows that is a number.

        Raises
        ------
        UnknownNameError
            For any other key.
        """
        check_by(by)
        return sorted((row for row in self.rows if row[by] is not None), key=lambda row: -row[by])[:n]

    # --- elsewhere ---------------------------------------------------------------------------------------------------
    def to_dict(self):
        """Everything, as JSON holds it."""
        trace = None if self.trace is None else self.trace.to_dict()
        parts = {part: getattr(self, part) for part in _PARTS} | {"trace": trace}
        return {"format": FORMAT, "version": VERSION} | parts

    def to_dataframe(self):
        """The rows as a pandas DataFrame.

        Raises
        ------
        ImportError
            Without pandas.
        """
        return exports.dataframe(self.rows, "diff", list(KEYS))

    def save(self, path):
        """Write everything as .json, the rows as .csv, or the weight viewer as .html; the file appears whole.

        Raises
        ------
        ConfigError
            For another ending.
        OSError
            When the place cannot be written to.
        """
        exports.save(path, "a diff", self.to_dict, lambda: files.to_csv(self.rows, KEYS), lambda: page(self),
                     indent=None)  # fmt: skip

    @classmethod
    def load(cls, path):
        """Read what `save` wrote as .json or .html; it is equal to what was saved.

        Raises
        ------
        FileNotFoundError
            When there is no such file.
        DataError
            When it is no diff.
        """
        parts = files.read_diff(path, FORMAT, VERSION, _PARTS)
        return cls(**parts | {"trace": parts["trace"] and Trace.from_dict(parts["trace"])})

    def plot(self, path, by="relative_change"):
        """Draw layers by parts, coloured by a key of the rows.

        Parameters
        ----------
        path : str
            A .png, .pdf or .svg, which appears whole.
        by : str

        Raises
        ------
        UnknownNameError
            For a key that is no number.
        ConfigError
            For another ending.
        ImportError
            Without matplotlib.
        """
        from llmc.diff.map_picture import plot

        picture.ending(path)
        check_by(by)
        plot(self, path, by)

    # --- in a terminal -----------------------------------------------------------------------------------------------
    def __str__(self):
        return self.text(_PRINTED)

    __repr__ = __str__

    def text(self, top):
        """The summary, the totals and the `top` tensors that changed most, as text."""
        pieces = [headline(self.summary)]
        pieces += [line for line in (counts(self.summary),) if line]
        for key, entries in (("layer", self.by_layer), ("role", self.by_role), ("part", self.by_part)):
            if entries:
                pieces.append(str(Table([key, "tensors", "changed", "numbers", "base_norm", "delta_norm",
                                         "relative_change", "share"], entries)))  # fmt: skip
        rows = [row for row in self.top(top) if row["changed"]]
        if rows:
            columns = ["name", "status", "relative_change", "cosine", "max_abs", "rounding_floor", "effective_rank",
                       "signal_rank", "unit", "units_90"]  # fmt: skip
            shown_columns = [column for column in columns if any(row[column] is not None for row in rows)]
            pieces.append(str(Table(shown_columns, rows, f"the {len(rows)} tensors that changed most")))
        pieces += ["\n".join(self.notes)] if self.notes else []
        return "\n\n".join(pieces)


def check_by(by):
    """Raise UnknownNameError for what is no number of the rows."""
    if by not in BY:
        near = nearest(str(by), BY) or "there are " + ", ".join(BY)
        raise UnknownNameError(f"by={shown(by)}: rows have no number of that name; {near}")
