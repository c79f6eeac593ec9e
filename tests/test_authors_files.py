"""The files of LIMe's authors: read wherever names are understood, written when asked, no LLaMA's."""

import json
import tracemalloc
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from conftest import TINY
from test_identities import assert_same
from tiny import random_ids

import llmc
from llmc.checkpoint import align, piece_of
from llmc.errors import CheckpointError, ConfigError, ShapeError
from llmc.families import authors, row, rows

LIME = {**TINY["llama"], "model_type": "lime"}
G, D, C, H = 2, 10, 44, 4
KV = "model.layers.{}.self_attn.kv_proj_weight"


def fused(weights, layer):
    """Keys and values as the authors' code has them: output j·G + g, keys before values."""
    out = np.empty((2 * D * G, C), np.float32)
    for half, part in enumerate("kv"):
        own = weights[f"model.layers.{layer}.self_attn.{part}_proj.weight"]
        for g in range(G):
            for j in range(D):
                out[(half * D + j) * G + g] = own[g * D + j]
    return out


def theirs(model, prefix=""):
    """A LIMe's tensors in the authors' spelling, by the definition."""
    weights = model.state_dict()
    kept = {name: array for name, array in weights.items() if "k_proj" not in name and "v_proj" not in name}
    kept |= {KV.format(layer): fused(weights, layer) for layer in range(model.config.num_hidden_layers)}
    return {prefix + name: array for name, array in kept.items()}


@pytest.fixture(scope="module")
def model():
    return llmc.Model(llmc.Config(**LIME), seed=4)


def written(folder, tensors, config, **options):
    llmc.checkpoint.write(folder, tensors, **options)
    config.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module."])
def test_their_files_open_as_the_same_model(model, tmp_path, prefix):
    opened = llmc.Model.from_pretrained(written(tmp_path, theirs(model, prefix), model.config))
    assert_same(opened.state_dict(), model.state_dict())
    ids = random_ids(LIME, 2, 9)
    assert_same(opened(ids), model(ids))


def test_their_files_open_with_a_config_in_the_place_of_theirs(model, tmp_path):
    plain = llmc.Config(**TINY["llama"])
    written(tmp_path, theirs(model, "_orig_mod."), plain)
    with pytest.raises(CheckpointError, match="model_type is llama, but '_orig_mod.*of lime.*config="):
        llmc.Model.from_pretrained(tmp_path)
    assert_same(llmc.Model.from_pretrained(tmp_path, config=model.config).state_dict(), model.state_dict())


def test_lime_s_weights_are_not_taken_for_those_of_a_llama(model, tmp_path):
    written(tmp_path, model.state_dict(), llmc.Config(**TINY["llama"]))
    with pytest.raises(CheckpointError, match="model_type is llama, but .*lime_router.*are of lime"):
        llmc.Model.from_pretrained(tmp_path)
    for tensors in (model.state_dict(), theirs(model)):
        with pytest.raises(CheckpointError, match="load_state_dict: model_type is llama, but .* are of lime"):
            llmc.Model(llmc.Config(**TINY["llama"])).load_state_dict(tensors)


def test_a_lime_of_one_layer_is_not_taken_for_a_llama_either(tmp_path):
    one = llmc.Model(llmc.Config(**{**LIME, "num_hidden_layers": 1}))
    written(tmp_path, theirs(one), llmc.Config(**{**TINY["llama"], "num_hidden_layers": 1}))
    with pytest.raises(CheckpointError, match="model_type is llama, but .*kv_proj_weight'"):
        llmc.Model.from_pretrained(tmp_path)


def test_other_families_names_are_said_too(tmp_path):
    other = llmc.Model(llmc.Config(**TINY["gpt2"]))
    written(tmp_path, other.state_dict(), llmc.Config(**TINY["llama"]))
    with pytest.raises(CheckpointError, match="model_type is llama, but 'transformer.* are of gpt2"):
        llmc.Model.from_pretrained(tmp_path)


