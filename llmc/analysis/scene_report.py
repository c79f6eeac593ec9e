"""SceneReport: what each field of the scenes is worth to the responses, as rows, tables, files and pictures."""

import csv
import io

from llmc.analysis import scene_page, scene_picture
from llmc.calls import public
from llmc.show import exports
from llmc.show.table import Table

MEASURED = ("loss", "loss_without", "effect", "base_loss", "base_loss_without", "base_effect", "learnt")


@public
class SceneReport:
    """The effect of every field on the responses. It prints itself: a line a field, the largest effect first.

    Attributes
    ----------
    rows : list of dict
        One for each scene and field it has: `scene` (its id), `field`, `tokens` (learnt), `loss` and `loss_without` the
        field (nats a learnt token), `effect` = loss_without - loss; the same of the base, `base_loss,
        base_loss_without, base_effect`, and `learnt` = effect - base_effect, None without a base.
    by_field : list of dict
        The same over all scenes that have a field, weighted by their tokens: `field, scenes, tokens` and the numbers,
        the largest effect first.
    tokens : list of dict
        One for each scene and learnt token: `scene, position` (0 is the first of the response), `id, text, loss,
        effects` ({field: the loss without it - loss}).
    source : str or None
        What the scenes are called, if somebody said so: the command line does.
    """

    def __init__(self, title, data, fields, rows, tokens):
        self.title, self.rows, self.tokens, self.source = title, rows, tokens, None
        self.scenes = len(data)
        found = [_over_scenes(name, [row for row in rows if row["field"] == name]) for name in fields]
        self.by_field = sorted(found, key=lambda row: -row["effect"])

    @property
    def has_base(self):
        """Whether a base was measured beside the model."""
        return self.rows[0]["learnt"] is not None

    @property
    def text(self):
        """On what it rests: "12 scenes of rule.yaml, 340 learnt tokens"."""
        source = f" of {self.source}" if self.source else ""
        return (f"{self.scenes:,} scene{'s' * (self.scenes != 1)}{source}, {len(self.tokens):,} learnt "
                f"token{'s' * (len(self.tokens) != 1)}")  # fmt: skip

    def save(self, path):
        """Write the rows as .csv, everything as .json, or a page to read as .html; the file appears whole.

        Raises
        ------
        ConfigError
            For another ending.
        OSError
            When the place cannot be written to.
        """
        exports.save(path, "a report", self.to_dict, self._csv, lambda: scene_page.whole(self))

    def to_dict(self):
        """Everything, as JSON holds it."""
        return {"format": "llmc-scenes", "version": 1, "title": self.title, "source": self.source, "rows": self.rows,
                "by_field": self.by_field, "tokens": self.tokens}  # fmt: skip

    def _csv(self):
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()

    def plot(self, path):
        """Draw the effect of each field, before and after where there is a base: a .png, .pdf or .svg.

        Raises
        ------
        ConfigError
            For another ending.
        ImportError
            Without matplotlib.
        """
        scene_picture.plot(self, path)

    def __str__(self):
        columns = ["field", "scenes", "tokens", *(name for name in MEASURED if self.by_field[0][name] is not None)]
        note = "effect: what the loss of a learnt token rises by, in nats, without the field"
        note += "; learnt: the effect beyond the base's" if self.has_base else ""
        return f"{self.title}; {self.text}\n\n{Table(columns, self.by_field, note)}"

    __repr__ = __str__

    def _repr_html_(self):
        return scene_page.in_notebook(self)


def _over_scenes(field, rows):
    """The row of a field over its scenes, weighted by their tokens."""
    tokens = sum(row["tokens"] for row in rows)
    found = {"field": field, "scenes": len(rows), "tokens": tokens}
    for name in MEASURED:
        values = [row[name] for row in rows]
        weighted = None if None in values else sum(row["tokens"] * row[name] for row in rows) / tokens
        found[name] = weighted
    return found
