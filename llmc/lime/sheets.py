"""The tables of LIMe's paper as .csv files, each from its entry in numbers.json."""

import csv
import io
import json
import os

import numpy as np

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

BASE = "llama"  # what the others are compared with, seed by seed


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
    """The rows of a table, a list of dict; of the arithmetic task as `arithmetic_rows` has them."""
    return arithmetic_rows(entry) if key == "aet" else entry


def arithmetic_rows(entry):
    """A row of each model, number of operands and seed, with what all seeds of the model come to.

    Returns
    -------
    list of dict
        "model", "operands", "seed" (from 0), "accuracy"; "mean" and "std" (the population's) over seeds; "over_llama",
        the accuracy less the LLaMA's of the same seed; "over_llama_mean", "over_llama_std", and "better", the pairs in
        which it is above 0. Without a LLaMA to compare with they are None.
    """
    rows = []
    for name, each in entry.items():
        for operands, found in each.items():
            over = _differences(found, entry.get(BASE, {}).get(operands, [])) if name != BASE else []
            together = {"mean": np.mean(found), "std": np.std(found)}
            paired = {"over_llama_mean": np.mean(over), "over_llama_std": np.std(over),
                      "better": sum(value > 0 for value in over)} if over else {}  # fmt: skip
            for seed, accuracy in enumerate(found):
                rows.append({"model": name, "operands": int(operands), "seed": seed, "accuracy": accuracy}
                            | _floats(together) | {"over_llama": over[seed] if seed < len(over) else None}
                            | dict.fromkeys(("over_llama_mean", "over_llama_std", "better")) | _floats(paired))
    return rows


def columns_of(rows):
    """The columns of rows of which some have more, in the order in which they come up."""
    return list(dict.fromkeys(column for row in rows for column in row))


def _differences(found, base):
    """What each seed has over the base's; of seeds that both have."""
    return [ours - theirs for ours, theirs in zip(found, base)]


def _floats(values):
    return {name: value if isinstance(value, int) else float(value) for name, value in values.items()}


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
