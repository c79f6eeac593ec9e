"""A short share of the core's fuzzing; tests/fuzz_core.py is the command for the long run."""

import subprocess
import sys
from pathlib import Path


def test_random_calls_give_results_or_errors_and_never_a_crash():
    fuzz = [sys.executable, "-X", "faulthandler", Path(__file__).with_name("fuzz_core.py")]
    done = subprocess.run([*fuzz, "--seconds", "5", "--seed", "5"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    calls, results = (int(word) for word in done.stdout.splitlines()[-1].split() if word.isdigit())
    assert results > 50 and calls > results
