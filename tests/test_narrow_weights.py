"""Weights stored as bfloat16 or int8: what they hold, that they compute as a float32 model holding the same numbers
does, and what is refused."""

import re

import ml_dtypes
import numpy as np
import pytest
from conftest import TINY, TOLERANCE
from tiny import DoubleModel, close, close_relative, random_ids

import llmc
from llmc import _core

NARROW = ("bfloat16", "int8")
GROUPS = {**TINY["llama"], "hidden_size": 132, "intermediate_size": 70}  # more than one group, the last one shorter
LONG = {**TINY["llama"], "hidden_size": 4170, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8,
        "vocab_size": 259}  # the head's rows lie far apart
IN_OUT = {**TINY["gpt2"], "n_embd": 129, "n_inner": 67}
each_dtype = pytest.mark.parametrize("dtype", NARROW)


def twin(model, cls=llmc.Model, **options):
    """A float32 model that holds the same numbers."""
    wide = cls(model.config, **{"precision": "float32", **options})
    wide.load_state_dict(model.state_dict())
    return wide


def rounded_to_int8(weight, inputs_first):
    """The definition, a group at a time: numbers times scales."""
    weight = weight.T if inputs_first else weight
    out = np.empty_like(weight)
    for first in range(0, weight.shape[1], 64):
        group = weight[:, first : first + 64]
        scale = np.abs(group).max(axis=1, keepdims=True) / np.float32(127)
        out[:, first : first + 64] = np.rint(group / scale) * scale
    return out.T if inputs_first else out


def test_bfloat16_holds_every_matrix_rounded_to_nearest(family):
    config = llmc.Config(**TINY[family])
    wide, narrow = llmc.Model(config, seed=3).state_dict(), llmc.Model(config, seed=3, dtype="bfloat16").state_dict()
    for name, array in narrow.items():
        assert array.dtype == (ml_dtypes.bfloat16 if array.ndim == 2 else np.float32) and array.flags.writeable
        np.testing.assert_array_equal(array, wide[name].astype(array.dtype))


@pytest.mark.parametrize("config", [*TINY.values(), GROUPS, IN_OUT], ids=[*TINY, "groups", "groups of rows"])
def test_int8_holds_linears_and_head_with_a_scale_for_64_inputs(config):
    config = llmc.Config(**config)
    model = llmc.Model(config, seed=3, dtype="int8")
    wide, narrow = llmc.Model(config, seed=3).state_dict(), model.state_dict()
    tables = {f"{model._model.embedding_name}.weight", "transformer.wpe.weight", "transformer.positions_embed.weight"}
    for name, array in narrow.items():
        if array.ndim == 1:
            expected = wide[name]
        elif name in tables and not (config.tie_word_embeddings and "pos" not in name and "wpe" not in name):
            expected = wide[name].astype(ml_dtypes.bfloat16)
        else:
            assert not array.flags.writeable
            expected = rounded_to_int8(wide[name], model._model.in_out and ".h." in name)
        np.testing.assert_array_equal(array, expected, err_msg=name)


@each_dtype
@pytest.mark.parametrize(
    "config", [*TINY.values(), GROUPS, IN_OUT, LONG], ids=[*TINY, "groups", "groups of rows", "long rows"]
)
def test_narrow_weights_compute_as_a_float32_model_that_holds_their_numbers(config, dtype):
    model = llmc.Model(llmc.Config(**config), seed=1, dtype=dtype, precision="float32")
    wide = twin(model)
    for shape in ((1, 1), (1, 3), (1, 5), (3, 17)):
        ids = random_ids(config, *shape)
        close(model(ids), wide(ids), TOLERANCE["logits"])  # int8 sums a group before it scales
        assert abs(model.loss(random_ids(config, 2, 9)) - wide.loss(random_ids(config, 2, 9))) < TOLERANCE["loss"]


@each_dtype
@pytest.mark.parametrize("config", [*TINY.values(), GROUPS, IN_OUT], ids=[*TINY, "groups", "groups of rows"])
def test_narrow_weights_with_bfloat16_products_stay_close_to_float32_ones(config, dtype):
    small = llmc.Config(**{**config, "initializer_range": 0.02})
    model, exact = llmc.Model(small, dtype=dtype), llmc.Model(small, dtype=dtype, precision="float32")
    for length in (1, 6, 7):  # few rows are multiplied in another way than many
        ids = random_ids(config, 1, length)
        close(model(ids), exact(ids), 0.01 * np.abs(exact(ids)).max())
    assert model.generate(ids, max_new_tokens=9).shape == (1, 16)


