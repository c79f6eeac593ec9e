"""One job measured: the machine's peak, llmc, and the fastest of what stands beside it, in turn."""

import contextlib
import importlib.util
import statistics
from dataclasses import asdict, dataclass, field

from llmc.bench import contestant, room
from llmc.bench.alternate import Worker, WorkerError, alternate
from llmc.bench.company import Company
from llmc.bench.jobs import Beside
from llmc.bench.machine import Peak, yardstick

ENOUGH = 90.0  # seconds of rounds, after which three do
PATIENCE = 3.0  # seconds; a first step that was shorter is no forecast of the next


@dataclass
class Result:
    """What was measured of a job.

    Attributes
    ----------
    name, what, precision, bound : str
    note : str
        Why there is no measurement, or nothing beside it; "" otherwise.
    seconds : float or None
        Median of a step over the rounds; None: not measured.
    rounds : list of float
    work : float
        Nominal operations (bound "arithmetic") or bytes ("memory") of a step.
    rate, peak, fraction : float
        Of work a second; the machine's, median over the rounds; what was reached of it, median over the rounds.
    tokens_per_second : float or None
    memory, estimate : int or None
        Peak resident bytes of the process; what `model.estimate` said the model itself would take.
    company : float or None
        Share of the processors that other programs took meanwhile.
    beside : dict or None
        Of the fastest peer or variant: label, seconds, rounds, memory, and `ratio`, how many times as fast llmc is.
    slower : list of dict
        Peers that were tried and were slower: label, seconds of a step after the warm-up, memory; or label, note.
    """

    name: str
    what: str
    precision: str
    bound: str
    note: str = ""
    seconds: float = None
    rounds: list = field(default_factory=list)
    work: float = None
    rate: float = None
    peak: float = None
    fraction: float = None
    tokens_per_second: float = None
    memory: int = None
    estimate: int = None
    company: float = None
    beside: dict = None
    slower: list = field(default_factory=list)

    def to_dict(self):
        """For JSON."""
        return asdict(self)


def missing(job):
    """The packages that a peer of the job needs and that are not installed."""
    needs = job.needs if any(each.library == "torch" for each in job.beside) else ()
    return [name for name in needs if importlib.util.find_spec(name) is None]


def measure(job, machine, threads, repeats=5, compiled=False, peers=True, show=lambda text: None):
    """Run a job.

    Parameters
    ----------
    job : Job
    machine : Machine
    threads, repeats : int
    compiled : bool
        Try torch.compile too.
    peers : bool
        Run what stands beside it.
    show : callable
        Told in a word what is being done.

    Returns
    -------
    Result
    """
    result = Result(job.name, job.what, job.precision, job.bound)
    kind = yardstick(job)
    if not machine.has(kind):
        result.note = "not on this processor"
        return result
    try:
        _run(job, result, Peak(machine, kind), threads, repeats, _beside(job, compiled) if peers else (), show)
    except WorkerError as error:
        result.note = f"not available: {error}"
    return result


def _beside(job, compiled):
    lacking = bool(missing(job))
    return [each for each in job.beside
            if (compiled or not each.compiled) and not (each.library == "torch" and lacking)]


def _run(job, result, peak, threads, repeats, others, show):
    with contextlib.ExitStack() as stack:
        show("llmc")
        ours = stack.enter_context(_worker(job, Beside("llmc", "llmc", job.precision), threads))
        _warm(ours)
        rival = _heats(job, others, threads, result, stack, show)
        show(f"llmc and {rival.name}" if rival else "llmc")
        pair = [ours, rival] if rival else [ours]
        company = Company([worker.process.pid for worker in pair])
        alternate([peak, *pair], repeats, ENOUGH)
        result.company = company.share()
        _note(result, peak, ours, rival, job.same_work)


def _heats(job, others, threads, result, stack, show):
    """The fastest of the others, warm; the slower ones are ended and noted."""
    best, fastest = None, None
    for each in others:
        show(each.label)
        try:
            worker = stack.enter_context(_worker(job, each, threads))
            _warm(worker, each.compiled)
            seconds = worker.step(worker.each)["seconds"] if len(others) > 1 else 0.0
        except WorkerError as error:
            result.slower.append({"label": each.label, "note": str(error)})
            continue
        if best is None or seconds < fastest:
            best, worker, fastest, seconds = worker, best, seconds, fastest
        if worker:
            result.slower.append({"label": worker.name, "seconds": seconds, "memory": worker.peak})
            worker.close()
    return best


def _worker(job, each, threads):
    """The process in which a program does the job; WorkerError where there is no room for it."""
    asked = {"library": each.library, "work": job.work, "sizes": {**job.sizes, **each.sizes},
             "precision": each.precision}  # fmt: skip
    room.check(**asked)
    return Worker(each.label, contestant.command(**asked, compiled=each.compiled), each.threads or threads)


def _warm(worker, compiled=False):
    if worker.warm() < PATIENCE or compiled:
        worker.warm()


def _note(result, peak, ours, rival, same_work):
    # round by round, so that what disturbs both disturbs the ratio little
    unit = "flops" if result.bound == "arithmetic" else "bytes"
    result.seconds, result.rounds, result.work = ours.median, ours.seconds, ours.about[unit]
    result.rate, result.peak = result.work / result.seconds, statistics.median(peak.rates)
    result.fraction = statistics.median(result.work / mine / rate for mine, rate in zip(ours.seconds, peak.rates))
    result.memory, result.estimate = ours.peak, ours.about.get("estimate")
    if "tokens" in ours.about:
        result.tokens_per_second = ours.about["tokens"] / result.seconds
    if rival:
        ratio = statistics.median(theirs / mine for mine, theirs in zip(ours.seconds, rival.seconds))
        if not same_work:
            ratio *= result.work / rival.about[unit]
        result.beside = {"label": rival.name, "seconds": rival.median, "rounds": rival.seconds, "memory": rival.peak,
                         "ratio": ratio}  # fmt: skip
