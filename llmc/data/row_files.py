"""Files of rows: JSON lines, a list in a .json, a table in a .csv or a .parquet."""

import csv
import itertools
import json
import os

from llmc.data.rows import KINDS, checked
from llmc.data.text_files import open_text, read_chunks
from llmc.errors import DataError
from llmc.system.free_memory import free_memory

LONGEST = 1 << 28  # bytes of a line
ROOM = 8  # bytes of memory, at least, for a byte of a .json file: all of it is read before its first row is known
AT_ONCE = 1024  # rows of a .parquet file in memory
NAMES = tuple(dict.fromkeys(itertools.chain(*KINDS, ("labels", "attention_mask"))))
TEXTS = ("text", "prompt", "response")  # other columns of a .csv hold JSON


def is_row_file(path):
    """Whether a file's name says that it holds rows, and no text."""
    return os.path.splitext(os.fspath(path))[1].lower() in _READERS


def records(paths, on_read=None):
    """The rows of files.

    Parameters
    ----------
    paths : iterable of path
        What ends in .json is one list of rows; .csv has a header that names the columns; .parquet is read by pyarrow;
        all others are JSON lines.
    on_read : callable, optional
        Called with the number of bytes that were read: a progress bar's `update`.

    Yields
    ------
    (str, dict)
        "file:line" or "file: row N", and what stands there.

    Raises
    ------
    DataError
        For a device, what is not UTF-8 or not of the kind that the name says, and a row that is no object with
        `input_ids`, or with `messages`, or with `text`, or `prompt` and `response`, as strings.
    MemoryError
        For a list in a .json file that the free memory has no room for.
    """
    for path in paths:
        read = _READERS.get(os.path.splitext(os.fspath(path))[1].lower(), _lines)
        for where, record in read(path, on_read or (lambda count: None)):
            yield where, checked(where, record)


def _lines(path, on_read):
    with open_text(path) as file:
        number = 0
        while line := file.readline(LONGEST + 1):
            number += 1
            where = f"{path}:{number}"
            if len(line) > LONGEST:
                raise DataError(f"{where}: a line of more than {LONGEST} bytes; each line is one object")
            on_read(len(line))
            if line.strip():
                yield where, _parsed(where, line, "each line is one object", "the line")


def _list(path, on_read):
    with open_text(path) as file:
        size, free = os.fstat(file.fileno()).st_size, free_memory()
        if free is not None and ROOM * size > free:
            raise MemoryError(f"{path}: a list of {size} bytes is read whole, and {free} bytes of memory are free; "
                              "written as JSON lines (.jsonl) it is read row by row")
        data = file.read()
    on_read(len(data))
    found = _parsed(path, data, "a .json file is one list of rows; an object a line is called .jsonl")
    if not isinstance(found, list):
        raise DataError(f"{path}: it holds {type(found).__name__}; a .json file is one list of rows")
    for index, row in enumerate(found):
        yield f"{path}: row {index}", row


def _table(path, on_read):
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST))
    source = _Counted(_text_lines(path, on_read))
    reader = csv.reader(source, strict=True)
    header, line = None, 1
    try:
        for cells in reader:
            where, line = f"{path}:{line}", source.count + 1
            if header is None:
                header = _header(where, cells)
            elif cells:
                if len(cells) != len(header):
                    raise DataError(f"{where}: {len(cells)} cells, and the header has {len(header)}; a comma or a "
                                    "line end inside of a text stands between double quotes")
                yield where, {name: cell if name in TEXTS else _parsed(where, cell, f"{name} of a .csv is JSON")
                              for name, cell in zip(header, cells) if name in NAMES and (cell or name in TEXTS)}
    except csv.Error as error:
        raise DataError(f"{path}:{line}: {error}; quotes stand around a whole cell, and double inside of it") from None


def _header(where, cells):
    names = [cell.strip() for cell in cells]
    twice = next((name for name in names if name in NAMES and names.count(name) > 1), None)
    if twice:
        raise DataError(f"{where}: the header has {twice} twice")
    if not any(all(name in names for name in kind) for kind in KINDS):
        raise DataError(f"{where}: the header is {', '.join(map(repr, names))}; the first line names the columns, "
                        "text, or prompt and response, or messages, or input_ids, with commas between")
    return names


class _Counted:
    """Lines, and how many were taken: csv's own count misses carriage returns."""

    def __init__(self, lines):
        self._lines, self.count = lines, 0

    def __iter__(self):
        return self

    def __next__(self):
        line = next(self._lines)
        self.count += 1
        return line


def _text_lines(path, on_read):
    rest, first = "", True
    for chunk in read_chunks(path, on_read):
        rest += chunk.removeprefix("\ufeff") if first else chunk
        first = False
        *lines, rest = rest.split("\n")
        yield from (line + "\n" for line in lines)
        if len(rest) > LONGEST:
            raise DataError(f"{path}: a line of more than {LONGEST} characters")
    if rest:
        yield rest


def _columns(path, on_read):
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise DataError(f"{path}: .parquet is read by pyarrow, which is not installed: pip install pyarrow; or write "
                        "the rows as JSON lines") from None
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: there is no such file") if not os.path.exists(path) else DataError(
            f"{path}: no file; the table of a .parquet stands at its end, which a pipe cannot be asked for first")
    size, done = os.path.getsize(path), 0
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            here = [name for name in NAMES if name in names]
            if not here:
                raise DataError(f"{path}: its columns are {', '.join(map(repr, names)) or 'none'}; rows have text, or "
                                "prompt and response, or messages, or input_ids")
            for batch in file.iter_batches(AT_ONCE, columns=here):
                for index, row in enumerate(batch.to_pylist(), start=done):
                    yield f"{path}: row {index}", {name: cell for name, cell in row.items() if cell is not None}
                on_read(size * batch.num_rows // file.metadata.num_rows)
                done += batch.num_rows
    except (ArrowException, OSError) as error:
        if getattr(error, "errno", None) is not None:  # the system's own, and no word of the reader on the bytes
            raise
        raise DataError(f"{path}: no .parquet file: {' '.join(str(error).split())}") from None


def _parsed(where, text, what, part="it"):
    try:
        return json.loads(text.decode("utf-8-sig") if isinstance(text, bytes) else text)
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: byte {error.start} of {part} is not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON: {error}; {what}") from None


_READERS = {".jsonl": _lines, ".ndjson": _lines, ".json": _list, ".csv": _table, ".parquet": _columns}
