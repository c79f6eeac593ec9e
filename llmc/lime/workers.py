"""Several jobs at once, a process each: models this small leave all but one core idle."""

import builtins
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading

from llmc import errors

PATIENCE = 60.0  # seconds in which a process saves what it has after Ctrl-C
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # of NumPy's and scikit-learn's products
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")  # the benchmarks' data is there, or it is not
TAIL = 400  # characters of what a process that died had said


def do_all(jobs, count, threads, report):
    """Do jobs in processes, `count` at once.

    Parameters
    ----------
    jobs : list of (name, dict)
        What `worker` takes.
    count : int
        Processes.
    threads : int
        Of each.
    report : callable
        Called with a name and a dict: "step", "loss", "tokens" while a model trains, "result" when a job is done.

    Raises
    ------
    KeyboardInterrupt
        After Ctrl-C, when every process has saved the last step of its model; a second one ends them at once.
    llmc.Error, OSError, RuntimeError
        What one of the jobs raised; the others are stopped as by Ctrl-C.
    """
    waiting, answers, workers, left = list(jobs), queue.SimpleQueue(), [], len(jobs)
    try:
        while waiting and len(workers) < count:
            workers.append(_Worker(answers, threads))
            workers[-1].give(waiting.pop(0))
        while left:
            worker, answer = answers.get()
            if answer is None and worker.name is None:  # it had nothing more to do
                continue
            if answer is None:
                raise RuntimeError(f"{worker.name}: its process ended {worker.last_words()}")
            if "failed" in answer:
                raise _error(answer["failed"], f"{worker.name}: {answer['text']}")
            report(worker.name, answer)
            if "result" in answer:
                left -= 1
                worker.give(waiting.pop(0) if waiting else None)
    finally:
        _end(workers)


class _Worker:
    """A process, and the thread that hears its answers."""

    def __init__(self, answers, threads):
        self.name, self._answers = None, answers
        self._said = tempfile.TemporaryFile()
        own = {name: str(threads) for name in THREADS} | dict.fromkeys(OFFLINE, "1") | {
            "PYTHONPATH": os.pathsep.join(each or os.getcwd() for each in sys.path)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "llmc.lime.worker", str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._said, env=os.environ | own, start_new_session=True,
        )  # fmt: skip; of another session: Ctrl-C in the terminal reaches it through us, and once
        self._ear = threading.Thread(target=self._hear, daemon=True)
        self._ear.start()

    def give(self, job):
        """The next job; None: there is none, and the process may end."""
        if job is None:
            self.name = None
            self.process.stdin.close()
            return
        self.name, what = job
        try:
            self.process.stdin.write(json.dumps(what).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has died, which its ear hears too

    def last_words(self):
        """How the process ended, and what it said on its standard error."""
        status = self.process.wait()
        self._said.seek(0)
        how = f"by signal {-status}" if status < 0 else f"with status {status}"
        return f"{how}, {self._said.read().decode(errors='replace').strip()[-TAIL:] or 'without a word'}"

    def interrupt(self):
        """Ctrl-C for a process that works."""
        if self.name is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)

    def close(self):
        """End the process, if it has not, and let go of its files."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._ear.join()
        for file in (self.process.stdin, self.process.stdout, self._said):
            try:
                file.close()
            except BrokenPipeError:
                pass

    def _hear(self):
        for line in self.process.stdout:
            self._answers.put((self, json.loads(line)))
        self._answers.put((self, None))  # whether it has a job is known to who asks: one may be given this moment


def _end(workers):
    """Let processes save what they have, and end; a second Ctrl-C, or too long a wait, ends them at once."""
    try:
        for worker in workers:
            worker.interrupt()
        for worker in workers:
            worker.process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        pass
    finally:
        for worker in workers:
            worker.close()


def _error(kind, text):
    """The exception of a process, here."""
    found = getattr(errors, kind, None) or getattr(builtins, kind, None)
    usable = isinstance(found, type) and issubclass(found, Exception)
    return found(text) if usable else RuntimeError(f"{kind}: {text}")
