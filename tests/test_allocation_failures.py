"""Every allocation of every call of the core fails in turn: MemoryError, nothing lost, the object works afterwards."""

import gc

import numpy as np
import pytest
from conftest import TINY
from tiny import DoubleModel, random_ids, tiny_model

import llmc
from llmc import _core64 as core

CONFIG = TINY["llama"]
IDS = random_ids(CONFIG, 2, 9)
MODEL = tiny_model(CONFIG, double=True)
FOREVER = 10**9


def model():
    return MODEL


def run(**options):
    return MODEL.run(2, 9, backward=True, **options)


def run_after_forward():
    ready = run()
    ready.forward(IDS, labels=IDS)
    return ready


def run_stopped():
    ready = run()
    ready.forward(IDS, labels=IDS, until="model.layers.1")
    return ready


def optimizer():
    own = tiny_model(CONFIG, double=True)
    ready = own.run(2, 9, backward=True)
    ready.forward_backward(IDS)
    return own, llmc.AdamW(own), ready


def step_and_look(things):
    own, adamw, ready = things
    ready.forward_backward(IDS[:, :5])
    adamw.step(ready)
    return [moment["lm_head.weight"] for moment in adamw._core.moments()]


def piece(_):
    x, weight, dx, dweight = np.ones((3, 4)), np.ones((2, 4)), np.zeros((3, 4)), np.zeros((2, 4))
    core.functional("linear", (x, weight), (dx, dweight), None, np.ones((3, 2)), 6, (1, 1))
    return dx, dweight


def attention_piece(_):
    x, out = np.ones((1, 5, 8)), np.zeros((1, 5, 8))
    mask = np.ones((1, 5), np.uint8)
    core.functional("attention", (x, x, x), (None,) * 3, out, None, 40, (1, 5), None, mask, 0.5, "linear", 2, 2, 4)
    return out


def embedding_piece(_):
    out = np.zeros((2, 3))
    ids = np.array([1, 4], np.int32)
    core.functional("embedding", (None, np.ones((5, 3))), (None, None), out, None, 6, (1, 2), ids)
    return out


def everything_kept(ready):
    ready.forward(IDS, labels=IDS)
    ready.backward()
    return [ready.output("model.layers.0.mlp", copy=True), ready.grad("lm_head.weight", copy=True)]


def looked_at(ready):
    return [len(ready._core.modules()), len(ready._core.steps()), ready._core.losses, ready.grad("lm_head.weight")]


def of_several_streams():
    return tiny_model({**CONFIG, "model_type": "hc"}, double=True)
def of_mixtures():
    return tiny_model({**CONFIG, "model_type": "lime1-dynamic", "num_key_value_heads": 4}, double=True)


CALLS = {  # name: (what is there before, the call)
    "Model": (model, lambda m: core.Model(m._spec).parameter_count),
    "Model without memory": (model, lambda m: core.Model(m._spec, False).shapes()["lm_head.weight"]),
    "llmc.Model": (model, lambda m: DoubleModel(m.config).state_dict()["lm_head.weight"]),
    "llmc.Model in int8": (model, lambda m: DoubleModel(m.config, dtype="int8").state_dict()["lm_head.weight"]),
    "parameters": (model, lambda m: m._model.parameters()["lm_head.weight"]),
    "estimate": (model, lambda m: m.estimate(3, 50, train=True, keep=["*.mlp"])["activations"]),
    "estimate of a generation": (model, lambda m: m.estimate(3, 50, generate=70)["cache"]),
    "logits": (model, lambda m: m(IDS)),
    "loss": (model, lambda m: m.loss(IDS)),
    "generate": (model, lambda m: m.generate(IDS, max_new_tokens=4, prefill_chunk=4)),
    "Run": (model, lambda m: m.run(2, 9, keep=["*.mlp", "lm_head"], backward=True).forward(IDS, labels=IDS)),
    "Run with everything kept": (lambda: run(keep="all"), everything_kept),
    "forward of another shape": (run_after_forward, lambda r: r.forward(IDS[:1, :4], labels=IDS[:1, :4])),
    "forward without a block": (run_after_forward, lambda r: r.forward(IDS, labels=IDS, skip=["model.layers.0"])),
    "forward until a module": (run_after_forward, lambda r: r.forward(IDS, until="model.layers.0.mlp")),
    "forward_backward": (run_after_forward, lambda r: r.forward_backward(IDS[:, :7])),
    "backward and looking": (run_after_forward, looked_at),
    "resume": (run_stopped, lambda r: r.resume()),
    "Run of several streams": (of_several_streams, lambda m: m.run(2, 9, backward=True).forward_backward(IDS)),
    "Run of mixtures": (of_mixtures, lambda m: m.run(2, 9, backward=True).forward_backward(IDS)),
    "AdamW": (model, lambda m: llmc.AdamW(m).updates),
    "step": (optimizer, step_and_look),
    "piece": (model, piece),
    "piece of attention": (model, attention_piece),
    "piece of ids": (model, embedding_piece),
}


def numbers(result):
    return [np.array(x) for x in (result if isinstance(result, (list, tuple)) else [result]) if x is not None]


@pytest.fixture(autouse=True)
def no_failure_is_left():
    yield
    core.fail_allocation(0)


@pytest.mark.parametrize("count", [1, FOREVER], ids=["once", "from there on"])
@pytest.mark.parametrize("name", CALLS)
def test_a_failed_allocation_is_a_memory_error_and_nothing_else(name, count):
    make, call = CALLS[name]
    expected = numbers(call(make()))
    gc.collect()
    before = core.live_allocations()
    for k in range(1, 2000):
        thing = make()
        core.fail_allocation(k, count)
        try:
            result = numbers(call(thing))
        except MemoryError:
            core.fail_allocation(0)
            result, failed = numbers(call(make() if name == "resume" else thing)), True
        else:
            core.fail_allocation(0)
            failed = False
        assert all(np.array_equal(a, b) for a, b in zip(result, expected, strict=True)), f"allocation {k}"
        del thing
        assert core.live_allocations() == before, f"allocation {k}: {core.live_allocations() - before} blocks"
        if not failed:
            return
    raise AssertionError("2000 allocations in one call")
