"""llmc inspect: what is inside a checkpoint; no number is read unless it is asked for."""

from llmc.cli.outs import TABLES, check_out

EXAMPLE = "llmc inspect llmc-demo --match 'model.layers.0.*'"


def arguments(parser):
    """Its words."""
    parser.add_argument("checkpoint", metavar="DIR|FILE", help="a folder (also an adapter's), or one file of one")
    parser.add_argument("--match", default="*", metavar="GLOB", help="only tensors whose name matches [%(default)s]")
    parser.add_argument("--totals", action="store_true", help="only the sums")
    parser.add_argument("--stats", action="store_true", help="also range, mean, deviation, norm, zeros of the numbers")
    parser.add_argument("--spectrum", action="store_true", help="also what the singular values of matrices say")
    parser.add_argument("--sort", choices=("name", "bytes", "file"), default="name",
                        help="the order of the table: file is as they lie [%(default)s]")
    parser.add_argument("--out", nargs="+", default=[], metavar="FILE",
                        help="files to write: .json, .csv, .html [none]")


def run(args):
    """Print a table of tensors and one of sums, and write what --out names."""
    from llmc.checkpoint import inspect

    check_out("inspect", args.out, TABLES)
    listing = inspect(args.checkpoint, args.match, args.stats, args.spectrum)
    if not args.totals:
        print(listing.table(args.sort), end="\n\n")
    print(listing.sums())
    for line in listing.notes:
        print(line)
    for path in args.out:
        listing.save(path)
