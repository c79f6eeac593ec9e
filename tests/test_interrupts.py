"""Ctrl-C at random instants stops a pass within 0.2 s, leaves the model as it was, and training goes on afterwards."""

import random
import signal
import threading
import time

import numpy as np
import pytest

import llmc

ANSWERED = 0.2  # seconds
TRIALS = 3  # instants of one kind of pass
CONFIG = dict(
    model_type="llama", vocab_size=2048, hidden_size=768, num_hidden_layers=8, num_attention_heads=12,
    num_key_value_heads=2, intermediate_size=2048, max_position_embeddings=2048, eos_token_id=None,
)  # fmt: skip
IDS = np.random.default_rng(0).integers(0, 2048, (2, 1024))


@pytest.fixture(scope="module")
def model():
    return llmc.Model(llmc.Config(**CONFIG))


@pytest.fixture(scope="module")
def run(model):
    return model.run(2, 1024, backward=True)


def delay_of_interrupt(call, after):
    """Press Ctrl-C `after` seconds into the call; the seconds until KeyboardInterrupt, None if it ended before."""
    pressed = []

    def press():
        pressed.append(time.perf_counter())
        signal.raise_signal(signal.SIGINT)

    timer = threading.Timer(after, press)
    try:
        timer.start()
        call()
        timer.cancel()
        timer.join()
        time.sleep(0)  # a signal that came at the last moment is answered here
    except KeyboardInterrupt:
        return time.perf_counter() - pressed[0]
    return None


def interrupt_at_random(call, again, longest, seed):
    """`call` is interrupted at random instants of its first `longest` seconds, `again` makes it possible once more."""
    rng = random.Random(seed)
    answered = 0
    for _ in range(TRIALS):
        after = rng.uniform(0.002, longest)
        delays = []
        while not delays or ((delays[-1] or 0) >= ANSWERED and len(delays) < 3):  # others may have had the processor
            again()
            delays.append(delay_of_interrupt(call, after))
        answered += delays[-1] is not None
        assert (delays[-1] or 0) < ANSWERED, f"Ctrl-C after {after:.3f} s was answered after {delays} s"
    assert answered, "no pass lasted long enough to be interrupted"


def photograph(model):
    return {name: array.copy() for name, array in model.state_dict().items()}


def assert_unchanged(model, before):
    assert all(np.array_equal(array, before[name]) for name, array in model.state_dict().items())


def test_forward_stops_and_the_model_is_as_it_was(model, run):
    before = photograph(model)
    interrupt_at_random(lambda: run.forward(IDS, labels=IDS), run.zero_grad, 0.7, seed=1)
    with pytest.raises(llmc.Error, match="forward"):
        run.backward()
    assert_unchanged(model, before)


def test_backward_stops_and_leaves_the_gradients_void(model, run):
    before = photograph(model)
    run.zero_grad()

    def again():
        run.zero_grad()
        run.forward(IDS[:1, :512], labels=IDS[:1, :512])

    interrupt_at_random(run.backward, again, 0.2, seed=2)
    assert_unchanged(model, before)


def test_forward_backward_stops_and_step_refuses_until_zero_grad(model, run):
    before = photograph(model)
    optimizer = llmc.AdamW(model)
    run.zero_grad()
    run.forward(IDS[:1, :512], labels=IDS[:1, :512])
    assert delay_of_interrupt(run.backward, 0.01) is not None
    for refused in (lambda: optimizer.step(run), run.backward, lambda: run.forward_backward(IDS[:, :128])):
        with pytest.raises(llmc.Error, match="zero_grad"):
            refused()
    interrupt_at_random(lambda: run.forward_backward(IDS), run.zero_grad, 1.2, seed=3)
    assert_unchanged(model, before)
    run.zero_grad()
    run.forward_backward(IDS[:, :64])
    fresh = model.run(1, 64, backward=True)
    for half in IDS[:, None, :64]:
        fresh.forward_backward(half, num_items_in_batch=126)
    name = "model.layers.7.mlp.down_proj.weight"
    np.testing.assert_allclose(run.grad(name), fresh.grad(name), atol=1e-5)
    optimizer.step(run)
    with pytest.raises(AssertionError):
        assert_unchanged(model, before)


def test_generation_stops(model):
    call = lambda: model.generate(IDS[:, :700], max_new_tokens=300)  # noqa: E731
    interrupt_at_random(call, lambda: None, 1.0, seed=4)
    assert model.generate(IDS[:, :8], max_new_tokens=3).shape == (2, 11)


def test_a_handler_may_look_use_and_resize(model, run):
    seen = []

    def handler(signum, frame):
        seen.append(model(IDS[:1, :4]).shape)
        llmc.set_num_threads(llmc.get_num_threads())
        with pytest.raises(llmc.BusyError):
            run.forward(IDS)

    signal.signal(signal.SIGINT, handler)
    run.zero_grad()
    assert delay_of_interrupt(lambda: run.forward(IDS[:, :512], labels=IDS[:, :512]), 0.02) is None
    assert seen == [(1, 4, 2048)] and run.loss > 0