def test_a_state_dict_of_theirs_is_taken(model):
    other = llmc.Model(llmc.Config(**LIME), seed=9)
    other.load_state_dict(theirs(model))
    assert_same(other.state_dict(), model.state_dict())
    narrow = {name: array.astype(ml_dtypes.bfloat16) for name, array in theirs(model).items()}
    other.load_state_dict(narrow)
    assert_same(other.state_dict(), {name: array.astype(ml_dtypes.bfloat16).astype(np.float32)
                                     for name, array in model.state_dict().items()})  # fmt: skip


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_narrow_weights_are_read_from_theirs_as_from_ours(model, tmp_path, dtype):
    model.save_pretrained(tmp_path / "ours")
    model.save_pretrained(tmp_path / "theirs", names="authors")
    found = [llmc.Model.from_pretrained(tmp_path / whose, dtype=dtype).state_dict() for whose in ("ours", "theirs")]
    assert_same(*found)


@pytest.mark.parametrize("options", [{}, {"max_shard_size": 20_000}], ids=["one file", "shards"])
def test_written_for_them_it_is_theirs_and_opens_as_before(model, tmp_path, options):
    model.save_pretrained(tmp_path, names="authors", **options)
    with llmc.checkpoint.open(tmp_path) as files:
        assert (len(files.files) > 1) == bool(options)
        assert_same({name: files[name] for name in files}, theirs(model))
    opened = llmc.Model.from_pretrained(tmp_path)
    assert opened.config == model.config and json.loads((tmp_path / "config.json").read_text())["model_type"] == "lime"
    assert_same(opened.state_dict(), model.state_dict())


def test_a_family_whose_authors_have_no_other_names_is_written_alike(tmp_path):
    llama = llmc.Model(llmc.Config(**TINY["llama"]))
    for names in ("llmc", "authors"):
        llama.save_pretrained(tmp_path / names, names=names)
    assert len({(tmp_path / names / "model.safetensors").read_bytes() for names in ("llmc", "authors")}) == 1
    with pytest.raises(ConfigError, match="names is 'theirs', not one of llmc, authors"):
        llama.save_pretrained(tmp_path, names="theirs")


@pytest.mark.parametrize("change, error, words", [
    (lambda t: t | {KV.format(1): t[KV.format(1)][:-1]}, ShapeError, r"kv_proj_weight.*\(39, 44\).*\(40, 44\)"),
    (lambda t: t | {KV.format(1): t[KV.format(1)].reshape(2, 20, 44)}, ShapeError, r"kv_proj_weight.*\(2, 20, 44\)"),
    (lambda t: {name: array for name, array in t.items() if name != KV.format(2)}, CheckpointError,
     "missing 'model.layers.2.self_attn.k_proj.weight'"),
    (lambda t: t | {"model.layers.0.self_attn.k_proj.weight": np.zeros((20, 44), np.float32)}, CheckpointError,
     "surplus 'model.layers.0.self_attn.kv_proj_weight'|could be the model's"),
    (lambda t: t | {"_orig_mod." + KV.format(0): t[KV.format(0)]}, CheckpointError, "could be the model's"),
])  # fmt: skip
def test_files_that_are_not_theirs_are_refused_in_words(model, tmp_path, change, error, words):
    tensors = change(theirs(model))
    other = llmc.Model(llmc.Config(**LIME), seed=9)
    before = {name: array.copy() for name, array in other.state_dict().items()}
    with pytest.raises(error, match=words):
        other.load_state_dict(tensors)
    assert_same(other.state_dict(), before)
    with pytest.raises(error, match=words):
        llmc.Model.from_pretrained(written(tmp_path, tensors, model.config))


