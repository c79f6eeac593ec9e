"""Alternating runs of programs on one machine: each in a process of its own, some steps each in turn.

A worker's program announces itself with a JSON object, reads a line from standard input for every request (the number
of steps to do), and prints one with the median "seconds" of a step; {"refused": why} is the last it says. Memory is the
worker's peak resident set, so it counts what its libraries take too.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

from llmc.errors import Error

LONG_ENOUGH = 0.3  # seconds of a round: shorter steps are done several times
MOST = 1000  # steps in a round


class WorkerError(Error):
    """A worker that ended, or that said what it cannot do."""


class Worker:
    """A process that does steps when asked.

    Parameters
    ----------
    name : str
        What it is called in tables and messages.
    command : list of str
        The words behind the Python interpreter's: a script or `-m` and a module, and its arguments.
    threads : int
        How many compute in it.

    Raises
    ------
    WorkerError
        When it ends, or refuses.
    """

    def __init__(self, name, command, threads):
        self.name, self.seconds, self.each = name, [], 1
        env = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
        self._complaints = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen([sys.executable, *map(str, command)], stdin=subprocess.PIPE, text=True, env=env,
                                        stdout=subprocess.PIPE, stderr=self._complaints)
        try:
            self.about = self._answer()
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _answer(self):
        line = self.process.stdout.readline()
        if line:
            answer = json.loads(line)
            if "refused" in answer:
                raise WorkerError(answer["refused"])
            return answer
        code = self.process.wait()
        self._complaints.seek(0)
        last = (self._complaints.read().strip().splitlines() or ["no word why"])[-1]
        raise WorkerError(f"{self.name} ended with code {code}: {last}" + (" (out of memory?)" if code == -9 else ""))

    def step(self, count=1):
        """Do steps; the last one's answer, with the median "seconds" of one."""
        try:
            self.process.stdin.write(f"{count}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer says why
        return self._answer()

    def warm(self, steps=1):
        """Untimed steps, after which it is known how many make a round that is long enough; the seconds of the last."""
        for _ in range(steps):
            seconds = self.step()["seconds"]
        self.each = min(max(1, round(LONG_ENOUGH / max(seconds, 1e-6))), MOST)
        return seconds

    def round(self):
        """Timed steps; the median seconds of one are remembered."""
        self.seconds.append(self.step(self.each)["seconds"])

    @property
    def median(self):
        """Median seconds of a step over the rounds."""
        return statistics.median(self.seconds)

    @property
    def peak(self):
        """Peak resident bytes so far."""
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))

    def close(self):
        """End the process."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self._complaints):
            try:
                stream.close()
            except BrokenPipeError:  # what it was asked last never reached it
                pass


def serve(step, about=None):
    """The worker's side: announce, then answer every request. `step` may give a dict, with the "seconds" that count."""
    print(json.dumps(about or {}), flush=True)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            start = time.perf_counter()
            given = step()
            took = time.perf_counter() - start
            answer = given if isinstance(given, dict) else {}
            seconds.append(answer.get("seconds", took))
        print(json.dumps({**answer, "seconds": statistics.median(seconds)}), flush=True)


def alternate(workers, repeats, enough=float("inf"), least=3, show=lambda: None):
    """Rounds of every worker in turn: `repeats` of them, or `least` once they have taken `enough` seconds."""
    start = time.monotonic()
    for done in range(1, repeats + 1):
        for worker in workers:
            worker.round()
        show()
        if done >= least and time.monotonic() - start > enough:
            return
