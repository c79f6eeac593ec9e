"""A file's own words, cut to what fits an error message."""

from itertools import islice

from llmc.errors import nearest

LIMIT = 200
SEARCHED = 2000


def quoted(value):
    """`repr` of a string, of its beginning if it is long; the type's name of anything else."""
    if not isinstance(value, str):
        return type(value).__name__
    return repr(value) if len(value) <= LIMIT else repr(value[:LIMIT])[:-1] + "…'"


def hint(name, names):
    """The nearest of `names`, as the end of a sentence; nothing where the search would take long."""
    if len(name) > LIMIT:
        return ""
    phrase = nearest(name, [other for other in islice(names, SEARCHED) if len(other) <= LIMIT])
    return f"; {phrase}" if phrase else ""
