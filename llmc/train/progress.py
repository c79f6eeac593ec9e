"""The progress of a training: a bar with loss, tokens a second and time left, or lines where a bar is of no use."""

import os
import sys
import time

from llmc.show.bar import bar, clock

SILENCE = 30.0  # seconds after which a line is printed though it is not its turn


class Progress:
    """What a user sees while a training runs, on the standard error.

    Parameters
    ----------
    step, max_steps : int
        Where it begins, and ends.
    every : int
        Steps between two lines.
    disable_tqdm : bool or None
        None: a bar in a terminal and in a notebook.
    """

    def __init__(self, step, max_steps, every, disable_tqdm):
        self._max_steps, self._every = max_steps, every
        self._first, self._start = step, time.monotonic()
        self._said = self._start
        self._bar = bar(disable_tqdm, initial=step, total=max_steps, **_shape(), bar_format=(
            "{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} [{elapsed} < {remaining}{postfix}]"))

    def step(self, entry):
        """Show a step's entry of the log."""
        step, now = entry["step"], time.monotonic()
        if self._bar is not None:
            speed = f"{entry['tokens_per_second']:,.0f} tokens/s"
            self._bar.set_postfix_str(f"loss {_shown(entry['loss'])}, {speed}", refresh=False)
            self._bar.update()
        elif step % self._every == 0 or step == self._max_steps or now - self._said > SILENCE:
            left = (now - self._start) / (step - self._first) * (self._max_steps - step)
            self.say(f"step {step}/{self._max_steps}  loss {_shown(entry['loss'])}  lr {entry['learning_rate']:.2e}  "
                     f"{entry['tokens_per_second']:,.0f} tokens/s  {clock(left)} left")
            self._said = now

    def evaluation(self, entry):
        """Show an evaluation's entry of the log."""
        self.say(f"step {entry['step']}/{self._max_steps}  eval_loss {_shown(entry['eval_loss'])}  "
                  f"perplexity {_shown(entry['perplexity'])}")

    def close(self):
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()

    def say(self, line):
        """Show a line, above the bar where there is one."""
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)


def _shape():
    """The size of the bar; a terminal that says it has no rows, as some containers' do, would get none."""
    if sys.stderr.isatty() and 0 in os.get_terminal_size(sys.stderr.fileno()):
        return {"ncols": 100, "nrows": 24}
    return {"dynamic_ncols": True}


def _shown(value):
    return "not finite" if value is None else f"{value:.4g}"
