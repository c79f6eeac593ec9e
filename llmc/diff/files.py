"""Files of a diff and of a listing: rows as CSV, everything as JSON inside of a page, and the way back."""

import csv
import io
import json
import os
import re

from llmc.errors import DataError, shown
from llmc.system.small_file import open_regular

NOT_IN_CSV = ("moved", "permutation", "slices", "singular_values", "energy", "intruder_cosines")
_DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.S)


def to_csv(rows, keys):
    """Rows as CSV, but for what is long: lists as JSON, None empty, floats that read back to the same bits."""
    keys = [key for key in keys if key not in NOT_IN_CSV]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(keys)
    for row in rows:
        writer.writerow(_cell(row[key]) for key in keys)
    return text.getvalue()


def _cell(value):
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return "" if value is None else repr(value) if isinstance(value, float) else value


def script_json(value):
    """A value as JSON that may stand in a script element of a page."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def read_diff(path, form, version, parts):
    """The parts of a .json file, or of the JSON in a page.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    DataError
        When it is of another format.
    """
    with os.fdopen(open_regular(path, DataError), "r", encoding="utf-8", newline="") as file:
        try:
            text = file.read()
        except UnicodeDecodeError as error:
            raise DataError(f"{os.fspath(path)}: not UTF-8 at byte {error.start}") from None
    found = _DATA.search(text) if text.lstrip()[:1] == "<" else None
    try:
        value = json.loads(found[1] if found else text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{os.fspath(path)}: neither the JSON of a diff nor its page: {error}") from None
    if not isinstance(value, dict) or value.get("format") != form:
        said = shown(value.get("format")) if isinstance(value, dict) else type(value).__name__
        raise DataError(f"{os.fspath(path)}: format {said}, not {form!r}")
    if value.get("version") != version:
        raise DataError(f"{os.fspath(path)}: version {shown(value.get('version'))} of {form}; this llmc reads "
                        f"{version}")
    missing = next((part for part in parts if part not in value), None)
    if missing:
        raise DataError(f"{os.fspath(path)}: no {missing!r} in it")
    return {part: value[part] for part in parts}
