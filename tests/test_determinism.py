"""The same bits: any number of threads, two runs, two processes, each instruction set with itself."""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import TINY, TOLERANCE
from tiny import random_ids, tiny_model

import llmc
from llmc import _core, functional

# Large enough that every op is cut into several tasks, and in sizes that no task size divides.
LARGER = {
    "openai-gpt": dict(n_embd=195, n_head=5, vocab_size=1003, n_layer=2, n_positions=300),
    "gpt2": dict(n_embd=195, n_head=3, n_inner=401, vocab_size=1003, n_layer=2, n_positions=300),
    "llama": dict(hidden_size=196, head_dim=26, intermediate_size=397, vocab_size=1003, num_hidden_layers=2),
    "mistral": dict(hidden_size=197, head_dim=34, intermediate_size=397, vocab_size=1003, num_hidden_layers=2,
                    sliding_window=37),
}  # fmt: skip
DROPOUT = {"openai-gpt": "resid_pdrop", "gpt2": "attn_pdrop"} | dict.fromkeys(("llama", "mistral"), "attention_dropout")


@pytest.fixture(autouse=True)
def as_many_threads_as_before():
    before = llmc.get_num_threads()
    yield
    llmc.set_num_threads(before)


def digest(*arrays):
    """One word for all bits of the arrays."""
    total = hashlib.blake2b(digest_size=12)
    for array in arrays:
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def everything(family, dropout=True):
    """{what: digest} of all a model does: a forward pass, gradients, five optimizer steps, generation."""
    config = {**TINY[family], **LARGER[family]}
    if dropout:
        config[DROPOUT[family]] = 0.2
    model = tiny_model(config, seed=1, scale=0.02)
    ids = random_ids(config, 3, 131)
    mask = np.ones_like(ids)
    mask[1, :17], mask[2, 70:] = 0, 0
    found = {"logits": digest(model(ids, attention_mask=mask)), "loss": model.loss(ids, attention_mask=mask)}
    run, optimizer = model.run(3, 131, backward=True, dropout=dropout), llmc.AdamW(model, lr=1e-3)
    found["train loss"] = run.forward_backward(ids, attention_mask=mask)
    found["gradients"] = digest(*(run.grad(name) for name in model._parameters))
    found["norms"] = [optimizer.step(run)]
    for step in range(4):
        run.forward(ids, labels=ids, attention_mask=mask)
        run.backward()
        found["norms"].append(optimizer.step(run))
    found["parameters"] = digest(*model.state_dict().values())
    found["moments"] = digest(*(a for kind in ("exp_avg", "exp_avg_sq") for a in optimizer.state_dict()[kind].values()))
    text = model.generate(ids[:, :40], attention_mask=mask[:, :40], max_new_tokens=12, do_sample=True, seed=1,
                          prefill_chunk=16)  # fmt: skip
    found["text"] = text.tolist()
    return found


def test_any_number_of_threads_gives_the_same_bits(family):
    found = {}
    for threads in (1, 2, 3, 4, 7):
        llmc.set_num_threads(threads)
        assert llmc.get_num_threads() == threads
        found[threads] = everything(family)
    assert all(each == found[1] for each in found.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_few_tokens_read_on_any_number_of_threads_give_the_same_bits(family, dtype):
    config = {**TINY[family], "vocab_size": 1100}  # a head of many tasks
    model, ids = llmc.Model(llmc.Config(**config), dtype=dtype), random_ids(config, 1, 3)
    results = []
    for threads in (1, 2, 3, 5, 8):
        llmc.set_num_threads(threads)
        results.append(model(ids))
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)


def test_two_runs_give_the_same_bits(family):
    llmc.set_num_threads(3)
    assert everything(family) == everything(family)


def test_threads_may_change_in_the_middle(family):
    config = {**TINY[family], **LARGER[family]}
    model = tiny_model(config, seed=1, scale=0.02)
    ids = random_ids(config, 3, 131)
    run = model.run(3, 131, backward=True)
    found = []
    for before, after in ((1, 1), (1, 4), (5, 2)):
        run.zero_grad()
        llmc.set_num_threads(before)
        loss = run.forward(ids, labels=ids)
        llmc.set_num_threads(after)
        run.backward()
        found.append((loss, digest(*(run.grad(name) for name in model._parameters))))
    assert len(set(found)) == 1


def test_more_threads_than_processors_give_the_same_bits():
    expected = everything("llama")
    llmc.set_num_threads(min(2 * _core.info()["processors"] + 1, 256))
    assert everything("llama") == expected


@pytest.mark.parametrize("n", [0, -1, 257, 10**20])
def test_impossible_numbers_of_threads_are_refused(n):
    with pytest.raises(llmc.ConfigError, match=str(n)):
        llmc.set_num_threads(n)


@pytest.mark.parametrize("n", [1.5, "2", None])
def test_a_number_of_threads_is_whole(n):
    with pytest.raises(TypeError):
        llmc.set_num_threads(n)


@pytest.mark.parametrize("words, n", [("7", 7), ("4,2", 4), ("999", 256), ("0", None), ("-3", None), ("all", None),
                                      ("", None)])  # fmt: skip
