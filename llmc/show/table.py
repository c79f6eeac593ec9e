"""Tables that print well in a terminal and in a notebook."""

import html


class Table:
    """Rows of values under named columns.

    Attributes
    ----------
    columns : list of str
    rows : list of dict
    """

    def __init__(self, columns, rows, note=""):
        self.columns, self.rows, self.note = list(columns), list(rows), note

    def _cells(self):
        return [[_text(row.get(column)) for column in self.columns] for row in self.rows]

    def __str__(self):
        cells = self._cells()
        numeric = [all(isinstance(row.get(c), (int, float, type(None))) for row in self.rows) for c in self.columns]
        widths = [max(len(column), *(len(row[i]) for row in cells), 0) for i, column in enumerate(self.columns)]

        def line(values):
            padded = (v.rjust(w) if n else v.ljust(w) for v, w, n in zip(values, widths, numeric))
            return "  ".join(padded).rstrip()

        lines = [line(self.columns), line(["-" * w for w in widths]), *(line(row) for row in cells)]
        return "\n".join(lines + ([self.note] if self.note else []))

    __repr__ = __str__

    def _repr_html_(self):
        head = "".join(f"<th>{html.escape(column)}</th>" for column in self.columns)
        body = "".join(f"<tr>{_cells_html(row)}</tr>" for row in self._cells())
        note = f"<caption>{html.escape(self.note)}</caption>" if self.note else ""
        return f"<table>{note}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cells_html(cells):
    return "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)


def _text(value):
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, (tuple, list)):
        return "(" + ", ".join(map(str, value)) + ")"
    return str(value)


def count(n, unit=""):
    """A large number with its prefix: 1.24 M, 3.31 T."""
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(n) >= size:
            return f"{n / size:.3g} {prefix}{unit}"
    return f"{n:.3g} {unit}".rstrip()


def many(n, what):
    """A number of things: "1 row", "2,000 rows"."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"