def test_reading_theirs_takes_one_tensor_beside_the_model(tmp_path):
    large = {**LIME, "hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 64,
             "vocab_size": 16, "intermediate_size": 16}  # fmt: skip
    llmc.Model(llmc.Config(**large)).save_pretrained(tmp_path, names="authors")
    largest = 2 * 1024 * 1024 * 4
    tracemalloc.start()
    try:
        llmc.Model.from_pretrained(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 2.2 * largest  # of the file, and what is cut from it
    finally:
        tracemalloc.stop()


def test_align_says_which_of_theirs_holds_which_of_ours(model):
    names = [f"_orig_mod.{name}" for name in theirs(model)]
    found = align(names, model.state_dict())
    assert not (found.missing or found.surplus or found.dropped)
    for place, part in enumerate("kv"):
        ours = f"model.layers.1.self_attn.{part}_proj.weight"
        assert found.found[ours] == f"_orig_mod.{KV.format(1)}"
        assert piece_of(found.found[ours], ours, authors.LIME) == (authors.LIME[0], place)
    assert piece_of("_orig_mod.model.norm.weight", "model.norm.weight", authors.LIME) is None
    assert align([KV.format(0)], ["model.norm.weight"]).surplus == [KV.format(0)]


# --- version 1: its layouts, in a family that has its shapes


@pytest.fixture
def first_version():
    """A LLaMA whose authors' files are those of version 1, for the time of a test."""
    llmc.families.add(replace(rows()["llama"], model_type="first", files=authors.LIME1))
    yield {**TINY["llama"], "model_type": "first", "num_key_value_heads": H}
    del row._ROWS["first"]


def first_theirs(model):
    tensors = {}
    for name, array in model.state_dict().items():
        layer = int(name.split(".")[2]) if ".layers." in name else 0
        if layer and "q_proj" in name:
            name = name.replace("q_proj", "q_proj_default")
        elif layer and ("k_proj" in name or "v_proj" in name):
            name = name.replace("_proj.weight", "_proj_lime.lime_kv_proj")
            heads = np.empty((1, H, C, D), np.float32)
            for h in range(H):
                for d in range(D):
                    heads[0, h, :, d] = array[h * D + d]
            array = heads
        tensors[name] = array
    return tensors


def test_the_layouts_of_version_1_are_read_and_written(first_version, tmp_path):
    model = llmc.Model(llmc.Config(**first_version), seed=3)
    buffers = {f"model.layers.{layer}.attention_router.top_p_weights": np.ones((H, layer + 1), np.float32)
               for layer in (1, 2)}  # fmt: skip
    tensors = {f"_orig_mod.{name}": array for name, array in (first_theirs(model) | buffers).items()}
    opened = llmc.Model.from_pretrained(written(tmp_path / "theirs", tensors, model.config))
    assert_same(opened.state_dict(), model.state_dict())
    opened.load_state_dict(first_theirs(model))
    assert align(tensors, model.state_dict()).dropped == [f"_orig_mod.{name}" for name in buffers]
    model.save_pretrained(tmp_path / "written", names="authors")
    with llmc.checkpoint.open(tmp_path / "written") as files:
        assert_same({name: files[name] for name in files}, first_theirs(model))
    assert_same(llmc.Model.from_pretrained(tmp_path / "written").state_dict(), model.state_dict())
    broken = tensors | {"_orig_mod.model.layers.1.self_attn.k_proj_lime.lime_kv_proj": np.zeros((H, C, D), np.float32)}
    with pytest.raises(ShapeError, match=r"k_proj_lime.lime_kv_proj has shape \(4, 44, 10\), .* \(1, 4, 44, 10\)"):
        llmc.Model.from_pretrained(written(tmp_path / "broken", broken, model.config))


@pytest.mark.parametrize("family", ["lime1-static", "lime1-dynamic"])
def test_models_of_version_1_are_written_and_read(family, tmp_path):
    model = llmc.Model(llmc.Config(**{**TINY["llama"], "model_type": family, "num_key_value_heads": H}), seed=3)
    model.save_pretrained(tmp_path, names="authors")
    with llmc.checkpoint.open(tmp_path) as files:
        assert_same({name: files[name] for name in files}, first_theirs(model))
    assert_same(llmc.Model.from_pretrained(tmp_path).state_dict(), model.state_dict())
    llmc.Config(**TINY["llama"] | {"num_key_value_heads": H}).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="model_type is llama.*lime1-"):
        llmc.Model.from_pretrained(tmp_path)
