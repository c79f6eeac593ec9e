"""Threads and processes: forks and spawns compute the same bits, one object in two threads is an error, not a race."""

import concurrent.futures
import multiprocessing
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import llmc

CONFIG = dict(
    model_type="mistral", vocab_size=512, hidden_size=192, num_hidden_layers=4, num_attention_heads=6,
    num_key_value_heads=2, intermediate_size=512, max_position_embeddings=512, sliding_window=64, eos_token_id=None,
)  # fmt: skip
IDS = np.random.default_rng(1).integers(0, 512, (4, 512))
SMALL = IDS[:2, :64]
LIMIT = 60  # seconds after which a child hangs


@pytest.fixture
def model():
    return llmc.Model(llmc.Config(**CONFIG))


@pytest.fixture(autouse=True)
def two_threads():
    before = llmc.get_num_threads()
    llmc.set_num_threads(2)
    yield
    llmc.set_num_threads(before)


def train(model, steps=2):
    """The bits of the model after training."""
    run, optimizer = model.run(2, 64, backward=True), llmc.AdamW(model)
    for _ in range(steps):
        run.forward_backward(SMALL)
        optimizer.step(run)
    return model.state_dict()["lm_head.weight"].tobytes(), model.generate(SMALL[:, :8], max_new_tokens=4).tolist()


def train_afresh():
    llmc.set_num_threads(2)
    return train(llmc.Model(llmc.Config(**CONFIG)))


