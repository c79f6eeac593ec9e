"""Shards and their index: split as Hugging Face splits, found as it finds, and never followed out of the folder."""

import json
import os

import numpy as np
import pytest
from checkpoint_bytes import mapping, storage, tensor, torch_legacy, torch_zip
from conftest import require_peers

import llmc.checkpoint
from llmc.checkpoint.writing import parse_size
from llmc.errors import CheckpointError, ConfigError

SIX = np.arange(6, dtype=np.float32)
INDEX = "model.safetensors.index.json"


def tensors(sizes, seed=0):
    random = np.random.default_rng(seed)
    return {f"w{i}": random.normal(size=size).astype(np.float32) for i, size in enumerate(sizes)}


def files(folder):
    return sorted(os.listdir(folder))


def equal(folder, expected):
    with llmc.checkpoint.open(folder) as checkpoint:
        return set(checkpoint) == set(expected) and all(np.array_equal(checkpoint[n], expected[n]) for n in expected)


def sharded(folder, count=3):
    """`count` shards of one tensor each."""
    values = tensors([10] * count)
    llmc.checkpoint.write(folder, values, max_shard_size=40)
    return values


def rewrite(folder, change, name=INDEX):
    with open(folder / name) as file:
        index = json.load(file)
    change(index)
    with open(folder / name, "w") as file:
        json.dump(index, file)


@pytest.mark.parametrize(
    "sizes, limit, shards",
    [
        ([1, 1, 1], 100, [[0, 1, 2]]),
        ([2, 2, 2], 16, [[0, 1], [2]]),
        ([6, 6, 2, 6, 2, 2], 40, [[0], [1, 2], [3, 4, 5]]),
        ([1, 9, 1], 20, [[1], [0, 2]]),
        ([9, 9], 20, [[0], [1]]),
        ([5, 5], 20, [[0], [1]]),
        ([0, 5, 0], 20, [[0, 1, 2]]),
        ([9], 20, [[0]]),
    ],
)
def test_the_split_is_greedy_in_order_and_a_large_tensor_stands_alone(tmp_path, sizes, limit, shards):
    values = tensors(sizes)
    llmc.checkpoint.write(tmp_path, values, max_shard_size=limit)
    if len(shards) == 1:
        assert files(tmp_path) == ["model.safetensors"]
    else:
        names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
        assert files(tmp_path) == sorted([*names, INDEX])
        for name, members in zip(names, shards):
            assert sorted(llmc.checkpoint.open(tmp_path / name)) == [f"w{i}" for i in members]
    assert equal(tmp_path, values)


