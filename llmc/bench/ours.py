"""The work of every job as llmc does it: each function makes all it needs and gives (a step, what is known of it).

What is known: "flops" or "bytes" of one step, the nominal ones (attention halved for causality, nothing counted that is
computed again), "tokens", and where there is a model its `estimate` of the memory.
"""

import math
import statistics
import time

import numpy as np

import llmc
from llmc.analysis.metrics import OBSERVED
from llmc.core import _core


def tokens(config, batch, length):
    """(batch, length) random ids, the same for every program."""
    vocabulary = config.get("vocab_size", 50257)
    return np.random.default_rng(0).integers(0, vocabulary, (batch, length))


def _numbers(*shape):
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def _about(forecast, count):
    return {"flops": forecast["flops"], "tokens": count, "estimate": forecast["memory"]}


def _reader(config, precision):
    """A model whose weights are stored as narrow as they are multiplied."""
    return llmc.Model(llmc.Config(**config), dtype=precision)


def train(config, batch, length, precision, keep=None):
    """A training step: forward, backward, clipping, AdamW."""
    model = llmc.Model(llmc.Config(**config), precision=precision)
    run, optimizer = model.run(batch, length, keep=keep, backward=True), llmc.AdamW(model, lr=1e-4)
    ids = tokens(config, batch, length)

    def step():
        run.forward_backward(ids)
        optimizer.step(run)

    return step, _about(model.estimate(batch, length, train=True, keep=keep, dropout=False), batch * length)


def lora(config, batch, length, rank, precision):
    """A training step of an adapter beside every linear of a frozen base."""
    model = _reader(config, precision)
    model.add_adapter(llmc.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"))
    run, optimizer = model.run(batch, length, backward=True), llmc.AdamW(model, lr=1e-4)
    ids = tokens(config, batch, length)

    def step():
        run.forward_backward(ids)
        optimizer.step(run)

    return step, _about(model.estimate(batch, length, train=True, dropout=False), batch * length)


def frozen(config, batch, length, rank, precision):
    """The forward pass of a frozen base and the gradients of what its linears read, with an adapter beside each.

    Rank None: without, but for one of rank 1 at the very bottom, for whose sake those gradients are wanted.
    """
    model = _reader(config, precision)
    at_bottom = {"r": 1, "target_modules": ["q_proj"], "layers_to_transform": [0]}
    model.add_adapter(llmc.LoraConfig(**({"r": rank, "target_modules": "all-linear"} if rank else at_bottom)))
    run, ids = model.run(batch, length, backward=True), tokens(config, batch, length)

    def step():
        run.zero_grad()
        run.forward_backward(ids)

    return step, _about(model.estimate(batch, length, train=True, dropout=False), batch * length)


def lim(config, batch, length, precision, metrics=OBSERVED):
    """The call that measures what every module does to its input; without metrics the bare pass, recorded as anew."""
    model, ids = llmc.Model(llmc.Config(**config), precision=precision), tokens(config, batch, length)

    def step():
        if metrics:
            llmc.analysis.lim(model, ids, metrics=metrics, disable_tqdm=True)
        else:
            model.run(batch, length).forward(ids)

    return step, _about(model.estimate(batch, length), batch * length)


def prompt(config, length, precision):
    """A prompt read: the logits of its last position."""
    model, ids = _reader(config, precision), tokens(config, 1, length)
    run = model.run(1, length)
    about = _about(model.estimate(1, length), length)
    about["flops"] -= 2 * (length - 1) * model.config.hidden_size * model.config.vocab_size  # logits nobody asked for
    return (lambda: run.forward(ids, logits_to_keep=1)), about


def decode(config, prompt, new, precision):
    """Greedy decoding: the passes that read one token each, all but the first of `new`, which reads the prompt."""
    model, ids = _reader(config, precision), tokens(config, 1, prompt)
    longest = prompt + new
    forecast = model.estimate(1, 1, generate=longest)
    past = forecast["cache"] / longest * sum(prompt + i for i in range(1, new))
    about = {"bytes": (new - 1) * _weights_read(model, forecast["parameters"]) + past, "tokens": new - 1,
             "estimate": forecast["memory"]}  # fmt: skip

    def step():
        tokens = model.stream(ids, max_new_tokens=new, eos_token_id=-1)
        next(tokens)
        start = time.perf_counter()
        for _ in tokens:
            pass
        return {"seconds": time.perf_counter() - start}

    return step, about


def _weights_read(model, stored):
    """Bytes of weights that a token reads: all that is stored, but of tables that are looked up one row."""
    shapes = model._model.shapes()
    tables = ["transformer.wpe.weight"]
    if not model.config.tie_word_embeddings:  # otherwise the head reads the whole table
        tables.append(f"{model._model.embedding_name}.weight")
    surplus = sum(math.prod(shapes[name]) - shapes[name][1] for name in tables if name in shapes)
    return stored * (1 - surplus / model.num_parameters())


def _timed(op, arrays, gradients, result, precision, **numbers):
    """A step that replays a piece and gives its own seconds, without the copies in and out."""
    forward = not any(gradient is not None for gradient in gradients)
    out = np.empty(math.prod(result), np.float32) if forward else None
    dout = None if forward else _numbers(math.prod(result))

    def step():
        seconds = _core.functional(op, arrays, gradients, out, dout, math.prod(result), repeats=3, precision=precision,
                              **numbers)  # fmt: skip
        return {"seconds": statistics.median(seconds)}

    return step


def product(rows, inputs, outputs, which, precision):
    """One product of a linear: of its forward pass, or for the gradient of its input or of its weight."""
    x, weight = _numbers(rows, inputs), _numbers(outputs, inputs)
    gradients = {"forward": (None, None), "dx": (np.zeros_like(x), None), "dw": (None, np.zeros_like(weight))}[which]
    step = _timed("linear", (x, weight), gradients, (rows, outputs), precision, shape=(1, 1))
    return step, {"flops": 2.0 * rows * inputs * outputs}


def attention(batch, length, heads, size, which, precision):
    """Causal attention, forward or backward."""
    operands = tuple(_numbers(batch, length, heads * size) for _ in range(3))
    gradients = (None,) * 3 if which == "forward" else tuple(np.zeros_like(x) for x in operands)
    step = _timed("attention", operands, gradients, (batch, length, heads * size), precision, shape=(batch, length),
                  heads=heads, groups=heads, size=size, causal=True, number=1 / math.sqrt(size))
    flops = 4.0 * batch * heads * size * length * (length + 1) / 2
    return step, {"flops": flops if which == "forward" else 2 * flops}
