"""Rows: texts, prompts with responses, conversations, or ids, as dicts."""

from llmc.data.messages import check_messages
from llmc.errors import DataError

KINDS = (("input_ids",), ("messages",), ("prompt", "response"), ("text",))  # of several in a row the first counts


def rows(dataset):
    """The dicts of a list, or of what has `__len__` and `__getitem__`, as `row_files.records` gives those of files."""
    for index in range(len(dataset)):
        where = f"row {index}"
        yield where, checked(where, dataset[index])


def are_rows(dataset):
    """Whether a dataset holds rows that a tokenizer has to read; of a list each is looked at, of others the first."""
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__") or not len(dataset):
        return False
    some = dataset if isinstance(dataset, (list, tuple)) else [dataset[0]]
    return any(hasattr(row, "keys") and "input_ids" not in row and any(kind[0] in row for kind in KINDS)
               for row in some)  # fmt: skip


def kind_of(record):
    """The names in a row that count: of the kinds of `KINDS` the first; None where it has none."""
    return next((kind for kind in KINDS if kind[0] in record), None) if hasattr(record, "keys") else None


def text_of(record):
    """The text of a row; a prompt and its response follow each other with nothing between, turns stand in
    lines of their own, and ids have none."""
    kind = kind_of(record)
    if kind == ("messages",):
        return "\n".join(message["content"] for message in record["messages"])
    return "" if kind == ("input_ids",) else "".join(record[name] for name in kind)


def checked(where, record):
    """A row, with its strings where they should be.

    Raises
    ------
    DataError
        When it is none, with the place.
    """
    kind = kind_of(record)
    if kind is None or any(name not in record for name in kind):
        found = f"an object with {', '.join(map(repr, record)) or 'nothing'}" if hasattr(record, "keys") \
            else type(record).__name__
        raise DataError(f'{where}: it holds {found}; a row is {{"text": …}}, {{"prompt": …, "response": …}}, '
                        f'{{"messages": […]}} or {{"input_ids": …}}')
    if kind == ("messages",):
        try:
            check_messages(record["messages"])
        except (DataError, TypeError) as error:
            raise DataError(f"{where}: {error}") from None
    for name in kind:
        if kind in (("prompt", "response"), ("text",)) and not isinstance(record[name], str):
            raise DataError(f"{where}: {name} is {type(record[name]).__name__}, not a string")
    return record
