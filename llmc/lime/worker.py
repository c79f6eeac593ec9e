"""A process that trains models: a line of JSON on its standard input is a training, its answers are lines too."""

import json
import os
import signal
import sys
import time

OFTEN = 0.25  # seconds between two answers while a model trains


def main():
    """Train one model after the other until the input ends; Ctrl-C saves the one that is in training."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the parent does with it
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what anything prints is no answer
    try:
        for line in sys.stdin:
            _train(json.loads(line), answers)
    except (KeyboardInterrupt, BrokenPipeError):
        os._exit(130)


def _train(job, answers):
    from llmc.core import set_num_threads
    from llmc.lime.learning import learn

    told = 0.0

    def answer(**values):
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    def tell(state):
        nonlocal told
        if time.monotonic() - told > OFTEN:
            told = time.monotonic()
            answer(step=state.step, loss=state.loss, tokens=state.tokens)

    set_num_threads(job["threads"])
    try:
        answer(result=learn(job["recipe"], job["folder"], tell))
    except BrokenPipeError:
        raise
    except Exception as error:
        answer(failed=type(error).__name__, text=str(error))


if __name__ == "__main__":
    main()