@pytest.mark.parametrize("size", ["1KB", "20KB", "0.05MB", "5GB", 30_000])
def test_files_are_those_that_transformers_writes_byte_for_byte(tmp_path, size):
    transformers = require_peers().transformers
    config = transformers.LlamaConfig(
        vocab_size=61, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = transformers.LlamaForCausalLM(config)
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    model.save_pretrained(theirs, max_shard_size=size)
    values = {name: value.numpy() for name, value in model.state_dict().items()}
    llmc.checkpoint.write(ours, values, max_shard_size=size)
    assert files(ours) == [name for name in files(theirs) if name.startswith("model")]
    for name in files(ours):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    assert equal(theirs, values)


def test_shards_in_bfloat16_open_in_transformers_with_the_bits_that_torch_would_round_to(tmp_path):
    peers = require_peers()
    config = peers.transformers.GPT2Config(
        vocab_size=61, n_positions=20, n_embd=24, n_layer=2, n_head=4, bos_token_id=None, eos_token_id=None
    )
    model = peers.transformers.GPT2LMHeadModel(config)
    config.save_pretrained(tmp_path)
    values = {name: value.numpy() for name, value in model.state_dict().items() if name != "lm_head.weight"}
    llmc.checkpoint.write(tmp_path, values, dtype="bfloat16", max_shard_size="5KB")
    loaded, info = peers.transformers.GPT2LMHeadModel.from_pretrained(
        tmp_path, dtype=peers.torch.bfloat16, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    for name, value in model.state_dict().items():
        assert peers.torch.equal(loaded.state_dict()[name], value.to(peers.torch.bfloat16)), name


def test_sharded_torch_files_are_read_zip_and_legacy(tmp_path):
    (tmp_path / "pytorch_model-00001-of-00002.bin").write_bytes(
        torch_zip(mapping({"a": tensor()}), {"0": SIX.tobytes()})
    )
    (tmp_path / "pytorch_model-00002-of-00002.bin").write_bytes(
        torch_legacy(mapping({"b": tensor(storage(legacy=True))}), {"0": (6, SIX.tobytes())})
    )
    weight_map = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": None, "weight_map": weight_map}))
    checkpoint = llmc.checkpoint.open(tmp_path)
    assert checkpoint["a"].tolist() == checkpoint["b"].tolist() == SIX.reshape(2, 3).tolist()
    assert os.path.basename(checkpoint.file("b")) == "pytorch_model-00002-of-00002.bin"


def test_the_first_of_hugging_faces_four_names_is_opened(tmp_path):
    names = ["pytorch_model.bin.index.json", "pytorch_model.bin", INDEX, "model.safetensors"]
    (tmp_path / "part.bin").write_bytes(torch_zip(mapping({"index of bin": tensor()}), {"0": SIX.tobytes()}))
    (tmp_path / names[0]).write_text(json.dumps({"weight_map": {"index of bin": "part.bin"}}))
    assert list(llmc.checkpoint.open(tmp_path)) == ["index of bin"]
    (tmp_path / names[1]).write_bytes(torch_zip(mapping({"bin": tensor()}), {"0": SIX.tobytes()}))
    assert list(llmc.checkpoint.open(tmp_path)) == ["bin"]
    llmc.checkpoint.write(tmp_path / "other", {"index": SIX})
    os.rename(tmp_path / "other" / "model.safetensors", tmp_path / "part.safetensors")
    (tmp_path / names[2]).write_text(json.dumps({"weight_map": {"index": "part.safetensors"}}))
    assert list(llmc.checkpoint.open(tmp_path)) == ["index"]
    assert list(llmc.checkpoint.open(tmp_path / names[2])) == ["index"]
    os.rename(tmp_path / "part.safetensors", tmp_path / names[3])
    assert list(llmc.checkpoint.open(tmp_path)) == ["index"]


def test_a_folder_without_weights_says_what_was_sought_and_what_is_there(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_text("{}")
    with pytest.raises(FileNotFoundError) as caught:
        llmc.checkpoint.open(tmp_path)
    for word in ("model.safetensors", "pytorch_model.bin.index.json", "adapter_model.safetensors, config.json"):
        assert word in str(caught.value)
    with pytest.raises(FileNotFoundError):
        llmc.checkpoint.open(tmp_path / "nowhere")


def test_links_of_a_hub_cache_are_followed_and_dead_ones_named(tmp_path):
    values = sharded(tmp_path / "blobs")
    os.mkdir(tmp_path / "snapshot")
    for name in os.listdir(tmp_path / "blobs"):
        os.symlink(tmp_path / "blobs" / name, tmp_path / "snapshot" / name)
    assert equal(tmp_path / "snapshot", values)
    os.remove(tmp_path / "blobs" / INDEX)
    with pytest.raises(FileNotFoundError, match="a link to .* which is not there"):
        llmc.checkpoint.open(tmp_path / "snapshot")


OUTSIDE = [
    "../model.safetensors", "a/../../model.safetensors", "/etc/model.safetensors", "C:model.safetensors",
    "C:\\model.safetensors", "..\\model.safetensors", "a\\model.safetensors", "\\\\host\\model.safetensors", "",
    "..", "a//model.safetensors", "model.safetensors/", "a\0.safetensors", "a\n.safetensors",
]


@pytest.mark.parametrize("place", OUTSIDE)
def test_an_index_that_points_outside_its_folder_is_refused(tmp_path, place):
    sharded(tmp_path)
    rewrite(tmp_path, lambda index: index["weight_map"].update(w1=place))
    with pytest.raises(CheckpointError, match="tensor 'w1' is placed in .* no place inside"):
        llmc.checkpoint.open(tmp_path)


@pytest.mark.parametrize("place", ["model-00001-of-00003.bin", "config.json", "weights", "x.safetensors.py"])
def test_an_index_that_points_to_another_kind_of_file_is_refused(tmp_path, place):
    sharded(tmp_path)
    rewrite(tmp_path, lambda index: index["weight_map"].update(w1=place))
    with pytest.raises(CheckpointError, match=r"not a \.safetensors file"):
        llmc.checkpoint.open(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "null", "{}", '{"weight_map": {}}', '{"weight_map": []}', '{"weight_map": null}',
        '{"weight_map": {"a": 1}}', '{"weight_map": {"a": null}}', '{"weight_map": {"a": ["b.safetensors"]}}',
        '{"weight_map": {"a": {}}}', "{",
        '{"weight_map": {"w0": "model-00001-of-00003.safetensors", "w0": "model-00001-of-00003.safetensors"}}',
        '{"weight_map": ' + "[" * 9999, "<html>", "version https://git-lfs.github.com/spec/v1", "\udcff", "{} {}",
    ],
)
def test_an_index_that_is_none_is_refused_by_name(tmp_path, text):
    sharded(tmp_path)
    (tmp_path / INDEX).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError) as caught:
        llmc.checkpoint.open(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / INDEX))


