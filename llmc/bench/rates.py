"""The report of a benchmark: tables for a terminal, Markdown for a page, JSON for a program."""

import datetime

import llmc
from llmc.bench.machine import UNITS, WORDS
from llmc.system.atomic import atomic_write, write_json
from llmc.show.table import Table, count

MUCH = 0.1  # of the processors, taken by others
COLUMNS = ["job", "step", "rate", "of peak", "tokens/s", "memory", "beside", "times as fast", "of its memory"]
NOTE = ("step: median over the rounds; rate: nominal operations (attention halved for causality, nothing counted "
        "twice), or bytes read\nof peak: of this machine's own, measured every round, median over the rounds; "
        "times as fast: median over the rounds (flat-*: per operation)")  # fmt: skip


class Report:
    """What was measured, of which machine.

    Parameters
    ----------
    machine : Machine
    threads : int

    Attributes
    ----------
    results : list of Result
    """

    def __init__(self, machine, threads):
        self.machine, self.threads, self.results = machine, threads, []
        self.date = datetime.date.today().isoformat()
        self.about = {row["what"]: row["value"] for row in llmc.doctor().rows}

    def title(self):
        """One line: the machine, its kernels, threads and the peers' versions."""
        peers = ", ".join(f"{name} {self.about[name]}" for name in ("torch", "transformers", "peft")
                          if self.about[name] != "not installed")
        return (f"{self.about['processor']}, kernels {self.about['instruction set'].split()[0]}, products by "
                f"{self.about['products by']}, {self.threads} threads, Python {self.about['Python']}"
                + (f", {peers}" if peers else ""))

    def peaks(self):
        """A table of the machine's peaks."""
        rows = []
        for name, rates in self.machine.measured.items():
            if rates:
                best, least = max(rates), min(rates)
                rows.append({"peak": WORDS[name], "best": count(best, UNITS[name]) if best else "none",
                             "least": count(least, UNITS[name]) if best else "", "measured": len(rates)})
        return Table(["peak", "best", "least", "measured"], rows)

    def jobs(self):
        """A table of the results, and below it why some are missing."""
        missing = [f"{result.name}: {note}" for result in self.results for note in _notes(result)]
        note = "\n".join([NOTE, *missing, self.company()]).rstrip()
        return Table(COLUMNS, [_row(result) for result in self.results], note)

    def company(self):
        """A warning where other programs took much of the processors; "" otherwise."""
        share, name = max(((result.company or 0.0, result.name) for result in self.results), default=(0.0, ""))
        if share < MUCH:
            return ""
        return (f"not to be trusted: other programs took up to {100 * share:.0f} % of the processors (during {name}), "
                "which slows all, and programs that wait for each thread most")

    def __str__(self):
        return f"{self.title()}\n\n{self.peaks()}\n\n{self.jobs()}"

    def to_dict(self):
        """For JSON: date, machine, threads, peaks (every measurement) and results."""
        return {"date": self.date, "machine": self.about, "threads": self.threads, "peaks": self.machine.measured,
                "results": [result.to_dict() for result in self.results]}

    def save(self, path):
        """Write the report: .json, .md, or with matplotlib a .png, .pdf or .svg; it appears whole."""
        if path.endswith(".json"):
            write_json(path, self.to_dict())
        elif path.endswith(".md"):
            with atomic_write(path) as file:
                file.write(self.markdown().encode())
        else:
            from llmc.bench.bars import plot

            plot(self, path)

    def markdown(self):
        """The report as a page."""
        jobs = self.jobs()
        return f"## {self.date} · {self.title()}\n\n{_markdown(self.peaks())}\n{_markdown(jobs)}\n{jobs.note}\n"


def line(result):
    """A result in one line."""
    if result.seconds is None:
        return f"{result.name}: {result.note}"
    row = _row(result)
    beside = f", {row['times as fast']} as fast as {row['beside']}" if result.beside else ""
    notes = "".join(f"; {note}" for note in _notes(result))
    return f"{result.name}: {row['step']}, {row['rate']}, {row['of peak']} of the peak{beside}{notes}"


def _notes(result):
    """Why it was not measured, or what not beside it."""
    notes = [result.note] if ":" in result.note else []
    return notes + [f"{each['label']}: not available: {each['note']}" for each in result.slower if "note" in each]


def _row(result):
    if result.seconds is None:
        return {"job": result.name, "step": result.note.partition(":")[0]}
    beside = result.beside
    return {
        "job": result.name,
        "step": duration(result.seconds),
        "rate": count(result.rate, "FLOP/s" if result.bound == "arithmetic" else "B/s"),
        "of peak": f"{100 * result.fraction:.0f} %",
        "tokens/s": f"{result.tokens_per_second:,.4g}" if result.tokens_per_second else "",
        "memory": count(result.memory, "B"),
        "beside": beside["label"] if beside else "",
        "times as fast": f"{beside['ratio']:.2f} x" if beside else "",
        "of its memory": f"{result.memory / beside['memory']:.2f} x" if beside else "",
    }


def duration(seconds):
    """A time in a unit that fits it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            break
    return f"{seconds / size:.3g} {unit}"


def _markdown(table):
    lines = [table.columns, ["---"] * len(table.columns)]
    lines += [[str(row.get(column, "")) for column in table.columns] for row in table.rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
