"""Which tensor is which: renamed, tied, fused, split, transposed, reshaped, resized; sides, adapters and bad input."""

import json
import os

import numpy as np
import pytest
from conftest import TINY
from test_diff import QUERY, UP, copied, llama, numbers, written
from tiny import tiny_model

import llmc
from llmc.checkpoint import diff

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def fused(tensors):
    """The same with q, k, v and gate, up in one."""
    made = copied(tensors)
    for layer in range(2):
        at = f"model.layers.{layer}"
        for whole, pieces in (("self_attn.qkv_proj", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
                              ("mlp.gate_up_proj", ("mlp.gate_proj", "mlp.up_proj"))):
            made[f"{at}.{whole}.weight"] = np.concatenate([made.pop(f"{at}.{piece}.weight") for piece in pieces])
    return made


# --- counterparts ----------------------------------------------------------------------------------------------------
def test_names_without_what_wrappers_add_are_one():
    tuned = {name.replace("model.", "base_model.model.model.", 1): array for name, array in llama().items()}
    found = diff(llama(), tuned)
    assert {row["status"] for row in found.rows} == {"identical"}
    assert found[UP]["structure"] == ["renamed"] and found[HEAD]["structure"] == []
    assert found[f"base_model.model.{UP}"] is found[UP]
    assert (found.summary["looks_like"], found.summary["structure"]) == ("storage", {"renamed": 20})
    old = {name.replace("norm.weight", "norm.gamma"): array for name, array in llama().items()}
    assert diff(llama(), old)["model.norm.weight"]["tuned_name"] == "model.norm.gamma"


def test_rename_comes_first():
    base = {"a.0.weight": numbers(4, 4), "b.0.weight": numbers(4, 4, seed=1)}
    tuned = {"a.0.weight": base["b.0.weight"], "c.0.weight": base["a.0.weight"]}
    found = diff(base, tuned, rename={r"^a\.": "c.", r"^b\.": "a."})
    assert [row["tuned_name"] for row in found.rows] == ["c.0.weight", "a.0.weight"]
    assert {row["status"] for row in found.rows} == {"identical"}
    assert diff(base, tuned)["a.0.weight"]["status"] == "changed"


@pytest.mark.parametrize("way", ["fused", "split"])
def test_pieces_of_a_fused_tensor_are_compared_each(way):
    sides = [llama(), fused(llama())]
    changed = sides[way == "fused"]
    name = "model.layers.1.self_attn.qkv_proj.weight" if way == "fused" else "model.layers.1.self_attn.k_proj.weight"
    changed[name] = changed[name].copy()
    changed[name][24 if way == "fused" else 0] += 1
    found = diff(*(sides if way == "fused" else sides[::-1]))
    assert found.summary["structure"] == {way: 10} and not found.summary["missing"] + found.summary["extra"]
    key, piece = "model.layers.1.self_attn.k_proj.weight", "model.layers.1.self_attn.qkv_proj.weight[24:36]"
    row = found[key]
    assert (row["name"], row["tuned_name"]) == ((key, piece) if way == "fused" else (piece, key))
    assert row is found[piece] and row["structure"] == [way] and row["base_shape"] == row["tuned_shape"] == [12, 24]
    assert (row["changed"], row["max_at"][0], row["part"]) == (24, 0, row["name"].split(".", 3)[3].rpartition(".w")[0])
    assert found.summary["changed"] == 1


def test_a_head_that_one_side_stores_is_compared_with_the_others_embedding():
    base = llama()
    base[HEAD] = base[EMBED] + numbers(50, 24, seed=7, scale=0.01)
    tuned = copied(base)
    tuned.pop(HEAD)
    found = diff(base, tuned)
    row = found[HEAD]
    assert (row["name"], row["tuned_name"], row["structure"]) == (HEAD, EMBED, ["tied"])
    assert row["status"] == "changed" and found[EMBED]["status"] == "identical"
    assert found.summary["delta_norm"] == 0  # a tied copy counts once
    row = diff(tuned, base)[HEAD]
    assert (row["name"], row["tuned_name"], row["structure"], row["role"]) == (HEAD, HEAD, ["tied"], "head")
    assert diff(tuned, base).rows[-1]["name"] == HEAD


def test_tensors_that_hold_the_same_are_found_over_all_layers():
    base = {f"blocks.{i}.{name}.weight": numbers(*shape, seed=10 * i + len(name))
            for i in range(3) for name, shape in (("up", (30, 20)), ("down", (20, 30)), ("out", (20, 20)))}
    names = {"up": "fc.first", "down": "fc.second", "out": "attention.dense"}
    tuned = {}
    for name, array in base.items():
        _, i, which, _ = name.split(".")
        tuned[f"h.{i}.{names[which]}.weight"] = array.T + numbers(*array.T.shape, seed=3, scale=0.01)
    found = diff(base, tuned)
    assert {row["status"] for row in found.rows} == {"changed"}
    assert found["blocks.2.up.weight"]["tuned_name"] == "h.2.fc.first.weight"
    assert found["blocks.1.down.weight"]["structure"] == ["renamed", "transposed"]
    assert found["blocks.1.out.weight"]["structure"] == ["renamed", "transposed"]  # a square one, by its numbers
    assert max(row["relative_change"] for row in found.rows) < 0.02
    assert len(found.notes) == 6  # one for all layers
    del tuned["h.2.fc.first.weight"]
    assert diff(base, tuned)["blocks.0.up.weight"]["status"] == "missing"  # the numbers between the dots must agree


def test_of_counterparts_that_are_nearly_as_good_none_is_taken_and_of_equal_ones_the_first():
    base = {"a.0.weight": numbers(9, 7)}
    near = {f"{name}.0.weight": base["a.0.weight"] + numbers(9, 7, seed=i, scale=0.02)
            for i, name in enumerate("xy", 1)}
    assert diff(base, near).summary["missing"] == 1
    same = {f"{name}.0.weight": base["a.0.weight"].copy() for name in "yx"}
    assert diff(base, same)["a.0.weight"]["tuned_name"] == "y.0.weight"
    assert diff(base, {"x.0.weight": numbers(9, 7, seed=1)}).notes[0].startswith("nothing has a counterpart")


def test_square_matrices_are_transposed_where_their_numbers_say_so():
    tuned = copied(llama())
    tuned[QUERY] = tuned[QUERY].T.copy()
    row = diff(llama(), tuned)[QUERY]
    assert (row["status"], row["structure"], row["tuned_shape"]) == ("identical", ["transposed"], [24, 24])


def test_other_shapes_of_the_same_numbers_are_reshaped():
    row = diff({"x": numbers(4, 6)}, {"x": numbers(4, 6).reshape(2, 2, 6)})["x"]
    assert (row["status"], row["structure"], row["tuned_shape"]) == ("identical", ["reshaped"], [2, 2, 6])


def test_a_grown_vocabulary_is_compared_as_far_as_both_have_it():
    tuned = copied(llama())
    tuned[EMBED] = np.concatenate([tuned[EMBED], numbers(7, 24)])
    tuned[EMBED][3] += 1
    found = diff(llama(), tuned)
    row = found[EMBED]
    assert (row["structure"], row["added"], row["numbers"], row["changed"]) == (["resized"], [7, 0], 50 * 24, 24)
    assert (row["units"], [unit["index"] for unit in row["moved"]]) == (50, [3])
    shrunk = diff(tuned, llama())[EMBED]
    assert (shrunk["added"], shrunk["numbers"]) == ([-7, 0], 50 * 24)
    wider = diff({"x": numbers(4, 6)}, {"x": np.concatenate([numbers(4, 6), numbers(4, 2)], 1)})["x"]
    assert (wider["status"], wider["added"], wider["numbers"]) == ("identical", [0, 2], 24)


def test_what_shares_nothing_is_incomparable():
    for base, tuned in ((numbers(4, 6), numbers(5, 7)), (numbers(4, 6), numbers(4)), (numbers(4), np.arange(4))):
        found = diff({"x": base}, {"x": tuned})
        assert found["x"]["status"] == "incomparable" and found["x"]["numbers"] is None
        assert found.summary["looks_like"] == "other-structure" and found.notes


def test_whole_numbers_are_compared_with_whole_numbers():
    row = diff({"x": np.arange(6)}, {"x": np.arange(6, dtype=np.int32) + 2})["x"]
    assert (row["status"], row["max_abs"], row["rounding_floor"]) == ("changed", 2.0, None)


def test_old_buffers_have_rows_and_count_in_nothing_else():
    base = llama() | {"model.layers.0.self_attn.rotary_emb.inv_freq": numbers(3)}
    found = diff(base, llama())
    assert found.rows[-1]["role"] == "buffer" and found.rows[-1]["status"] == "missing"
    assert found.summary["looks_like"] == "identical" and found.summary["tensors"] == len(llama()) and not found.notes


def test_match_takes_names_of_either_side():
    tuned = {name.replace("model.", "m.", 1): array for name, array in llama().items()}
    assert [row["name"] for row in diff(llama(), tuned, match="m.layers.0.mlp.up*").rows] == [
        "model.layers.0.mlp.up_proj.weight"]
    with pytest.raises(llmc.UnknownNameError, match="nearest: .*model.layers"):
        diff(llama(), llama(), match="model.layer.*")


def test_shards_formats_and_the_way_a_side_is_given_do_not_matter(tmp_path):
    tuned = {name: array + numbers(*array.shape, seed=4) for name, array in llama().items()}
    truth = {row["name"]: row for row in diff(llama(), tuned).rows}
    one = written(tmp_path / "one", llama(), None)
    many = written(tmp_path / "many", llama(), None, max_shard_size=5000)
    (tmp_path / "torch").mkdir()
    llmc.checkpoint.write_torch(tmp_path / "torch" / "pytorch_model.bin", llama())
    with llmc.checkpoint.open(one) as opened:
        for side in (one, str(many), tmp_path / "torch", tmp_path / "torch" / "pytorch_model.bin", opened):
            assert {row["name"]: row for row in diff(side, tuned).rows} == truth
        assert opened[UP].shape  # what somebody else opened stays open


# --- adapters --------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module", params=["llama", "gpt2"])
def adapted(request, tmp_path_factory):
    """(folder of a base, of an adapter of all kinds, of both merged)"""
    folder = tmp_path_factory.mktemp(request.param)
    model = tiny_model(TINY[request.param] | {"tie_word_embeddings": False})
    model.save_pretrained(folder / "base")
    targets = ["q_proj", "down_proj"] if request.param == "llama" else ["c_attn", "mlp.c_proj"]
    model.add_adapter(llmc.LoraConfig(r=3, lora_alpha=6, target_modules=targets, rank_pattern={targets[1]: 2},
                                      alpha_pattern={targets[1]: 10}, use_rslora=True, modules_to_save=["lm_head"],
                                      bias="none"))  # fmt: skip
    for i, view in enumerate(model.trained().values()):
        view += numbers(*view.shape, seed=i, scale=0.1)
    model.save_adapter(folder / "adapter")
    attached = diff(folder / "base", model)
    model.merge_and_unload().save_pretrained(folder / "merged")
    return folder, attached


def test_an_adapter_gives_the_rows_of_what_is_merged(adapted):
    folder, attached = adapted
    one, other = diff(folder / "base", folder / "adapter"), diff(folder / "base", folder / "merged")
    for found in (one, attached):
        assert [row["name"] for row in found.rows] == [row["name"] for row in other.rows]
        for row, merged in zip(found.rows, other.rows):
            for key in ("status", "changed", "structure", "base_dtype", "tuned_dtype", "signal_rank", "rank_99", "unit",
                        "units_90", "rounding_floor", "max_at", "permutation"):  # fmt: skip
                assert row[key] == merged[key], (row["name"], key)
            for key in ("delta_norm", "tuned_norm", "cosine", "max_abs", "mean", "std", "spectral_norm", "stable_rank"):
                near = None if merged[key] is None else pytest.approx(merged[key], rel=1e-4, abs=1e-7)
                assert row[key] == near, (row["name"], key)
    assert one.summary["looks_like"] == other.summary["looks_like"] == "full"  # a head was trained whole
    pair = diff(folder / "base", (folder / "base", folder / "adapter"))
    assert pair.rows == one.rows
    opened = llmc.Model.from_pretrained(folder / "base")
    assert diff(opened, folder / "adapter").rows[1]["delta_norm"] == one[opened_name(opened, 1)]["delta_norm"]


def opened_name(model, at):
    return list(model.state_dict())[at]


def test_two_adapters_of_one_base_are_compared(adapted):
    folder, _ = adapted
    found = diff((folder / "base", folder / "adapter"), (folder / "merged"))
    assert found.summary["relative_change"] < 1e-6
    assert not diff((folder / "base", folder / "adapter"), (folder / "base", folder / "adapter")).summary["changed"]


def test_an_adapter_changes_nothing_on_the_disk(adapted):
    folder, _ = adapted
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    diff(folder / "base", folder / "adapter")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_an_adapter_for_another_base_is_refused(adapted, tmp_path):
    folder, _ = adapted
    other = written(tmp_path / "other", {"a.q_proj.weight": numbers(4, 4)})
    with pytest.raises(llmc.CheckpointError, match="the base has no tensor"):
        diff(other, folder / "adapter")
    tensors = llmc.Model.from_pretrained(folder / "base").state_dict()
    narrow = written(tmp_path / "narrow", {name: array[..., :7] if array.ndim == 2 else array
                                           for name, array in tensors.items()})  # fmt: skip
    with pytest.raises((llmc.ShapeError, llmc.CheckpointError), match="another base"):
        diff(narrow, folder / "adapter")


def test_an_adapter_fits_a_base_whose_names_lack_the_prefix(adapted, tmp_path):
    folder, _ = adapted
    truth = {row["name"]: row for row in diff(folder / "base", folder / "adapter").rows}
    with llmc.checkpoint.open(folder / "base") as files:
        bare = {name.removeprefix("model.").removeprefix("transformer."): files[name] for name in files}
    base = written(tmp_path / "bare", bare, json.loads((folder / "base" / "config.json").read_text()))
    for row in diff(base, folder / "adapter").rows:
        name = next(name for name in truth if name.endswith(row["name"]))
        assert (row["status"], row["delta_norm"]) == (truth[name]["status"], truth[name]["delta_norm"])


def test_half_an_adapter_and_surplus_tensors_are_refused(adapted, tmp_path):
    folder, _ = adapted
    with llmc.checkpoint.open(folder / "adapter" / "adapter_model.safetensors") as files:
        tensors = {name: files[name] for name in files}
    first = next(name for name in tensors if "lora_A" in name)
    for i, (change, words) in enumerate((
        ({first: None}, "other half is there|missing"), ({"base_model.model.more.weight": numbers(3)}, "surplus"),
        ({first: tensors[first][:, :-1]}, "has shape"), ({first: np.full_like(tensors[first], np.nan)}, "not finite"),
        ({first.replace("lora_A.weight", "lora_embedding_A"): numbers(3, 3)}, "no factor of a linear"),
    )):  # fmt: skip
        made = tmp_path / str(i)
        made.mkdir()
        kept = {name: array for name, array in (tensors | change).items() if array is not None}
        llmc.checkpoint.write(made, kept)
        os.rename(made / "model.safetensors", made / "adapter_model.safetensors")
        os.link(folder / "adapter" / "adapter_config.json", made / "adapter_config.json")
        with pytest.raises((llmc.CheckpointError, llmc.ShapeError), match=words):
            diff(folder / "base", made)


def test_an_adapter_alone_is_no_base(adapted):
    folder, _ = adapted
    with pytest.raises(llmc.ConfigError, match="an adapter alone"):
        diff(folder / "adapter", folder / "base")
    with pytest.raises(llmc.ConfigError, match="an adapter alone"):
        diff((folder / "adapter", folder / "adapter"), folder / "base")


def test_what_load_adapter_refuses_is_refused_in_the_same_words(adapted, tmp_path):
    folder, _ = adapted
    made = tmp_path / "dora"
    made.mkdir()
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text()) | {"use_dora": True}
    (made / "adapter_config.json").write_text(json.dumps(config))
    os.link(folder / "adapter" / "adapter_model.safetensors", made / "adapter_model.safetensors")
    with pytest.raises(llmc.ConfigError) as ours:
        diff(folder / "base", made)
    with pytest.raises(llmc.ConfigError) as theirs:
        llmc.Model.from_pretrained(folder / "base").load_adapter(made)
    assert str(ours.value) == str(theirs.value)


