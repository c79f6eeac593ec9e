"""Views outlive what they show, cycles are collected, nothing grows; every array is taken or refused in words."""

import gc
import os
import sys

import numpy as np
import pytest
from conftest import TINY
from tiny import tiny_model

import llmc
from llmc import _core64

CONFIG = TINY["llama"]
V = CONFIG["vocab_size"]
IDS = np.random.default_rng(3).integers(0, V, (2, 9))


@pytest.fixture(scope="module")
def model():
    return tiny_model(CONFIG)


def resident():
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


# --- life ------------------------------------------------------------------------------------------------------------
def test_views_outlive_model_run_and_optimizer():
    model = tiny_model(CONFIG)
    run, optimizer = model.run(2, 9, keep="all", backward=True), llmc.AdamW(model)
    run.forward_backward(IDS)
    views = {**model.state_dict(), "output": run.output("model.layers.1.mlp"), "grad": run.grad("lm_head.weight"),
             "input": run.input("model.layers.1.mlp.down_proj"),
             "moment": optimizer.state_dict()["exp_avg"]["lm_head.weight"]}  # fmt: skip
    before = {name: view.copy() for name, view in views.items()}
    run.forward(IDS[:1, :3])  # recorded again, in the same memory or in new
    before["output"], before["input"] = views["output"].copy(), views["input"].copy()
    del model, run, optimizer
    gc.collect()
    ballast = [np.full(1 << 20, np.nan, np.float32) for _ in range(8)]
    for name, view in views.items():
        np.testing.assert_array_equal(view, before[name], err_msg=name)
        view[...] = 1
    del ballast


def test_a_view_of_a_smaller_run_outlives_the_arena_that_replaced_it():
    model = tiny_model(CONFIG)
    run = model.run(4, 64)
    run.forward(IDS)
    logits = run.logits
    seen = logits.copy()
    del run
    gc.collect()
    np.testing.assert_array_equal(logits, seen)


def test_every_view_has_an_owner_and_says_how_it_may_be_used(model):
    run = model.run(2, 9, keep="all", backward=True)
    run.forward_backward(IDS)
    for view in (*model.state_dict().values(), run.output("model.layers.0"), run.grad("model.layers.0"),
                 run.grad("model.embed_tokens.weight")):  # fmt: skip
        assert view.base is not None and not view.flags.owndata and view.flags.writeable and view.flags.aligned
        assert view.dtype == np.float32


def test_a_cycle_through_model_and_run_is_collected():
    gc.collect()
    before = _core64.live_allocations()
    for _ in range(3):
        model = tiny_model(CONFIG, double=True)
        model.run_of_mine = model.run(2, 9, keep="all", backward=True)
        model.run_of_mine.forward(IDS)
        model.view_of_mine = model.run_of_mine.output("model.layers.0")
        model.run_of_mine.model_of_mine = model
    del model
    gc.collect()
    assert _core64.live_allocations() == before


def test_two_thousand_lives_leave_nothing_behind():
    config = llmc.Config(**{**CONFIG, "num_hidden_layers": 1})

    def live():
        model = llmc.Model(config)
        run = model.run(2, 9, keep=["*.mlp"], backward=True)
        run.forward_backward(IDS)
        run.output("model.layers.0.mlp")
        llmc.AdamW(model).step(run)
        model.state_dict()

    for _ in range(50):
        live()
    gc.collect()
    blocks, memory = sys.getallocatedblocks(), resident()
    for _ in range(2000):
        live()
    gc.collect()
    assert sys.getallocatedblocks() - blocks < 200
    assert resident() - memory < 8 << 20


def test_references_to_arguments_are_given_back(model):
    run = model.run(2, 9, backward=True)
    ids, mask, skip = IDS.astype(np.int32), np.ones((2, 9), np.uint8), ["model.layers.0"]
    mask[0, 0] = 0
    arguments = run._arguments(ids, ids, mask, None, None, skip)
    held = [*arguments.values(), "model.layers.1"]
    before = [sys.getrefcount(each) for each in held]
    for _ in range(50):
        run._core.forward(**arguments, until=None, last=0)
        run._core.forward_backward(**arguments, until=None, last=0)
        with pytest.raises(llmc.UnknownNameError):
            run._core.forward(**{**arguments, "skip": ["nowhere"]}, until=None, last=0)
        with pytest.raises(llmc.ShapeError):
            run._core.forward(**{**arguments, "shape": (9, 2)}, until=None, last=0)
    assert [sys.getrefcount(each) for each in held] == before


# --- writing ---------------------------------------------------------------------------------------------------------
def test_what_is_written_through_a_view_is_seen_by_the_next_pass():
    model = tiny_model(CONFIG)
    run = model.run(2, 9)
    before = run.forward(IDS, labels=IDS)
    model.state_dict()["lm_head.weight"][...] = 0
    assert run.forward(IDS, labels=IDS) == pytest.approx(np.log(V), abs=1e-6) != before
    assert model.loss(IDS) == pytest.approx(np.log(V), abs=1e-6)