@each_dtype
def test_the_double_core_reads_narrow_weights_too(family, dtype):
    model = DoubleModel(llmc.Config(**TINY[family]), dtype=dtype, precision="float32")
    ids = random_ids(TINY[family], 2, 9)
    close(model(ids), twin(model, DoubleModel)(ids), TOLERANCE["double"])


@each_dtype
def test_generation_with_narrow_weights_is_the_same_without_a_cache(family, dtype):
    model = llmc.Model(llmc.Config(**TINY[family]), dtype=dtype, precision="float32")
    ids = random_ids(TINY[family], 2, 11)
    mask = np.ones_like(ids)
    mask[0, :4] = 0
    with_cache = model.generate(ids, mask, max_new_tokens=12)
    np.testing.assert_array_equal(with_cache, model.generate(ids, mask, max_new_tokens=12, use_cache=False))
    np.testing.assert_array_equal(with_cache, twin(model).generate(ids, mask, max_new_tokens=12))


def test_products_are_bfloat16_for_narrow_weights_unless_told_otherwise():
    config = llmc.Config(**TINY["llama"])
    assert llmc.Model(config).precision == "float32"
    assert all(llmc.Model(config, dtype=dtype).precision == "bfloat16" for dtype in NARROW)
    assert llmc.Model(config, dtype="int8", precision="float32").precision == "float32"


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
@each_dtype
def test_a_checkpoint_opens_narrow_as_if_rounded_afterwards(tmp_path, family, dtype, stored):
    whole = llmc.Model(llmc.Config(**TINY[family]), seed=2)
    whole.save_pretrained(tmp_path, dtype=stored)
    opened, expected = llmc.Model.from_pretrained(tmp_path, dtype=dtype), llmc.Model(whole.config, dtype=dtype)
    expected.load_state_dict(llmc.Model.from_pretrained(tmp_path).state_dict())
    for name, array in expected.state_dict().items():
        np.testing.assert_array_equal(opened.state_dict()[name], array)


@each_dtype
def test_narrow_weights_are_saved_exactly(tmp_path, family, dtype):
    model = llmc.Model(llmc.Config(**TINY[family]), dtype=dtype)
    model.save_pretrained(tmp_path)
    for name, array in llmc.Model.from_pretrained(tmp_path).state_dict().items():
        np.testing.assert_array_equal(array, model.state_dict()[name])


def test_a_bfloat16_view_is_written_through():
    model = llmc.Model(llmc.Config(**TINY["llama"]), dtype="bfloat16")
    ids = random_ids(TINY["llama"], 1, 7)
    before = model(ids)
    model.state_dict()["lm_head.weight"][...] = 0
    assert np.abs(before).max() > 0 and not model(ids).any()


def test_a_group_that_is_not_finite_shows():
    model = llmc.Model(llmc.Config(**GROUPS), dtype="int8")
    tensors = {name: np.array(array, dtype=np.float32) for name, array in model.state_dict().items()}
    tensors["lm_head.weight"][3, 70] = np.inf
    model.load_state_dict(tensors)
    broken = np.isnan(model.state_dict()["lm_head.weight"])
    assert broken[3, 64:128].all() and broken.sum() == 64
    with pytest.raises(llmc.NonFiniteError, match="not finite"):
        model.generate([[1, 2]], max_new_tokens=1)


def test_a_group_of_zeros_stays_zero():
    model = llmc.Model(llmc.Config(**GROUPS), dtype="int8")
    model.load_state_dict({name: np.zeros(array.shape, np.float32) for name, array in model.state_dict().items()})
    assert not any(array.any() for array in model.state_dict().values())


def test_the_estimate_counts_the_narrow_bytes():
    config = llmc.Config(**{**GROUPS, "hidden_size": 512, "intermediate_size": 1024, "head_dim": 128})
    wide, half, byte = (llmc.Model(config, dtype=dtype).estimate()["parameters"] for dtype in ("float32", *NARROW))
    assert 0.5 <= half / wide < 0.51 and 0.26 < byte / wide < 0.29


@each_dtype
def test_narrow_weights_are_not_trained(dtype):
    model = llmc.Model(llmc.Config(**TINY["llama"]), dtype=dtype)
    with pytest.raises(llmc.ConfigError, match=f"stored as {dtype} are not trained: load with dtype='float32'"):
        llmc.AdamW(model)


