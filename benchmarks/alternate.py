"""Alternating runs of two programs on one machine: each in a process of its own, one step each in turn.

A worker script reads a line from standard input for every step, does it, and prints a JSON object with "seconds".
Memory is the worker's peak resident set, so it counts what its libraries take too.
"""

import json
import os
import statistics
import subprocess
import sys


class Worker:
    """A process that does one step when asked."""

    def __init__(self, name, script, arguments, threads):
        self.name, self.seconds = name, []
        env = {**os.environ, "OMP_NUM_THREADS": str(threads), "LLMC_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, script, *map(str, arguments)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        self.about = self._answer()

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with code {self.process.wait()}")
        return json.loads(line)

    def step(self, timed=True):
        """One step; its seconds are remembered when `timed`."""
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        answer = self._answer()
        if timed:
            self.seconds.append(answer["seconds"])
        return answer

    def close(self):
        """Peak resident bytes, and the process ends."""
        with open(f"/proc/{self.process.pid}/status") as status:
            peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
        self.process.stdin.close()
        self.process.wait()
        return peak

    @property
    def median(self):
        """Median seconds of a timed step."""
        return statistics.median(self.seconds)


def serve(step, about=None):
    """The worker's side: announce, then one step a line."""
    import time

    print(json.dumps(about or {}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        extra = step() or {}
        print(json.dumps({"seconds": time.perf_counter() - start, **extra}), flush=True)


def alternate(workers, repeats, warm=1, show=lambda text: print(text, file=sys.stderr, flush=True)):
    """Warm every worker up, then `repeats` rounds of one step each."""
    for worker in workers:
        for _ in range(warm):
            worker.step(timed=False)
    for i in range(repeats):
        for worker in workers:
            worker.step()
        show(f"round {i + 1}/{repeats}: " + ", ".join(f"{w.name} {w.seconds[-1]:.2f} s" for w in workers))
