"""The documents of a file: the texts of its rows, or the file as a whole."""

from llmc.data.row_files import is_row_file, records
from llmc.data.text_files import read_chunks
from llmc.errors import DataError


def documents(path, on_read=None):
    """The documents of a UTF-8 file, one after the other, each to be read before the next.

    Parameters
    ----------
    path : str or PathLike
        Rows (`.jsonl`, `.ndjson`, `.json`, `.csv`, `.parquet`) with `text` are a document each; any other file is one.
    on_read : callable, optional
        Called with the number of bytes of each read: a progress bar's `update`.

    Yields
    ------
    iterable of str
        A document in chunks.

    Raises
    ------
    DataError
        For a device, bytes that are not UTF-8, a line that is no such object, and for a prompt with its response:
        documents are learnt whole, and of these the response alone is to be.
    """
    if not is_row_file(path):
        yield read_chunks(path, on_read)
        return
    for where, record in records([path], on_read):
        if "input_ids" in record:
            raise DataError(f"{where}: ids, of which nobody knows the text; llmc train, llmc lora and llmc eval read "
                            f"such rows, and llmc.data.JsonlDataset does")
        if "messages" in record or "prompt" in record:
            what = ("a conversation, of which the assistant's turns alone are learnt" if "messages" in record
                    else "a prompt and its response, of which the response alone is learnt")
            raise DataError(f"{where}: {what}, but a document is learnt whole; llmc train, llmc lora and llmc "
                            "eval read such rows, and llmc.data.JsonlDataset does")
        yield [record["text"]]