def test_both_names_of_a_tied_head_are_one_buffer():
    model = tiny_model({**CONFIG, "tie_word_embeddings": True})
    weights = model.state_dict()
    weights["lm_head.weight"][5, 7] = 42
    assert weights["model.embed_tokens.weight"][5, 7] == 42
    assert np.shares_memory(weights["lm_head.weight"], weights["model.embed_tokens.weight"])


# --- what is taken ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [*np.typecodes["AllInteger"], ">i4", ">i8"])
def test_ids_and_labels_of_every_integer_dtype_are_taken(model, dtype):
    expected = model(IDS)
    ids = IDS.astype(dtype)
    np.testing.assert_array_equal(model(ids), expected)
    assert model.loss(ids, labels=ids) == model.loss(IDS, labels=IDS)


def layouts():
    wide = np.zeros((4, 18), np.int64)
    wide[::2, ::2] = IDS
    frozen = IDS.copy()
    frozen.flags.writeable = False
    raw = np.zeros(IDS.nbytes + 1, np.uint8)
    unaligned = raw[1:].view(np.int64).reshape(IDS.shape)
    unaligned[...] = IDS
    return {"strided": wide[::2, ::2], "negative strides": IDS[::-1, ::-1].copy()[::-1, ::-1], "read-only": frozen,
            "Fortran order": np.asfortranarray(IDS), "unaligned": unaligned, "lists": IDS.tolist(),
            "a subclass": IDS.view(np.ma.MaskedArray), "tuples of numbers": tuple(map(tuple, IDS))}  # fmt: skip


@pytest.mark.parametrize("name", layouts())
def test_ids_of_every_layout_are_taken(model, name):
    np.testing.assert_array_equal(model(layouts()[name]), model(IDS))


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float32", ">f8"])
def test_masks_of_every_dtype_are_taken(model, dtype):
    mask = np.ones((2, 9))
    mask[0, :3] = 0
    np.testing.assert_array_equal(model(IDS, attention_mask=mask.astype(dtype)), model(IDS, attention_mask=mask))
    np.testing.assert_array_equal(model(IDS, attention_mask=mask.astype(dtype)[:, ::-1][:, ::-1]), model(IDS, mask))


def test_one_dimension_is_one_row(model):
    assert model(IDS[0]).shape == (1, 9, V)
    assert model(IDS[0].tolist()).shape == (1, 9, V)


# --- what is refused -------------------------------------------------------------------------------------------------
def with_id(value, dtype=np.int64):
    ids = IDS.astype(dtype)
    ids[1, 4] = value
    return ids


BAD_IDS = {  # name: (ids, error, what the message says)
    "too large": (with_id(V), llmc.DataError, rf"{V} at \(1, 4\).*\[0, {V}\)"),
    "negative": (with_id(-7), llmc.DataError, rf"-7 at \(1, 4\).*\[0, {V}\)"),
    "beyond 32 bits": (with_id(2**32 + 1), llmc.DataError, rf"{2**32 + 1}.*\[0, {V}\)"),
    "beyond 63 bits": (with_id(2**64 - 1, np.uint64), llmc.DataError, f"{2**64 - 1}"),
    "floats": (IDS.astype(float), TypeError, "integers.*float64"),
    "booleans": (IDS > 3, TypeError, "integers.*bool"),
    "text": ("a text", TypeError, "integers"),
    "nothing": (None, TypeError, "integers"),
    "objects": (np.array([[1, None]]), TypeError, "integers"),
    "ragged": ([[1, 2], [3]], llmc.ShapeError, "unequal lengths.*attention_mask"),
    "no token": (np.zeros((2, 0), int), llmc.ShapeError, r"\(2, 0\)"),
    "no row": (np.zeros((0, 9), int), llmc.ShapeError, r"\(0, 9\)"),
    "no dimension": (np.int64(3), llmc.ShapeError, r"\(\)"),
    "three dimensions": (np.zeros((1, 2, 3), int), llmc.ShapeError, r"\(1, 2, 3\)"),
}


@pytest.mark.parametrize("name", BAD_IDS)
def test_ids_that_are_none_are_refused_in_words(model, name):
    ids, kind, pattern = BAD_IDS[name]
    run = model.run(2, 9)
    for call in (model, model.loss, model.generate, run.forward):
        with pytest.raises(kind, match=pattern):
            call(ids)


def test_ids_beyond_a_run_are_refused_with_both_sizes(model):
    run = model.run(2, 8)
    for ids in (IDS, np.zeros((3, 8), int)):
        with pytest.raises(llmc.ShapeError, match=rf"\({ids.shape[0]}, {ids.shape[1]}\).*2.*8"):
            run.forward(ids)
    assert run.forward(IDS[:, :8], labels=IDS[:, :8]) > 0