def test_a_missing_shard_is_named_with_a_tensor_that_needs_it(tmp_path):
    sharded(tmp_path)
    os.remove(tmp_path / "model-00002-of-00003.safetensors")
    with pytest.raises(FileNotFoundError, match=r"model-00002-of-00003.safetensors: .* 'w1' among them"):
        llmc.checkpoint.open(tmp_path)


def test_a_tensor_that_is_not_where_the_index_says_is_named_with_both_files(tmp_path):
    sharded(tmp_path)
    rewrite(tmp_path, lambda index: index["weight_map"].update(w9="model-00002-of-00003.safetensors"))
    with pytest.raises(CheckpointError, match="model-00002-of-00003.*: no tensor 'w9' in it.*index.json says so"):
        llmc.checkpoint.open(tmp_path)


def test_a_tensor_that_the_index_does_not_know_is_named_with_both_files(tmp_path):
    sharded(tmp_path)
    rewrite(tmp_path, lambda index: index["weight_map"].update(w1="model-00001-of-00003.safetensors"))
    with pytest.raises(CheckpointError, match="'w1'.*index.json"):
        llmc.checkpoint.open(tmp_path)
    llmc.checkpoint.write(tmp_path / "x", {"w0": SIX, "extra": SIX})
    sharded(tmp_path)
    os.replace(tmp_path / "x" / "model.safetensors", tmp_path / "model-00001-of-00003.safetensors")
    with pytest.raises(CheckpointError, match="tensor 'extra' is in it, though .*index.json does not place it there"):
        llmc.checkpoint.open(tmp_path)


def test_a_damaged_shard_is_named(tmp_path):
    sharded(tmp_path)
    path = tmp_path / "model-00003-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="model-00003-of-00003.safetensors: .* cut short"):
        llmc.checkpoint.open(tmp_path)


@pytest.mark.parametrize(
    "text, size",
    [("5GB", 5 * 10**9), ("1.5MB", 1_500_000), (" 10 kb ", 10_000), ("2TB", 2 * 10**12), (".5GB", 5 * 10**8), (7, 7)],
)
def test_sizes_are_decimal(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "size", ["", "5", "GB", "5GiB", "-5GB", "5 G B", "1e3GB", "infGB", "nanGB", "0GB", "5PB", "٥GB", 0, -1]
)
def test_a_size_that_is_none_is_refused_before_anything_is_written(tmp_path, size):
    with pytest.raises(ConfigError, match="max_shard_size"):
        llmc.checkpoint.write(tmp_path / "new", {"a": SIX}, max_shard_size=size)
    assert not os.path.exists(tmp_path / "new")


@pytest.mark.parametrize("size", [None, 1.5, True, b"5GB"])
def test_a_size_of_a_wrong_type_is_a_type_error(tmp_path, size):
    with pytest.raises(TypeError, match="max_shard_size"):
        llmc.checkpoint.write(tmp_path / "new", {"a": SIX}, max_shard_size=size)