def test_a_quantised_model_counts_as_float32_without_a_floor(tmp_path):
    model = tiny_model(TINY["llama"])
    model.save_pretrained(tmp_path / "base")
    found = diff(tmp_path / "base", llmc.Model.from_pretrained(tmp_path / "base", dtype="int8"))
    row = found[QUERY]
    assert (row["tuned_dtype"], row["rounding_floor"]) == ("float32", None) and row["relative_change"] > 0
    assert any("quantised" in line for line in found.notes)


# --- bad input -------------------------------------------------------------------------------------------------------
def test_what_is_no_side_is_refused(tmp_path):
    for bad in (3, [llama()], None, (llama(), 3), (llama(),)):
        with pytest.raises(TypeError):
            diff(llama(), bad)
    with pytest.raises(llmc.DataError, match="not an array"):
        diff(llama(), {"x": 3})
    with pytest.raises(llmc.DataError, match="names are texts"):
        diff({3: numbers(2)}, llama())
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="none of model.safetensors"):
        diff(tmp_path / "empty", llama())
    with pytest.raises(FileNotFoundError):
        diff(llama(), tmp_path / "nowhere")


@pytest.mark.parametrize("arguments, error, words", [
    (dict(metrics=("chnge",)), llmc.ConfigError, "nearest: change"), (dict(metrics=3), TypeError, "metrics is 3"),
    (dict(spectrum="fast"), llmc.ConfigError, "one of auto"), (dict(top=-1), llmc.ConfigError, "top is -1"),
    (dict(rename={"(": "a"}), llmc.ConfigError, "not a regular expression"), (dict(rename={"a": r"\9"}),
                                                                            llmc.ConfigError, "cannot replace"),
    (dict(rename={"a": 3}), TypeError, "rename"), (dict(match=3), TypeError, "match"),
    (dict(matc="*"), TypeError, "match"),
])  # fmt: skip
def test_words_that_it_has_not_are_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        diff(llama(), llama(), **arguments)


def test_a_shard_that_is_cut_short_in_the_middle_is_an_error_that_names_it(tmp_path):
    folder = written(tmp_path / "base", llama(), None, max_shard_size=6000)
    opened = llmc.checkpoint.open(folder)
    shard = opened.file(UP)
    with open(shard, "r+b") as file:
        file.truncate(os.path.getsize(shard) - 100)
    with pytest.raises(llmc.CheckpointError, match=os.path.basename(shard)):
        diff(opened, llama())
    with pytest.raises(llmc.CheckpointError, match=os.path.basename(shard)):
        diff(folder, llama())
