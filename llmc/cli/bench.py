"""llmc bench: how fast llmc is on this machine, against what the machine can do and against torch."""

import os
import sys

from llmc.cli.outcome import Usage, say
from llmc.cli.parser import threads, whole
from llmc.show import picture

EXAMPLE = "llmc bench --quick --json bench.json      # a few minutes; --list shows every job, --jobs 'decode-*' picks"
PRECISIONS = ("float32", "bfloat16", "int8")


def arguments(parser):
    """Its words."""
    parser.add_argument("--jobs", nargs="+", default=[], metavar="GLOB", help="the jobs of these names [all]")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=PRECISIONS, metavar="NAME",
                        help=f"only jobs in these: {', '.join(PRECISIONS)} [all]")
    parser.add_argument("--quick", action="store_true", help="only jobs that take seconds, and three rounds of each")
    parser.add_argument("--repeats", type=whole(1), metavar="N",
                        help="rounds, llmc and its peer in turn [5; of a job of minutes at least 3]")
    parser.add_argument("--compiled", action="store_true", help="torch.compile too, which takes minutes to compile")
    parser.add_argument("--alone", action="store_true", help="nothing runs beside llmc")
    parser.add_argument("--list", action="store_true", help="print the jobs and stop")
    parser.add_argument("--json", metavar="FILE", help="a file for everything that was measured [none]")
    parser.add_argument("--out", nargs="+", default=[], metavar="FILE",
                        help="files for the report: .md, .png, .pdf, .svg [none]")
    threads(parser)


def run(args):
    """Run the jobs with a bar, print the tables, and write what was asked for."""
    import llmc
    from llmc.bench import Machine, Report, measure, missing, select
    from llmc.bench.rates import line

    for path in args.out:
        if os.path.splitext(path)[1] not in (".md", *picture.ENDINGS):
            raise Usage(f"bench: {path}: --out takes .md, {', '.join(picture.ENDINGS)}")
    try:
        jobs = select(args.jobs, args.precision, args.quick)
    except llmc.ConfigError as error:
        raise Usage(f"bench: {error}") from None
    if args.list:
        return print(listed(jobs))
    lacking = dict.fromkeys(name for job in jobs for name in missing(job))
    if lacking and not args.alone:
        say(f"{', '.join(lacking)} cannot be imported: what needs it is not compared (pip install {' '.join(lacking)})")
    report = Report(Machine(), llmc.get_num_threads())
    for name in report.machine.measured:
        report.machine.measure(name)
    repeats = args.repeats or (3 if args.quick else 5)
    try:
        with _bar(jobs) as bar:
            for job in jobs:
                result = measure(job, report.machine, report.threads, repeats, args.compiled, not args.alone,
                                 show=lambda what, job=job: bar.set_description(f"{job.name}: {what}"))
                report.results.append(result)
                bar.write(line(result), file=sys.stderr)
                bar.update()
    finally:  # what is done is done, also when Ctrl-C ends the rest
        if report.results:
            print(report)
            for path in [args.json, *args.out]:
                if path:
                    report.save(path)


def listed(jobs):
    """A table of jobs."""
    from llmc.show.table import Table

    rows = [{"job": job.name, "what": job.what,
             "beside": ", ".join(each.label for each in job.beside if not each.compiled),
             "rated against": "read bandwidth" if job.bound == "memory" else "register peak",
             "quick": "quick" if job.quick else ""} for job in jobs]
    return Table(["job", "what", "rated against", "beside", "quick"], rows, f"{len(rows)} jobs")


def _bar(jobs):
    from tqdm import tqdm

    from llmc.system.terminal import bars_are_seen

    return tqdm(total=len(jobs), unit="job", dynamic_ncols=True, disable=not bars_are_seen())