@pytest.mark.parametrize("after", [40, 80, 10**6])
@pytest.mark.parametrize("before", [40, 80, 10**6])
def test_resaving_leaves_exactly_the_new_files_beside_what_is_not_weights(tmp_path, before, after):
    llmc.checkpoint.write(tmp_path, tensors([10] * 4, seed=1), max_shard_size=before)
    kept = {"config.json", "pytorch_model.bin", "model.fp16-00001-of-00002.safetensors", "adapter_model.bin"}
    for other in kept:
        (tmp_path / other).write_text("kept")
    values = tensors([10] * 4, seed=2)
    llmc.checkpoint.write(tmp_path, values, max_shard_size=after)
    llmc.checkpoint.write(tmp_path / "fresh", values, max_shard_size=after)
    assert set(files(tmp_path)) == {*files(tmp_path / "fresh"), *kept, "fresh"}
    for name in files(tmp_path / "fresh"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()


# Names


def aligned(in_file, in_model, tied=None):
    result = llmc.checkpoint.align(in_file, in_model, tied)
    return result.found, result.missing, result.surplus, result.dropped


@pytest.mark.parametrize(
    "in_file, in_model",
    [
        ("wte.weight", "transformer.wte.weight"),
        ("transformer.wte.weight", "wte.weight"),
        ("layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
        ("base_model.model.model.norm.weight", "model.norm.weight"),
        ("base_model.model.lm_head.weight", "lm_head.weight"),
        ("module.transformer.h.0.ln_1.weight", "transformer.h.0.ln_1.weight"),
        ("_orig_mod.model.norm.weight", "model.norm.weight"),
        ("h.0.ln_1.gamma", "transformer.h.0.ln_1.weight"),
        ("h.0.ln_1.beta", "transformer.h.0.ln_1.bias"),
    ],
)
def test_prefixes_and_old_spellings_do_not_count(in_file, in_model):
    assert aligned([in_file], [in_model]) == ({in_model: in_file}, [], [], [])


def test_old_buffers_are_dropped_and_biases_are_not():
    buffers = [
        "h.0.attn.bias", "h.11.attn.masked_bias", "model.layers.3.self_attn.rotary_emb.inv_freq", "position_ids",
        "model.rotary_emb.inv_freq", "bert.embeddings.position_ids",
    ]
    biases = ["h.0.attn.c_attn.bias", "h.0.mlp.c_fc.bias"]
    assert aligned([*buffers, *biases], biases) == ({name: name for name in biases}, [], [], buffers)
    assert aligned(["x.attn.bias"], ["x.attn.bias"]) == ({"x.attn.bias": "x.attn.bias"}, [], [], [])


TIED = {"lm_head.weight": "model.embed_tokens.weight"}
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


@pytest.mark.parametrize(
    "in_file, in_model, found, dropped",
    [
        ([EMBEDDING], [EMBEDDING], {EMBEDDING: EMBEDDING}, []),
        ([EMBEDDING, HEAD], [EMBEDDING], {EMBEDDING: EMBEDDING}, [HEAD]),
        ([HEAD], [EMBEDDING], {EMBEDDING: HEAD}, []),
        ([EMBEDDING], [EMBEDDING, HEAD], {EMBEDDING: EMBEDDING, HEAD: EMBEDDING}, []),
        ([EMBEDDING, HEAD], [EMBEDDING, HEAD], {EMBEDDING: EMBEDDING, HEAD: HEAD}, []),
        (["embed_tokens.weight"], [EMBEDDING, HEAD], dict.fromkeys((EMBEDDING, HEAD), "embed_tokens.weight"), []),
    ],
)
def test_either_name_of_a_tied_head_stands_for_both(in_file, in_model, found, dropped):
    assert aligned(in_file, in_model, TIED) == (found, [], [], dropped)


def test_an_untied_head_must_be_there():
    assert aligned([EMBEDDING], [EMBEDDING, HEAD])[1] == [HEAD]
    assert aligned([EMBEDDING, HEAD], [EMBEDDING])[2] == [HEAD]


def test_missing_and_surplus_tensors_are_named_with_the_nearest_names():
    result = llmc.checkpoint.align(["model.norm.wieght", "score.weight"], ["model.norm.weight"])
    assert result.missing == ["model.norm.weight"] and result.surplus == ["model.norm.wieght", "score.weight"]
    with pytest.raises(CheckpointError) as caught:
        result.check("dir/model.safetensors")
    message = str(caught.value)
    assert message.startswith("dir/model.safetensors: ")
    assert "missing 'model.norm.weight' (nearest: model.norm.wieght" in message and "'score.weight'" in message
    assert llmc.checkpoint.align(["a"], ["a"]).check("x") is None


def test_two_tensors_for_one_place_are_refused_unless_one_is_exact():
    with pytest.raises(CheckpointError, match="both 'norm.weight' and 'module.norm.weight'"):
        llmc.checkpoint.align(["norm.weight", "module.norm.weight"], ["model.norm.weight"])
    found, missing, surplus, _ = aligned(["model.norm.weight", "norm.weight"], ["model.norm.weight"])
    assert (found, missing, surplus) == ({"model.norm.weight": "model.norm.weight"}, [], ["norm.weight"])
