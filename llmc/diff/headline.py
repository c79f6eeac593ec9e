"""The head of a diff: what it is of, what it looks like, how many tensors stand how, each in a line."""

from llmc.diff.totals import STATUSES


def headline(summary):
    """What a diff is of, and what it looks like."""
    change = summary["relative_change"]
    overall = "" if change is None else f"; overall change {change:.4g}"
    rank = summary["signal_rank"]
    return (f"{summary['base']} → {summary['tuned']}: {summary['looks_like']}{overall}"
            f"{'' if rank is None else f'; signal rank at most {rank}'}")


def counts(summary):
    """How many tensors stand how, in a line."""
    found = [f"{summary[status]:,} {status}" for status in STATUSES if summary[status]]
    found += [f"{summary['nonfinite']:,} not finite"] if summary["nonfinite"] else []
    structure = ", ".join(f"{count:,} {word}" for word, count in summary["structure"].items())
    return (f"{summary['tensors']:,} tensors: {', '.join(found) or 'none'}" + (f"; {structure}" if structure else "")
            + f"; {summary['seconds']:.1f} s")  # fmt: skip
