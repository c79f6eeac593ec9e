"""How a report calls what it is of: a checkpoint, and the text that it read."""

import os

from llmc.show.table import count


def title_of(model, place=None):
    """A model in a line: "out (llama, 529 k parameters)", the folder's name left out where it lies in none.

    `place` is where it was opened from, if not the folder that it lies in: an adapter's.
    """
    what = f"{model.config.model_type}, {count(model.num_parameters())} parameters"
    place = place or model._name_or_path
    return f"{os.path.basename(os.path.normpath(place))} ({what})" if place else what


def tokens_of(amount, source):
    """ "1,024 tokens of notes.txt"; without `source` their number alone."""
    return f"{amount:,} token{'s' * (amount != 1)}" + (f" of {source}" if source else "")


def source_of(paths):
    """The names of files in a line."""
    return ", ".join(os.path.basename(os.path.normpath(path)) for path in paths)
