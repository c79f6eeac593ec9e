"""llmc inspect: what is inside a checkpoint, without reading its numbers."""

import fnmatch
import os

from llmc.show.table import Table, count

EXAMPLE = "llmc inspect llmc-demo --match 'model.layers.0.*'"


def arguments(parser):
    """Its words."""
    parser.add_argument("checkpoint", metavar="DIR|FILE", help="a folder, or one file of one")
    parser.add_argument("--match", default="*", metavar="GLOB", help="only tensors whose name matches [%(default)s]")
    parser.add_argument("--totals", action="store_true", help="only the sums")


def run(args):
    """Print a table of tensors and one of sums."""
    from llmc import checkpoint
    from llmc.errors import UnknownNameError, nearest

    with checkpoint.open(args.checkpoint) as files:
        names = [name for name in files.names() if fnmatch.fnmatchcase(name, args.match)]
        if not names and len(files):
            raise UnknownNameError(f"{args.checkpoint}: no tensor is called {args.match!r}; "
                                   f"{nearest(args.match, files) or f'it has {len(files)} others'}")
        rows = [{"tensor": name, "shape": files.shape(name), "dtype": str(files.dtype(name)), "role": files.role(name),
                 "numbers": _product(files.shape(name)), "bytes": files.nbytes(name),
                 "file": os.path.basename(files.file(name))} for name in names]
        shards = len(files.files)
    if not args.totals:
        columns = ["tensor", "shape", "dtype", "role", "bytes"] + ["file"] * (shards > 1)
        print(Table(columns, rows), end="\n\n")
    print(totals(rows, shards))


def totals(rows, shards):
    """A table of sums by role and dtype, and over all."""
    sums = {}
    for row in rows:
        entry = sums.setdefault((row["role"], row["dtype"]), {"tensors": 0, "numbers": 0, "bytes": 0})
        for name, value in (("tensors", 1), ("numbers", row["numbers"]), ("bytes", row["bytes"])):
            entry[name] += value
    table = [{"role": role, "dtype": dtype, **entry} for (role, dtype), entry in sums.items()]
    if len(table) != 1:
        table.append({"role": "all", "dtype": "", **{name: sum(entry[name] for entry in sums.values())
                                                     for name in ("tensors", "numbers", "bytes")}})
    note = f"{count(table[-1]['bytes'], 'B')} in {shards} file{'s' * (shards != 1)}"
    return Table(["role", "dtype", "tensors", "numbers", "bytes"], table, note)


def _product(shape):
    total = 1
    for size in shape:
        total *= size
    return total
