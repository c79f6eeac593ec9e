"""Random calls of everything public with random, mostly bad, arguments: an error of llmc, or a result; never a crash.

    python tests/fuzz_core.py [--seconds 600] [--seed N]

A crash ends the process; the last line of the log (--log) is the call it died in. What is raised must be an error of
llmc, TypeError, ValueError or MemoryError; the model must give the same logits until a step changes it.
"""

import argparse
import itertools
import random
import signal
import sys
import time
import warnings
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

import numpy as np  # noqa: E402
from conftest import TINY  # noqa: E402

import llmc  # noqa: E402
from llmc import _core64, functional  # noqa: E402

ALLOWED = (llmc.Error, TypeError, ValueError, MemoryError)
BY_THE_CORE = (*ALLOWED, OverflowError)  # it is private, and checks what memory safety needs
SMALL = 24  # tokens and rows stay small enough that a good call is quick


class Fuzzer:
    """Objects that live for a while, and calls on them."""

    def __init__(self, seed):
        self.random, self.numpy = random.Random(seed), np.random.default_rng(seed)
        self.pick = self.random.choice
        self.renew()

    def renew(self):
        family = self.pick(list(TINY))
        layers = "n_layer" if "n_layer" in TINY[family] else "num_hidden_layers"
        config = {**TINY[family], layers: 1}
        self.model = llmc.Model(llmc.Config(**config))
        self.V, self.names = config["vocab_size"], list(self.model.state_dict())
        self.run = self.model.run(4, SMALL, keep="all", backward=True)
        self.optimizer = llmc.AdamW(self.model)
        self.core = _core64.Model(self.model._spec)
        self.core_run = _core64.Run(self.core, 3, 9, True, False, [], True, 0, 0, None)
        self.generating = _core64.Run(self.core, 3, 9, False, False, [], False, 14, 0, None)
        self.core_optimizer = _core64.AdamW(self.core)

    # --- arguments ---------------------------------------------------------------------------------------------------
    def number(self):
        return self.pick([
            0, 1, -1, 2, 3, 7, SMALL, 100, 2**31 - 1, 2**31, -(2**31) - 1, 2**32, 2**63, 2**64, -(2**63), 0.5, -0.0,
            1e-30, 1e308, float("nan"), float("inf"), True, None, "3", np.int64(3), np.float32(0.25),
            self.random.randrange(-5, 30),
        ])  # fmt: skip

    def shape(self):
        dimensions = self.pick([0, 1, 2, 2, 2, 3, 4])
        return tuple(self.pick([0, 1, 1, 2, 3, 4, 7, 9, SMALL]) for _ in range(dimensions))

    def array(self):
        shape = self.shape()
        kind = self.pick(["i", "i", "i", "f", "f", "u1", "i4", "f8", "f2", "?", "O", "U", ">i4", "c16", "M8[s]"])
        if kind in ("O", "U", "M8[s]"):
            array = np.zeros(shape, dtype=kind)
        else:
            high = self.pick([1, 2, self.V - 1, self.V, 2**31 - 1])
            array = self.numpy.integers(-1 if self.random.random() < 0.2 else 0, high + 1, shape)
            array = array.astype({"i": "i8", "f": "f4"}.get(kind, kind))
        if array.ndim and self.random.random() < 0.2:
            array = array[::-1]
        if array.ndim > 1 and self.random.random() < 0.2:
            array = array.T
        if self.random.random() < 0.1:
            array = array.copy()
            array.flags.writeable = False
        if kind in "f8f4" and array.size and self.random.random() < 0.2:
            array = np.where(array > 0, np.nan, np.inf).astype(array.dtype)
        return array

    def ids(self):
        return self.numpy.integers(0, self.V, (self.random.randint(1, 4), self.random.randint(1, SMALL)))

    def name(self):
        good = self.pick(self.names)
        return self.pick([good, good.rpartition(".")[0], good + "x", "", "*", "\0", "é" * 300, "\ud800", "a." * 400,
                          "model.layers.0", "transformer.h.0", "lm_head", "*.mlp", "[", "all"])  # fmt: skip

    def value(self):
        return self.pick([self.number, self.array, self.ids, self.name, self.shape, self.names_or_not, self.thing])()

    def names_or_not(self):
        return self.pick([[], [self.name()], (self.name(), self.name()), {self.name()}, iter([self.name()]),
                                   [3], None, self.name()])  # fmt: skip

    def thing(self):
        return self.pick([self.model, self.run, self.optimizer, self.core, self.core_run, object(), {}, [], b"",
                                   self.model._model, lambda: 0])  # fmt: skip

    def options(self, **makers):
        """Some of the keyword arguments; now and then one of another kind, or one that does not exist."""
        chosen = {}
        for name, make in makers.items():
            if self.random.random() < 0.4:
                chosen[name] = make() if self.random.random() < 0.7 else self.value()
        if self.random.random() < 0.03:
            chosen["unknown"] = 1
        return chosen

    def maybe(self, make):
        return make() if self.random.random() < 0.8 else self.value()

    # --- calls -------------------------------------------------------------------------------------------------------
    def pass_options(self):
        return self.options(labels=self.ids, attention_mask=lambda: self.numpy.integers(0, 2, self.shape()),
                            position_ids=self.array, skip=self.names_or_not,
                            num_items_in_batch=self.number)  # fmt: skip

    def a_forward(self):
        options = self.pass_options() | self.options(until=self.name, logits_to_keep=self.number)
        return self.run.forward(self.maybe(self.ids), **options)

    def a_forward_backward(self):
        return self.run.forward_backward(self.maybe(self.ids), **self.pass_options())

    def a_backward(self):
        return self.run.backward()

    def a_resume(self):
        return self.run.resume()

    def a_zero_grad(self):
        return self.run.zero_grad()

    def a_look(self):
        look = self.pick([self.run.input, self.run.output, self.run.grad])
        return look(self.maybe(self.name), **self.options(copy=lambda: True))

    def a_property(self):
        return getattr(self.run, self.pick(["logits", "plan", "nbytes", "loss"]))

    def a_step(self):
        return self.optimizer.step(self.maybe(lambda: self.run))

    def a_logits(self):
        return self.model(self.maybe(self.ids), **self.options(attention_mask=self.array, position_ids=self.array,
                                                               logits_to_keep=self.number))  # fmt: skip

    def a_loss(self):
        return self.model.loss(self.maybe(self.ids), **self.options(labels=self.ids, attention_mask=self.array))

    def a_generation(self):
        few = {"max_new_tokens": self.pick([0, 1, 3, -1, None, 2.5, "x"])}
        return self.model.generate(self.maybe(self.ids), **few, **self.options(
            do_sample=lambda: True, temperature=self.number, top_k=self.number, top_p=self.number, min_p=self.number,
            repetition_penalty=self.number, prefill_chunk=self.number, min_new_tokens=self.number, seed=self.number,
            eos_token_id=self.number, pad_token_id=self.number, use_cache=lambda: False))  # fmt: skip

    def a_run(self):
        size = lambda: self.pick([1, 2, 4, 0, -1, None, 2.5, 2**40, 2**31 - 1])  # noqa: E731
        run = self.model.run(self.maybe(size), self.maybe(size), **self.options(
            keep=self.names_or_not, backward=lambda: True, dropout=lambda: True, seed=self.number,
            gradients=self.thing))  # fmt: skip
        if run.nbytes < 1 << 26:
            self.run = run
        return run.names()

    def an_estimate(self):
        return self.model.estimate(**self.options(batch=self.number, length=self.number, train=lambda: True,
                                                  keep=self.names_or_not, generate=self.number))  # fmt: skip

    def an_optimizer(self):
        made = llmc.AdamW(self.maybe(lambda: self.model), **self.options(
            lr=self.number, betas=lambda: (self.number(), self.number()), eps=self.number, weight_decay=self.number,
            max_grad_norm=self.number, decay=self.name, on_nonfinite=self.name))  # fmt: skip
        return made.state_dict()

    def a_piece(self):
        names = [name for name in vars(functional) if not name.startswith("_") and callable(vars(functional)[name])
                 and vars(functional)[name].__module__ == functional.__name__]  # fmt: skip
        function = getattr(functional, self.pick(names))
        count = function.__code__.co_argcount
        return function(*(self.maybe(self.array) for _ in range(self.pick([count, count, 1, 2, 3]))))

    # --- the core itself, whose errors must not be crashes either ----------------------------------------------------
    def reals(self, *shape):
        return np.zeros(shape or self.shape())

    def a_core_pass(self):
        run = self.pick([self.core_run, self.generating])
        B, T = self.random.randint(1, 4), self.random.randint(1, 10)
        ids = lambda: self.numpy.integers(-1, 40, (B, T)).astype(np.int32)  # noqa: E731
        D = self.model._spec["head_dim"]
        arguments = dict(
            ids=ids(), targets=self.pick([None, ids()]), positions=np.abs(ids()),
            mask=self.pick([None, self.numpy.integers(0, 2, (B, T)).astype(np.uint8)]),
            inv_freq=self.reals(D // 2),
            rope_factor=self.reals(1), items=self.pick([0.0, -1.0, 5.0, float("nan")]), shape=(B, T), skip=[],
            until=self.pick([None, None, self.name()]), last=self.pick([0, 0, 1, 3, -2, 50]),
        )  # fmt: skip
        if self.random.random() < 0.3:
            arguments[self.pick(list(arguments))] = self.value()
        return self.pick([run.forward, run.forward, run.forward_backward])(**arguments)

    def a_core_reading(self):
        run = self.pick([self.core_run, self.generating])
        ids, positions = (self.maybe(lambda: self.numpy.integers(-1, 40, (2, 3)).astype(np.int32)) for _ in range(2))
        mask = self.maybe(lambda: self.pick([None, np.ones((2, 3), np.uint8)]))
        return run.read(ids, positions, mask, self.maybe(lambda: self.reals(self.model._spec["head_dim"] // 2)), 1.0)

    def a_core_method(self):
        run = self.pick([self.core_run, self.generating])
        numbers = [self.maybe(lambda: 0.1) for _ in range(4)]
        rates = [self.maybe(lambda: [0.1] * len(self.core_optimizer.moments()[0])) for _ in range(2)]
        sizes = self.number(), self.number(), True, False, self.names_or_not(), True, self.number()
        return self.pick([
            run.resume, run.backward, run.zero_grad, lambda: run.trim(self.pick([0, 0, 1, -1, 5])), run.modules,
            run.steps, run.observed, run.shapes,
            lambda: run.array(self.maybe(self.name), self.pick(["input", "output", "grad", self.value()])),
            lambda: run.parameter_gradient(self.maybe(self.name)),
            lambda: run.set_dropout_key(self.number(), self.number()),
            lambda: (run.logits, run.losses, run.past, run.nbytes, run.gradient_arena, self.core.parameter_arena),
            self.core.linears, self.core.shapes, self.core.end_write,
            lambda: self.core_optimizer.step(self.maybe(lambda: self.core_run), *rates, *numbers, True),
            self.core_optimizer.moments, lambda: setattr(self.core_optimizer, "updates", self.value()),
            lambda: self.core.estimate(*sizes),
        ])()  # fmt: skip

    def a_core_object(self):
        size = lambda: self.pick([1, 2, 5, 0, -3, 2**31 - 1, 2**31, 1.5])  # noqa: E731
        flags = self.value(), self.value(), self.names_or_not(), self.value()
        return _core64.Run(self.maybe(lambda: self.core), size(), size(), *flags, size(), self.pick([0, 2**64, -1]),
                           self.pick([None, self.core_run])).nbytes  # fmt: skip

    def a_core_adapter(self):
        modules = [*self.core.linears(), self.name()]
        branch = lambda: (self.pick(modules), self.pick([1, 2, 0, -1, 2**31 - 1]), 0.5, 0.1)  # noqa: E731
        branches = [self.maybe(branch) for _ in range(2)]
        copies = self.pick([[], [self.name()], [self.names[0]], self.value()])
        return self.pick([
            lambda: self.core.add_adapter(self.maybe(lambda: self.pick("abc")), branches, copies),
            lambda: self.core.delete_adapter(self.pick("abc")),
            lambda: self.core.set_adapters(list(self.pick(["", "a", "ab", "c"])), list(self.pick(["", "a"]))),
            lambda: self.core.adapter_parameters(self.pick("abc")),
            lambda: setattr(self, "core_run", _core64.Run(self.core, 3, 9, True, True, [], True, 0, 0, None, True)),
            lambda: setattr(self, "core_optimizer", _core64.AdamW(self.core)),
        ])()  # fmt: skip

    def a_core_piece(self):
        ops = ["embedding", "rmsnorm", "layernorm", "linear", "activation", "gate", "softmax", "cross_entropy", "rope",
               "attention", "nothing"]  # fmt: skip
        few = lambda: self.pick([0, 1, 2, 3, 4, 6, -1])  # noqa: E731
        arrays = tuple(self.pick([None, self.reals(), self.reals(2, 3, 4), self.reals(3, 4), self.reals(4)])
                       for _ in range(self.random.randint(0, 5)))  # fmt: skip
        gradients = tuple(self.pick([None, a if a is None else np.zeros_like(a)]) for a in arrays)
        shape = self.pick([(2, 3), (1, 3), (1, 1), (few(), few())])
        out = self.pick([None, self.reals(), self.reals(2, 3, 4)])
        dout = self.pick([None, self.reals(), self.reals(2, 3, 4)])
        ids = self.pick([None, self.numpy.integers(-2, 6, shape if min(shape) > 0 else (1,)).astype(np.int32)])
        size = next(array.size for array in (out, dout, self.reals()) if array is not None)
        count = self.pick([24, 12, 4, self.number(), size, size, size])
        return _core64.functional(self.pick(ops), arrays, gradients, out, dout, count, shape, ids,
                             self.pick([None, None, np.ones(6, np.uint8)]), self.pick([0.0, 1.0, 1e4]),
                             self.pick(["linear", "gelu", "nothing"]), few(), few(), few(), few(), True)  # fmt: skip

    def calls(self):
        return [name for name in dir(self) if name.startswith(("a_", "an_"))]


def fuzz(seconds, seed, log=None):
    """Call for so long; the number of calls, and of those that gave a result."""
    fuzzer, calls, good = Fuzzer(seed), 0, 0
    ids = np.arange(6).reshape(2, 3)
    expected = None
    end = time.monotonic() + seconds
    warnings.simplefilter("ignore")
    for calls in itertools.count(1):
        if time.monotonic() >= end:
            return calls - 1, good
        if calls % 400 == 1:
            fuzzer.renew()
            expected = None
        name = fuzzer.random.choice(fuzzer.calls())
        if log:
            log.write(f"{calls} {name}\n")
            log.flush()
        try:
            getattr(fuzzer, name)()
            good += 1
        except BY_THE_CORE if name.startswith("a_core") else ALLOWED:
            pass
        except BaseException as error:
            raise AssertionError(f"seed {seed}, call {calls}, {name}: {type(error).__name__}: {error}") from error
        if name == "a_step" or expected is None:
            expected = fuzzer.model(ids)
        elif calls % 20 == 0:
            same = np.array_equal(fuzzer.model(ids), expected, equal_nan=True)
            assert same, f"seed {seed}, call {calls}: other logits"


def main():
    parser = argparse.ArgumentParser(description="Call the core with random arguments.")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--log", type=argparse.FileType("w"), default=None)
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2**32)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print(f"seed {seed}", flush=True)
    print("{} calls, {} gave a result".format(*fuzz(options.seconds, seed, options.log)))


if __name__ == "__main__":
    main()