def test_threads_are_those_of_the_environment_where_it_says_a_number(words, n, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", words)
    assert llmc.core.threads_asked() == n


PROGRAM = """
import json, sys
sys.path.insert(0, sys.argv[1])
import llmc, test_determinism
found = []
for threads in (1, 3):
    llmc.set_num_threads(threads)
    found.append({family: test_determinism.everything(family) for family in test_determinism.TINY})
assert found[0] == found[1], "threads"
print(json.dumps([llmc._core.info()["instruction_set"], found[0]]))
"""


def in_a_process(**environment):
    """(instruction set, what `everything` finds for each family) in a fresh process."""
    here = os.path.dirname(os.path.abspath(__file__))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, here], env={**os.environ, **environment}, capture_output=True, text=True,
        cwd=os.path.dirname(here), timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# Every instruction set with our own products, and OpenBLAS beside the best.
KERNELS = [(isa, "own") for isa in _core.offers()]
if llmc.core.openblas_path():
    KERNELS.append((_core.offers()[0], "openblas"))


@pytest.mark.parametrize("isa, gemm", KERNELS)
def test_kernels_agree_with_themselves_to_the_bit_and_with_others_nearly(isa, gemm):
    used, found = in_a_process(LLMC_ISA=isa, LLMC_GEMM=gemm)
    assert used == isa
    same = isa == _core.info()["instruction_set"] and gemm == _core.info()["gemm"]
    for family in TINY:
        here = json.loads(json.dumps(everything(family)))
        if same:
            assert found[family] == here
        for what in ("loss", "train loss"):
            assert found[family][what] == pytest.approx(here[what], abs=TOLERANCE["loss"])
        assert found[family]["norms"] == pytest.approx(here["norms"], rel=TOLERANCE["gradient"])


def test_an_instruction_set_that_the_processor_lacks_is_refused_with_those_it_has(monkeypatch):
    class Older:
        """The core as it is on a processor of some years ago."""

        def offers(self):
            return ["avx2", "portable"]

    monkeypatch.setenv("LLMC_ISA", "avx512_bf16")
    with pytest.raises(llmc.ConfigError, match="LLMC_ISA=avx512_bf16: .* this processor has avx2, portable$"):
        llmc.core.choose(Older())


def test_unknown_instruction_set_is_refused_in_words():
    for environment in (dict(LLMC_ISA="mmx"), dict(LLMC_GEMM="abacus")):
        with pytest.raises(AssertionError, match="ConfigError: LLMC_.*(portable|own)"):
            in_a_process(**environment)


@pytest.fixture
def own_products():
    """OpenBLAS rounds by the shape of a call, our own products do not."""
    before = _core.info()
    _core.choose(before["instruction_set"], "own", None)
    yield
    _core.choose(before["instruction_set"], before["gemm"], llmc.core.openblas_path())


def test_head_in_chunks_has_the_bits_of_the_head_at_once(family, own_products):
    """Without the logits asked for, the loss is formed a chunk of tokens at a time: here of 1320."""
    config = {**TINY[family], **LARGER[family]}
    model, ids = tiny_model(config, scale=0.02), random_ids(config, 6, 220)
    found = []
    for keep in (None, [model._model.head_name]):
        run = model.run(6, 220, backward=True, keep=keep)
        found.append((run.forward_backward(ids), digest(*(run.grad(name) for name in model._parameters))))
    assert found[0] == found[1]


@pytest.mark.parametrize("rows", [1, 5, 131])
def test_projections_that_share_a_step_have_the_bits_of_each_alone(rows):
    config = {**TINY["llama"], **LARGER["llama"]}
    model = tiny_model(config, scale=0.02)
    groups = {"self_attn": "qkv", "mlp": ("gate", "up")}
    names = [f"model.layers.1.{module}.{name}_proj" for module, group in groups.items() for name in group]
    run = model.run(2, rows, keep=names)
    run.forward(random_ids(config, 2, rows))
    for name in names:
        alone = functional.linear(run.input(name), model.state_dict()[f"{name}.weight"])
        assert digest(alone) == digest(run.output(name)), name



@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_gradients_cut_along_thousands_of_rows_have_the_same_bits_at_any_number_of_threads_and_add_up(family):
    config = TINY[family]
    ids = random_ids(config, 325, 8)

    def gradients(threads, passes):
        llmc.set_num_threads(threads)
        model = tiny_model(config, scale=0.02)
        run = model.run(*ids.shape, backward=True)
        for _ in range(passes):
            run.forward_backward(ids)
        return {name: run.grad(name, copy=True) for name in model._parameters}

    once, twice = gradients(1, 1), gradients(1, 2)
    for threads in (2, 3):
        assert digest(*gradients(threads, 2).values()) == digest(*twice.values())
    for name, gradient in once.items():
        difference = np.abs(twice[name] - 2 * gradient).max()
        assert difference <= TOLERANCE["gradient"] * np.abs(gradient).max(), name


@pytest.mark.skipif(not llmc.core.openblas_path(), reason="there is no OpenBLAS")
def test_openblas_does_the_large_products_too():
    """Sums of 1000 products in another order: equal bits everywhere would be our own products."""
    before = _core.info()
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal((n, 1000)).astype(np.float32) for n in (2048, 512))
    found = {}
    try:
        for gemm in ("own", "openblas"):
            _core.choose(before["instruction_set"], gemm, llmc.core.openblas_path())
            found[gemm] = functional.linear(x, weight)
    finally:
        _core.choose(before["instruction_set"], before["gemm"], llmc.core.openblas_path())
    assert not np.array_equal(found["own"], found["openblas"])
    np.testing.assert_allclose(found["own"], found["openblas"], rtol=0, atol=1e-3)
