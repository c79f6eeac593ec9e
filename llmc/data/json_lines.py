"""JSON lines: files with an object in every line, a text or a prompt with its response."""

import json
import os

from llmc.data.text_files import open_text
from llmc.errors import DataError

SUFFIXES = (".jsonl", ".ndjson")
LONGEST = 1 << 28  # bytes of a line


def is_json_lines(path):
    """Whether a file's name says that it holds JSON lines."""
    return os.fspath(path).lower().endswith(SUFFIXES)


def records(paths, on_read=None):
    """The objects of JSON-lines files.

    Parameters
    ----------
    paths : iterable of path
    on_read : callable, optional
        Called with the number of bytes of each line: a progress bar's `update`.

    Yields
    ------
    (str, dict)
        "file:line", and what stands there.

    Raises
    ------
    DataError
        For a device, and a line that is not UTF-8, not JSON, or no object with `text`, or `prompt` and `response`, as
        strings.
    """
    for path in paths:
        with open_text(path) as file:
            number = 0
            while line := file.readline(LONGEST + 1):
                number += 1
                where = f"{path}:{number}"
                if len(line) > LONGEST:
                    raise DataError(f"{where}: a line of more than {LONGEST} bytes; each line is one object")
                if on_read is not None:
                    on_read(len(line))
                if line.strip():
                    yield where, _record(where, line)


def text_of(record):
    """The text of a line's object; a prompt and its response follow each other with nothing between."""
    return record["prompt"] + record["response"] if "prompt" in record else record["text"]


def _record(where, line):
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: byte {error.start} of the line is not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON: {error}; each line is one object") from None
    wanted = ("prompt", "response") if isinstance(record, dict) and "prompt" in record else ("text",)
    if not isinstance(record, dict) or any(name not in record for name in wanted):
        found = f"an object with {', '.join(map(repr, record)) or 'nothing'}" if isinstance(record, dict) \
            else type(record).__name__
        raise DataError(f'{where}: it holds {found}; a line is {{"text": …}} or {{"prompt": …, "response": …}}')
    for name in wanted:
        if not isinstance(record[name], str):
            raise DataError(f"{where}: {name} is {type(record[name]).__name__}, not a string")
    return record