@each_dtype
def test_adapters_on_narrow_weights_train_as_on_their_float32_twin(family, dtype):
    model = llmc.Model(llmc.Config(**TINY[family]), dtype=dtype, precision="float32")
    ids, wide = random_ids(TINY[family], 2, 9), twin(model)
    stored = model.state_dict()
    for each in (model, wide):
        each.add_adapter(llmc.LoraConfig(r=3, lora_alpha=6, target_modules="all-linear"))
        run, optimizer = each.run(2, 9, backward=True), llmc.AdamW(each, lr=1e-2)
        for _ in range(3):
            run.forward_backward(ids)
            optimizer.step(run)
        run.forward_backward(ids)
    close(model(ids), wide(ids), TOLERANCE["logits"])
    ours, theirs = model.run(2, 9, backward=True), wide.run(2, 9, backward=True)
    for run in (ours, theirs):
        run.forward_backward(ids)
    for name in model._model.adapter_parameters("default"):
        close_relative(ours.grad(name), theirs.grad(name), TOLERANCE["gradient"], name)
    with pytest.raises(llmc.UnknownNameError, match="frozen"):
        ours.grad(f"{model._model.embedding_name}.weight")
    for name, array in stored.items():
        np.testing.assert_array_equal(array, model.state_dict()[name])


def test_an_adapter_copies_narrow_embeddings_as_float32():
    for dtype in NARROW:
        model = llmc.Model(llmc.Config(**TINY["llama"]), dtype=dtype)
        model.add_adapter(llmc.LoraConfig(r=2, target_modules="attention", modules_to_save=["embed_tokens"]))
        copy = model._model.adapter_parameters("default")["model.embed_tokens.lora_copy.default.weight"]
        np.testing.assert_array_equal(copy, model.state_dict()["model.embed_tokens.weight"].astype(np.float32))


def with_an_adapter(dtype):
    config = llmc.Config(**{**TINY["llama"], "initializer_range": 0.02})
    model = llmc.Model(config, dtype=dtype, precision="float32")
    model.add_adapter(llmc.LoraConfig(r=2, target_modules="attention"))
    for array in model._model.adapter_parameters("default").values():
        array += 0.02 * np.random.default_rng(0).standard_normal(array.shape)
    return model


def test_merging_into_bfloat16_prints_what_rounding_lost(capsys):
    model, ids = with_an_adapter("bfloat16"), random_ids(TINY["llama"], 2, 9)
    attached = model(ids)
    model.merge_and_unload()
    assert re.search(r"merged into bfloat16 weights: rounding loses [\d.]+ % of what", capsys.readouterr().out)
    close(model(ids), attached, 2e-2)


def test_merging_into_int8_is_refused_in_words():
    model, ids = with_an_adapter("int8"), random_ids(TINY["llama"], 2, 9)
    attached = model(ids)
    with pytest.raises(llmc.ConfigError, match="int8.*keep it attached"):
        model.merge_and_unload()
    np.testing.assert_array_equal(model(ids), attached)


def test_an_unknown_dtype_is_refused_in_words():
    with pytest.raises(llmc.ConfigError, match="'float32', 'bfloat16' or 'int8'"):
        llmc.Model(llmc.Config(**TINY["llama"]), dtype="float16")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("dtype", ["float32", *NARROW])
@pytest.mark.parametrize("config", [GROUPS, IN_OUT])
def test_rows_have_the_same_logits_in_a_large_batch(config, dtype, precision):
    """In a batch this large the tiles of a product share one packed weight; a row alone packs its own."""
    model = llmc.Model(llmc.Config(**config), dtype=dtype, precision=precision)
    ids = random_ids(config, 8, 60)
    together, alone = model(ids), np.concatenate([model(row[None]) for row in ids])
    if _core.info()["gemm"] == "own" or precision == "bfloat16" and _core.info()["bfloat16"]:
        np.testing.assert_array_equal(together, alone)
    else:
        close(together, alone, TOLERANCE["company"])


@pytest.mark.parametrize("strange", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_shows_in_products_of_few_rows_with_int8(strange):
    model = llmc.Model(llmc.Config(**GROUPS), dtype="int8")
    ids = random_ids(GROUPS, 1, 2)
    assert np.isfinite(model(ids)).all()
    model.state_dict()["model.norm.weight"][131] = strange
    assert not np.isfinite(model(ids)).any()


def test_numbers_of_any_size_meet_int8_in_products_of_few_rows():
    model = llmc.Model(llmc.Config(**GROUPS), dtype="int8")
    ids = random_ids(GROUPS, 1, 2)
    usual = model(ids)
    for size in (0, 1e-20, 1e20):
        model.state_dict()["model.norm.weight"][...] = size
        close(model(ids), usual * np.float32(size), 0.01 * np.abs(usual).max() * size)
