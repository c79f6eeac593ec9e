"""Under a limit on address space what is too large is a MemoryError before it begins; forecasts come true."""

import subprocess
import sys
from pathlib import Path

import pytest

import llmc

LIMIT = 60  # seconds after which a child hangs
CONFIG = dict(
    model_type="llama", vocab_size=8192, hidden_size=512, num_hidden_layers=4, num_attention_heads=8,
    num_key_value_heads=4, intermediate_size=1408, max_position_embeddings=2048, eos_token_id=None,
)  # fmt: skip

START = f"""
import os, resource, sys
import numpy as np
import llmc
CONFIG = {CONFIG!r}

def address_space():
    return int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGESIZE")

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGESIZE")

def limit(more):
    most = address_space() + more
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))

def refused(call):
    try:
        call()
    except MemoryError as error:
        return str(error)
    raise AssertionError("no MemoryError")

ids = np.random.default_rng(0).integers(0, 8192, (2, 512))
"""


def child(code):
    """What a Python process that ran this code has printed."""
    done = subprocess.run([sys.executable, "-c", START + code], capture_output=True, text=True, timeout=LIMIT,
                          cwd=Path(__file__).resolve().parent.parent)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_model_too_large_is_refused_and_a_smaller_one_still_fits():
    child("""
llmc.Model(llmc.Config(**CONFIG))
limit(300 << 20)
assert "GB" in refused(lambda: llmc.Model(llmc.Config(**{**CONFIG, "num_hidden_layers": 60})))
model = llmc.Model(llmc.Config(**{**CONFIG, "num_hidden_layers": 1}))
assert model(ids[:1, :8]).shape == (1, 8, 8192)
""")


def test_a_run_or_an_optimizer_too_large_is_refused_before_it_begins():
    child("""
model = llmc.Model(llmc.Config(**CONFIG))
small = model.run(1, 64, backward=True)
small.forward_backward(ids[:1, :64])
before = {name: view.copy() for name, view in model.state_dict().items()}
limit(150 << 20)
assert refused(lambda: model.run(64, 2048, backward=True))
assert refused(lambda: model.generate(ids, max_new_tokens=200000))
assert refused(lambda: model(np.zeros((64, 2048), int)))
assert refused(lambda: llmc.AdamW(model))
small.zero_grad()
assert small.forward_backward(ids[:1, :64]) > 0
assert all(np.array_equal(view, before[name]) for name, view in model.state_dict().items())
""")


def test_every_limit_gives_a_result_or_a_memory_error():
    """From a limit that lets nothing begin to one that lets all be done: never a crash, never a hang."""
    said = child("""
model = llmc.Model(llmc.Config(**{**CONFIG, "num_hidden_layers": 2}))
for more in range(0, 400, 40):
    limit(more << 20)
    try:
        run = model.run(2, 64, backward=True)
        run.forward_backward(ids[:2, :64])
        llmc.AdamW(model).step(run)
        print("done")
    except MemoryError:
        print("refused")
    run = None
""").split()
    assert said.count("refused") >= 2 and said[-1] == "done", said


def test_sizes_that_cannot_be_counted_are_refused_at_once():
    child("""
model = llmc.Model(llmc.Config(**CONFIG))
for call in (lambda: model.run(1, 2**31 - 1, keep="all"), lambda: model.run(2**15, 2**15, backward=True),
             lambda: llmc.Model(llmc.Config(**{**CONFIG, "vocab_size": 2**31 - 1, "hidden_size": 2**20}))):
    try:
        call()
    except (MemoryError, llmc.ConfigError):
        continue
    raise AssertionError("taken")
""")


@pytest.mark.skipif(not llmc.core.openblas_path(), reason="there is no OpenBLAS")
def test_children_forked_while_openblas_multiplies_multiply_too():
    """What the callers held that a child does not have is no longer to be had, nor waited for."""
    child("""
import threading, time
llmc.set_num_threads(2)
limit(2 << 30)
llmc._core.choose(llmc._core.info()["instruction_set"], "openblas", llmc.core.openblas_path())
model = llmc.Model(llmc.Config(**{**CONFIG, "num_hidden_layers": 1}))
small, large = model.run(1, 64), llmc.Model(model.config).run(2, 512)
expected = small.forward(ids[:1, :64], labels=ids[:1, :64])
stop = False
def multiply():
    while not stop:
        large.forward(ids)
thread = threading.Thread(target=multiply)
thread.start()
children, failed = [], 0
for _ in range(8):
    time.sleep(0.03)
    children.append(os.fork())
    if children[-1] == 0:
        os._exit(abs(small.forward(ids[:1, :64], labels=ids[:1, :64]) - expected) > 1e-5)
stop = True
thread.join()
deadline = time.monotonic() + 20
while children and time.monotonic() < deadline:
    for each in list(children):
        ended, status = os.waitpid(each, os.WNOHANG)
        if ended:
            children.remove(each)
            failed += status != 0
    time.sleep(0.01)
for each in children:
    os.kill(each, 9)
assert not children and not failed, f"{len(children)} children hang, {failed} fail"
""")


def taken_beside_forecast(train, backward):
    """(bytes that the process grew by, bytes that were forecast) of a model and a pass or a step over (2, 512)."""
    said = child(f"""
warm = llmc.Model(llmc.Config(**{{**CONFIG, "hidden_size": 64, "num_hidden_layers": 1}}))
run = warm.run(1, 8, backward=True)
run.forward_backward(ids[:1, :8])
llmc.AdamW(warm).step(run)
del warm, run
before = resident()
model = llmc.Model(llmc.Config(**CONFIG))
run = model.run(2, 512, backward={backward})
if {train}:
    optimizer = llmc.AdamW(model)
    run.forward_backward(ids)
    optimizer.step(run)
else:
    run.forward(ids, labels=ids) if {backward} else run.forward(ids)
print(resident() - before, model.estimate(2, 512, train={train})["memory"])
""")
    return map(int, said.split())


def test_the_forecast_of_a_training_step_is_within_a_tenth_of_what_is_taken():
    taken, forecast = taken_beside_forecast(train=True, backward=True)
    assert abs(taken - forecast) < 0.1 * taken, f"{taken:,} bytes were taken, {forecast:,} forecast"


def test_the_forecast_of_a_pass_is_within_a_tenth_of_what_is_taken():
    taken, forecast = taken_beside_forecast(train=False, backward=False)
    assert abs(taken - forecast) < 0.1 * taken, f"{taken:,} bytes were taken, {forecast:,} forecast"


def test_a_run_takes_what_was_forecast():
    model = llmc.Model(llmc.Config(**{**CONFIG, "num_hidden_layers": 1}))
    run, forecast = model.run(2, 64, backward=True), model.estimate(2, 64, train=True, dropout=False)
    assert run.nbytes == forecast["gradients"] + forecast["activations"]
    generating = model.estimate(2, 64, generate=256)
    layers, rows, positions, heads, size = 1, 2, 256, 4, 64
    assert generating["cache"] == 4 * 2 * layers * rows * positions * heads * size  # keys and values, in float32
