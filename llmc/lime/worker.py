"""A process that trains models or works out numbers: a line of JSON on its standard input is a job, answers are lines.

{"learn": {recipe, folder}} or {"find": {key, out, scale, seed, operands}}.
"""

import json
import os
import signal
import sys
import time

OFTEN = 0.25  # seconds between two answers while a model trains


def main():
    """Do one job after the other until the input ends; Ctrl-C saves the model that is in training."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the parent does with it
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what anything prints is no answer
    try:
        _begin(int(sys.argv[1]))
        for line in sys.stdin:
            _do(json.loads(line), _Answers(answers))
    except (KeyboardInterrupt, BrokenPipeError):
        os._exit(130)


class _Answers:
    """Lines to the parent."""

    def __init__(self, file):
        self._file, self._told = file, 0.0

    def answer(self, **values):
        """A line."""
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()

    def tell(self, state):
        """How far a training has come, now and then."""
        if time.monotonic() - self._told > OFTEN:
            self._told = time.monotonic()
            self.answer(step=state.step, loss=state.loss, tokens=state.tokens)


def _begin(threads):
    from llmc.core import set_num_threads

    set_num_threads(threads)


def _do(job, answers):
    from llmc.lime.findings import find
    from llmc.lime.learning import learn

    try:
        result = learn(**job["learn"], tell=answers.tell) if "learn" in job else find(**job["find"])
        answers.answer(result=result)
    except BrokenPipeError:  # the parent is gone
        raise
    except Exception as error:
        answers.answer(failed=type(error).__name__, text=str(error))


if __name__ == "__main__":
    main()