BAD_OPTIONS = {  # name: (options of forward, error, pattern)
    "labels too large": (dict(labels=with_id(V)), llmc.DataError, rf"labels.*{V}.*\(1, 4\)"),
    "labels that are -5": (dict(labels=with_id(-5)), llmc.DataError, r"labels.*-5"),
    "labels of another shape": (dict(labels=IDS[:, 1:]), llmc.ShapeError, r"labels.*\(2, 8\).*\(2, 9\)"),
    "labels that are floats": (dict(labels=IDS * 1.0), TypeError, "labels.*float64"),
    "mask of another shape": (dict(attention_mask=np.ones((2, 8))), llmc.ShapeError, r"\(2, 8\).*\(2, 9\)"),
    "mask with a 2": (dict(attention_mask=np.full((2, 9), 2)), llmc.DataError, "attention_mask.*0.*1"),
    "mask with a NaN": (dict(attention_mask=np.full((2, 9), np.nan)), llmc.DataError, "attention_mask"),
    "positions of another shape": (dict(position_ids=np.zeros((2, 8), int)), llmc.ShapeError, r"\(2, 8\).*\(2, 9\)"),
    "negative positions": (dict(position_ids=-np.ones((2, 9), int)), llmc.DataError, "-1"),
    "no items": (dict(labels=IDS, num_items_in_batch=0), llmc.DataError, "num_items_in_batch.*0"),
    "items that are NaN": (dict(labels=IDS, num_items_in_batch=np.nan), llmc.DataError, "num_items_in_batch.*nan"),
    "an unknown module": (dict(until="model.layers.9"), llmc.UnknownNameError, "model.layers.9"),
    "an unknown block": (dict(skip=["model.layer.1"]), llmc.UnknownNameError, "model.layer.1"),
    "logits for nobody": (dict(labels=IDS, logits_to_keep=2), llmc.ConfigError, "logits_to_keep"),
    "negative logits": (dict(logits_to_keep=-2), llmc.ConfigError, "logits_to_keep.*-2"),
    "half a logit": (dict(logits_to_keep=0.5), TypeError, "logits_to_keep.*0.5"),
    "an unknown word": (dict(lables=IDS), TypeError, "lables"),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_options_of_a_pass_that_make_no_sense_are_refused_in_words(model, name):
    options, kind, pattern = BAD_OPTIONS[name]
    run = model.run(2, 9)
    with pytest.raises(kind, match=pattern):
        run.forward(IDS, **options)
    assert run.forward(IDS, labels=IDS) > 0


BAD_RUNS = {
    "no batch": (dict(batch=0, length=4), llmc.ConfigError, "batch.*0"),
    "negative length": (dict(batch=1, length=-4), llmc.ConfigError, "length.*-4"),
    "a batch of one and a half": (dict(batch=1.5, length=4), TypeError, "batch.*1.5"),
    "true": (dict(batch=True, length=4), TypeError, "batch.*True"),
    "a batch beyond 31 bits": (dict(batch=2**40, length=4), llmc.ConfigError, str(2**40)),
    "more than can be counted": (dict(batch=2**20, length=2**20), llmc.ConfigError, r"1048576 rows.*2\^31"),
    "globs that are numbers": (dict(batch=1, length=4, keep=[3]), llmc.ConfigError, "keep"),
    "gradients of nobody": (dict(batch=1, length=4, gradients=3), TypeError, "gradients.*int"),
    "an unknown word": (dict(batch=1, length=4, keeps="all"), TypeError, "keeps"),
}


@pytest.mark.parametrize("name", BAD_RUNS)
def test_runs_that_make_no_sense_are_refused_in_words(model, name):
    options, kind, pattern = BAD_RUNS[name]
    with pytest.raises(kind, match=pattern):
        model.run(**options)


def test_more_layers_than_can_be_recorded_are_refused_at_once():
    with pytest.raises(llmc.ConfigError, match="num_hidden_layers is 1000000000"):
        llmc.Model(llmc.Config(**{**CONFIG, "num_hidden_layers": 10**9}))


def test_what_belongs_to_another_model_is_refused(model):
    other = tiny_model(CONFIG, seed=1)
    run, theirs = model.run(2, 9, backward=True), other.run(2, 9, backward=True)
    with pytest.raises(llmc.ConfigError, match="same model"):
        model.run(2, 9, backward=True, gradients=theirs)
    theirs.forward_backward(IDS)
    with pytest.raises(llmc.ConfigError, match="another model"):
        llmc.AdamW(model).step(theirs)
    with pytest.raises(llmc.Error, match="no gradients"):
        llmc.AdamW(model).step(model.run(2, 9))
    with pytest.raises(llmc.Error, match="backward"):
        llmc.AdamW(model).step(run)
