"""The page of a trace."""

from llmc.show.page import fragment, page


def whole(trace):
    return page(trace.title)


def in_notebook(trace):
    return fragment()