def in_a_fork(work):
    """What work() returns in a forked child."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, repr(work()).encode())
        finally:
            os._exit(0)
    os.close(write)
    parts = []
    deadline = time.monotonic() + LIMIT
    os.set_blocking(read, False)
    while True:
        try:
            part = os.read(read, 1 << 16)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.kill(child, 9)
                os.waitpid(child, 0)
                raise AssertionError(f"the child hangs; it said {b''.join(parts)!r}") from None
            time.sleep(0.002)
            continue
        if not part:
            break
        parts.append(part)
    os.close(read)
    os.waitpid(child, 0)
    return b"".join(parts).decode()


def while_busy(call, work):
    """work(), while another thread is in the middle of call()."""
    begun = threading.Event()

    def begin():
        begun.set()
        return call()

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        future = pool.submit(begin)
        begun.wait()
        time.sleep(0.02)
        assert not future.done(), "the call is too short for this test"
        try:
            result = work()
            assert not future.done(), "the call ended before the work did"
            return result
        finally:
            future.result(LIMIT)


@pytest.fixture
def long_pass(model):
    """A run, and a pass over it that lasts at least half a second."""
    run = model.run(4, 512, backward=True)

    def passes():
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            run.forward_backward(IDS)

    return run, passes


# --- processes -------------------------------------------------------------------------------------------------------
def test_a_forked_child_computes_the_same_bits(model):
    expected = repr(train_afresh())
    train(model)
    for _ in range(5):
        assert in_a_fork(train_afresh) == expected
    assert repr(train_afresh()) == expected


def test_a_forked_child_goes_on_with_the_objects_of_its_parent(model):
    run = model.run(2, 64, backward=True)
    loss = run.forward(SMALL, labels=SMALL)
    assert in_a_fork(lambda: run.forward(SMALL, labels=SMALL)) == repr(loss)
    run.backward()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_fresh_process_computes_the_same_bits(method):
    expected = train_afresh()
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        assert pool.submit(train_afresh).result(LIMIT) == expected


def error_of(call):
    try:
        return f"gave {call()}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def test_a_child_forked_in_the_middle_of_a_call_gets_an_error_and_no_hang(model):
    run, other = model.run(4, 512, backward=True), model.run(2, 64, backward=True)
    optimizer = llmc.AdamW(model)
    other.forward_backward(SMALL)

    def in_the_child():
        return [error_of(call) for call in (lambda: run.forward(IDS), run.backward, lambda: optimizer.step(other))]

    said = while_busy(lambda: run.forward_backward(IDS), lambda: in_a_fork(in_the_child))
    assert said.count("BusyError") == 3, said
    assert run.loss > 0


# --- threads ---------------------------------------------------------------------------------------------------------
def test_two_threads_with_a_run_each_give_the_right_bits(model):
    alone = model.run(4, 512, backward=True)
    expected = alone.forward(IDS, labels=IDS)
    alone.backward()

    def passes(_):
        run = model.run(4, 512, backward=True)
        losses = [run.forward(IDS, labels=IDS) for _ in range(2)]
        run.backward()
        return losses, run.grad("lm_head.weight", copy=True)

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        for losses, gradient in pool.map(passes, range(3)):
            assert losses == [expected] * 2
            np.testing.assert_array_equal(gradient, alone.grad("lm_head.weight"))


def test_a_run_in_use_is_busy_for_every_other_thread(long_pass):
    run, passes = long_pass
    calls = [lambda: run.forward(SMALL), run.backward, lambda: run.forward_backward(SMALL), run.resume, run.zero_grad,
             lambda: run.grad("lm_head.weight")]  # fmt: skip

    def refused():
        for call in calls:
            with pytest.raises(llmc.BusyError, match="thread"):
                call()

    while_busy(passes, refused)


def test_a_step_while_another_thread_reads_is_busy_and_changes_nothing(model):
    run, other = model.run(4, 512, backward=True), model.run(2, 64, backward=True)
    optimizer = llmc.AdamW(model)
    other.forward_backward(SMALL)
    before = model.state_dict()["lm_head.weight"].copy()

    def refused():
        with pytest.raises(llmc.BusyError, match="step"):
            optimizer.step(other)
        with pytest.raises(llmc.BusyError, match="write"):
            model.load_state_dict(model.state_dict())

    while_busy(lambda: run.forward_backward(IDS), refused)
    np.testing.assert_array_equal(model.state_dict()["lm_head.weight"], before)
    assert optimizer.step(other) > 0 and optimizer.updates == 1


def test_runs_that_share_gradients_do_not_write_them_at_once(model):
    run = model.run(4, 512, backward=True)
    sharing = model.run(2, 64, backward=True, gradients=run)
    sharing.forward(SMALL, labels=SMALL)

    def refused():
        for call in (sharing.backward, sharing.zero_grad, lambda: sharing.forward_backward(SMALL)):
            with pytest.raises(llmc.BusyError, match="share"):
                call()

    while_busy(lambda: run.forward_backward(IDS), refused)
    sharing.backward()


def test_threads_that_step_and_read_at_once_are_served_or_refused(model):
    """A reader sees the model before a step or after it, and says BusyError in between."""
    runs = [model.run(2, 64, backward=True) for _ in range(3)]
    optimizer, end = llmc.AdamW(model, lr=1e-4), time.monotonic() + 1
    done = {"losses": 0, "steps": 0, "busy": 0}

    def work(index):
        while time.monotonic() < end:
            try:
                loss = runs[index].forward_backward(SMALL)
                assert 0 < loss < 10
                done["losses"] += 1
                optimizer.step(runs[index])
                done["steps"] += 1
            except llmc.BusyError:
                done["busy"] += 1

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        list(pool.map(work, range(3)))
    assert done["losses"] and optimizer.updates == done["steps"]


def test_the_pool_may_be_resized_while_it_works(long_pass):
    run, passes = long_pass
    expected = run.forward_backward(IDS)

    def resize():
        for threads in (1, 3, 2, 4, 1, 2):
            llmc.set_num_threads(threads)
            assert llmc.get_num_threads() == threads

    while_busy(passes, resize)
    assert run.loss == expected


def test_a_thread_of_python_goes_on_while_the_core_works(long_pass):
    _, passes = long_pass
    turns = while_busy(passes, lambda: sum(1 for _ in range(1000)))
    assert turns == 1000


if sys.version_info >= (3, 12):  # earlier ones have no way to refuse

    def test_a_subinterpreter_refuses_the_core_in_words():
        modern = sys.version_info >= (3, 13)
        module, isolated = ("_interpreters", "'isolated'") if modern else ("_xxsubinterpreters", "")
        code = f"import {module} as i\nprint(i.run_string(i.create({isolated}), 'import llmc._core'))\n"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT)
        assert done.returncode in (0, 1) and "ImportError" in done.stdout + done.stderr, done.stdout + done.stderr
