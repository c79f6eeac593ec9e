"""The tables of LIMe's paper as .csv files, each from its entry in numbers.json."""

import csv
import io
import json
import os

from llmc.system.atomic import atomic_write

SHEETS = {
    "table1": ("table1_benchmarks", "Table 1: benchmarks"),
    "table2": ("table2_circuits", "Table 2: semantic circuits"),
    "table3": ("table3_hyperparameters", "Table 3: hyperparameters"),
    "table4": ("table4_architecture", "Table 4: architecture"),
    "table5": ("table5_pruning", "Table 5: pruned routes"),
    "table6": ("table6_efficiency", "Table 6: parameters, FLOPs, peak memory"),
    "aet": ("aet", "The arithmetic task"),
}


def write_tables(numbers, out, keys=None):
    """Write the tables of which there are numbers.

    Parameters
    ----------
    numbers : dict
        What numbers.json holds.
    out : path
        A folder that is there.
    keys : iterable of str, optional
        "table1" … "table6", "aet"; by default all.

    Returns
    -------
    list of str
        The files.
    """
    wanted = SHEETS.keys() if keys is None else set(keys)
    written = []
    for key, (file, _) in SHEETS.items():
        if key in wanted and numbers.get(key):
            written.append(os.path.join(out, f"{file}.csv"))
            with atomic_write(written[-1], "w") as stream:
                stream.write(_text(rows_of(key, numbers[key])))
    return written


def rows_of(key, entry):
    """The rows of a table, a list of dict; of the arithmetic task a row of each model, number of operands and seed."""
    if key != "aet":
        return entry
    return [{"model": name, "operands": int(operands), "seed": seed, "accuracy": accuracy}
            for name, each in entry.items() for operands, found in each.items()
            for seed, accuracy in enumerate(found)]  # fmt: skip


def columns_of(rows):
    """The columns of rows of which some have more, in the order in which they come up."""
    return list(dict.fromkeys(column for row in rows for column in row))


def _text(rows):
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    columns = columns_of(rows)
    writer.writerow(columns)
    writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
    return stream.getvalue()


def _cell(value):
    """A list as JSON has it."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, tuple)) else value
