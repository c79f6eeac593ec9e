"""Rows that come one after the other, as a streamed dataset gives them: what a tokenizer makes of each."""

from llmc.data.jsonl import JsonlDataset
from llmc.data.rows import kind_of
from llmc.errors import DataError


class RowStream:
    """The items of an iterable of rows, which is iterated afresh each time.

    Parameters
    ----------
    rows : iterable
        Rows of `text`, `prompt` and `response` or `messages`; what has `input_ids`, or is no row, passes as it is.
    tokenizer : Tokenizer
    block_size : int
        The most tokens of an item: a longer text is several.
    """

    def __init__(self, rows, tokenizer, block_size):
        self._rows, self._tokenizer, self._block_size = rows, tokenizer, block_size

    def __iter__(self):
        return items_of(self._rows, self._tokenizer, self._block_size)


def are_streamed(dataset):
    """Whether a dataset has no length and may hold rows: it is iterated, and no dataset of this package."""
    return hasattr(dataset, "__iter__") and not hasattr(dataset, "__len__") \
        and not type(dataset).__module__.startswith("llmc.")


def items_of(rows, tokenizer, block_size):
    """An iterator over the items of rows; parameters as of a RowStream.

    Raises
    ------
    DataError
        For a row that does not fit, with its place.
    """
    for index, row in enumerate(rows):
        if kind_of(row) in (None, ("input_ids",)):
            yield row
            continue
        try:
            items = JsonlDataset([row], tokenizer, block_size)
        except DataError as error:
            raise DataError(str(error).replace("row 0", f"row {index}", 1)) from None
        yield from (items[at] for at in range(len(items)))
