"""A LoRA out of a fine-tune: the best factors of every change, peft's folder, what it is worth, the command."""

import json
import warnings

import numpy as np
import pytest
import trace_reference as reference
from conftest import TINY
from lora_peers import bases, logits, require_peft
from tiny import fields, random_ids, tiny_model

import llmc
from llmc import checkpoint
from llmc.checkpoint import extract_lora
from llmc.cli import main
from llmc.diff.truncation import truncate

ROW = ["name", "module", "layer", "part", "shape", "rank", "delta_norm", "kept", "error", "next_singular_value"]
FAMILIES = {**TINY, "lime": {**TINY["llama"], "model_type": "lime"}}
SINGLE = 3e-6  # relative, of factors and differences that are rounded to float32


@pytest.fixture(params=FAMILIES)
def config(request):
    return FAMILIES[request.param]


def linear_names(model):
    """The weights that "all-linear" means."""
    return [f"{name}.weight" for name, (part, layer) in model.run(1, 2).parts().items()
            if layer is not None and part not in ("block", "attention", "feed_forward", "norm", "router")]


def planted(config, rank=3, names=None, size=0.1, seed=0):
    """(base, tuned): the base and one with changes of a rank in these weights, in all linears by default."""
    base, tuned = tiny_model(config), tiny_model(config)
    rng = np.random.default_rng(seed)
    for name in linear_names(base) if names is None else names:
        weight = tuned._parameters[name]
        out, inp = weight.shape
        weight += size * (rng.standard_normal((out, rank)) @ rng.standard_normal((rank, inp))).astype(np.float32)
    return base, tuned


def full(config, size=0.05, seed=1):
    """(base, tuned): everything changed."""
    base, tuned = tiny_model(config), tiny_model(config)
    rng = np.random.default_rng(seed)
    for array in tuned._parameters.values():
        array += size * rng.standard_normal(array.shape).astype(np.float32)
    return base, tuned


def change(base, tuned, name):
    """Δ as (out, in), float64."""
    delta = np.asarray(tuned._parameters[name], np.float64) - base._parameters[name]
    return delta.T if base._model.in_out else delta


def product(found, row):
    state, key = found.state_dict(), f"base_model.model.{row['module']}"
    return state[f"{key}.lora_B.weight"].astype(np.float64) @ state[f"{key}.lora_A.weight"]


def test_a_planted_change_is_found_whole(config, tmp_path):
    base, tuned = planted(config)
    found = extract_lora(base, tuned, rank=3, out=tmp_path / "adapter")
    assert [row["name"] for row in found.rows] == [name for name in base._parameters if name in linear_names(base)]
    for row in found.rows:
        assert list(row) == ROW and row["rank"] == 3
        delta = change(base, tuned, row["name"])
        assert row["shape"] == list(delta.shape)
        assert row["delta_norm"] == pytest.approx(np.linalg.norm(delta), rel=1e-6)
        assert np.linalg.norm(delta - product(found, row)) <= SINGLE * np.linalg.norm(delta)
        assert row["error"] <= SINGLE and row["kept"] == pytest.approx(1.0, abs=1e-9)
        assert row["next_singular_value"] <= 1e-5 * row["delta_norm"]
    assert found.kept == pytest.approx(1.0, abs=1e-9) and found.left_out == [] and found.logits is None
    ids = random_ids(config, 2, 9)
    base.load_adapter(tmp_path / "adapter")
    assert np.abs(base(ids) - tuned(ids)).max() < 1e-3


def test_every_matrix_is_approximated_as_well_as_its_rank_allows(config):
    base, tuned = full(config)
    found = extract_lora(base, tuned, rank=5)
    for row in found.rows:
        delta = change(base, tuned, row["name"])
        sigma = np.linalg.svd(delta, compute_uv=False)
        norm = np.linalg.norm(delta)
        best = np.sqrt((sigma[5:] ** 2).sum()) / norm
        assert row["rank"] == 5 and row["error"] == pytest.approx(best, rel=1e-5)
        assert row["error"] == pytest.approx(np.linalg.norm(delta - product(found, row)) / norm, rel=1e-5)
        assert row["kept"] == pytest.approx(1 - best**2, rel=1e-5)
        assert row["next_singular_value"] == pytest.approx(sigma[5], rel=1e-5)


def test_the_factors_share_the_singular_values_evenly():
    base, tuned = full(TINY["llama"])
    found = extract_lora(base, tuned, rank=4)
    state, row = found.state_dict(), found.rows[0]
    A, B = (state[f"base_model.model.{row['module']}.lora_{half}.weight"] for half in "AB")
    sigma = np.linalg.svd(change(base, tuned, row["name"]), compute_uv=False)[:4]
    assert A.shape == (4, 44) and B.shape == (40, 4) and A.dtype == B.dtype == np.float32
    assert A.astype(float) @ A.T == pytest.approx(np.diag(sigma), abs=1e-5)
    assert B.T.astype(float) @ B == pytest.approx(np.diag(sigma), abs=1e-5)
    assert (found.config.r, found.config.lora_alpha, found.config.rank_pattern) == (4, 4, {})


def test_energy_takes_the_smallest_rank_that_keeps_a_share():
    base, tuned = full(TINY["gpt2"])
    found = extract_lora(base, tuned, energy=0.6)
    ranks = set()
    for row in found.rows:
        sigma = np.linalg.svd(change(base, tuned, row["name"]), compute_uv=False)
        held = np.cumsum(sigma**2) / (sigma**2).sum()
        assert row["rank"] == np.searchsorted(held, 0.6) + 1 and row["kept"] >= 0.6
        ranks.add(row["rank"])
    assert len(ranks) > 1
    common = found.config.r
    others = {row["module"]: row["rank"] for row in found.rows if row["rank"] != common}
    assert found.config.rank_pattern == found.config.alpha_pattern == others
    capped = extract_lora(base, tuned, energy=0.6, rank=4)
    assert {row["rank"] for row in capped.rows} == {4}


def test_the_rank_is_16_and_a_matrix_has_no_more_than_its_own():
    base, tuned = full(TINY["llama"])
    assert {row["rank"] for row in extract_lora(base, tuned).rows} == {16}
    found = extract_lora(base, tuned, rank=40)
    assert {row["rank"] for row in found.rows} == {20, 37, 40}
    assert all(row["error"] < SINGLE for row in found.rows if row["rank"] == min(row["shape"]))
    with pytest.raises(llmc.ConfigError, match="rank is 41, .* is 40"):
        extract_lora(base, tuned, rank=41)


def test_randomised_is_near_the_best_and_the_same_on_every_run():
    rng = np.random.default_rng(0)
    U, V = (np.linalg.qr(rng.standard_normal((n, 200)))[0] for n in (300, 200))
    delta = ((U * 0.93 ** np.arange(200)) @ V.T).astype(np.float32)
    exact, found = truncate(delta, 16), truncate(delta, 16, method="randomised", seed=3)
    errors = [np.linalg.norm(delta - each.factors()[1] @ each.factors()[0]) for each in (exact, found)]
    assert errors[1] == pytest.approx(errors[0], rel=0.01) and errors[1] >= errors[0] * (1 - 1e-6)
    assert found.sigma == pytest.approx(exact.sigma, rel=0.01)
    assert np.array_equal(found.U, truncate(delta, 16, method="randomised", seed=3).U)
    for method in ("exact", "randomised"):
        shared = truncate(delta, energy=0.9, method=method)
        assert shared.kept >= 0.9 and len(shared.sigma) == len(truncate(delta, energy=0.9).sigma)


def test_auto_is_exact_for_the_sizes_of_a_small_model():
    delta = np.random.default_rng(1).standard_normal((120, 90)).astype(np.float32)
    one, two = truncate(delta, 7), truncate(delta, 7, method="exact")
    assert np.array_equal(one.U, two.U)


@pytest.mark.parametrize("case", ["gpt2", "llama", "mistral", "openai-gpt", "llama: tied"])
def test_peft_opens_the_folder(peers, tmp_path_factory, tmp_path, case):
    peft = require_peft()
    theirs, base = bases(case, tmp_path_factory)
    tuned = llmc.Model.from_pretrained(tmp_path_factory.getbasetemp() / case.replace(":", ""))
    rng = np.random.default_rng(0)
    for name, array in tuned._parameters.items():
        if name in linear_names(tuned) or "norm" in name or "ln_" in name:
            array += 0.05 * rng.standard_normal(array.shape).astype(np.float32)
    found = extract_lora(base, tuned, energy=0.9, modules_to_save="changed", out=tmp_path / "adapter")
    assert found.config.modules_to_save
    ids = random_ids(fields(case), 2, 9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()
    base.load_adapter(tmp_path / "adapter")
    ours = base(ids)
    assert np.abs(logits(peers, adapted, ids) - ours).max() < 1e-3
    assert np.abs(ours - tuned(ids)).max() > 1e-3


def test_targets_and_layers_are_those_of_a_lora_config():
    base, tuned = full(TINY["llama"])
    found = extract_lora(base, tuned, rank=2, target_modules="domain", layers_to_transform=[0, 2])
    assert [row["module"] for row in found.rows] == [
        f"model.layers.{layer}.self_attn.{part}_proj" for layer in (0, 2) for part in "qv"]
    assert [row["part"] for row in found.rows][:2] == ["self_attn.q_proj", "self_attn.v_proj"]
    left_out = {entry["name"]: entry for entry in found.left_out}
    assert list(found.left_out[0]) == ["name", "role", "delta_norm", "share", "why"]
    assert left_out["model.layers.1.self_attn.q_proj.weight"]["why"] == "no target"
    assert left_out["model.norm.weight"]["why"] == "no target, and not in modules_to_save"
    assert set(left_out) == set(base._parameters) - {row["name"] for row in found.rows}
    squares = sum(row["delta_norm"] ** 2 for row in found.rows) + sum(e["delta_norm"] ** 2 for e in found.left_out)
    assert found.kept == pytest.approx(sum(row["kept"] * row["delta_norm"] ** 2 for row in found.rows) / squares)
    assert left_out["model.norm.weight"]["share"] == pytest.approx(
        left_out["model.norm.weight"]["delta_norm"] ** 2 / squares)
    with pytest.raises(llmc.UnknownNameError, match="q_proj"):
        extract_lora(base, tuned, target_modules=["q_porj"])
    expression = extract_lora(base, tuned, rank=2, target_modules=r".*\.1\.mlp\.(up|down)_proj")
    assert len(expression.rows) == 2


def test_a_target_that_did_not_change_gets_no_adapter(tmp_path):
    names = ["model.layers.1.self_attn.q_proj.weight", "model.layers.2.mlp.up_proj.weight"]
    base, tuned = planted(TINY["llama"], names=names)
    found = extract_lora(base, tuned, out=tmp_path / "adapter")
    assert [row["name"] for row in found.rows] == names
    base.load_adapter(tmp_path / "adapter")
    assert set(base.adapters["default"].branches) == {name.removesuffix(".weight") for name in names}
    with pytest.raises(llmc.CheckpointError, match="nothing to extract"):
        extract_lora(tuned, tuned)
    with pytest.raises(llmc.CheckpointError, match="nothing to extract"):
        extract_lora(tiny_model(TINY["llama"]), tuned, target_modules=["k_proj"])


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_what_changed_beside_the_linears_is_kept_whole(family, tmp_path):
    config = TINY[family]
    base, tuned = full(config)
    found = extract_lora(base, tuned, energy=1.0, modules_to_save="changed", out=tmp_path / "adapter")
    biases = [name for name in base._parameters if name.endswith(".bias") and "ln_" not in name]
    assert {entry["name"] for entry in found.left_out} == set(biases)
    base.load_adapter(tmp_path / "adapter")
    for name in biases:
        base._parameters[name][...] = tuned._parameters[name]
    ids = random_ids(config, 2, 9)
    assert np.abs(base(ids) - tuned(ids)).max() < 1e-3


def test_a_head_that_tuned_has_of_its_own_counts(tmp_path):
    config = {**TINY["llama"], "tie_word_embeddings": True}
    base, tuned = tiny_model(config), tiny_model({**config, "tie_word_embeddings": False})
    for name, array in tuned._parameters.items():
        array[...] = base.state_dict()[name]
    tuned._parameters["lm_head.weight"][:, 0] += 0.5
    tuned._parameters["model.layers.1.mlp.up_proj.weight"] += np.float32(0.05)
    without = extract_lora(base, tuned, rank=1)
    [head] = without.left_out
    assert head["name"] == "lm_head.weight" and head["share"] + without.kept == pytest.approx(1.0)
    whole = extract_lora(base, tuned, rank=1, modules_to_save="changed", out=tmp_path / "adapter")
    assert whole.config.modules_to_save == ["lm_head"] and whole.left_out == []
    assert whole.kept == pytest.approx(1.0)
    base.load_adapter(tmp_path / "adapter")
    ids = random_ids(config, 2, 7)
    assert np.abs(base(ids) - tuned(ids)).max() < 1e-4


def test_modules_to_save_may_be_named():
    base, tuned = full(TINY["llama"])
    found = extract_lora(base, tuned, rank=2, modules_to_save=["model.norm", "lm_head"])
    assert found.config.modules_to_save == ["model.norm", "lm_head"]
    state = found.state_dict()
    assert np.array_equal(state["base_model.model.lm_head.weight"], tuned._parameters["lm_head.weight"])
    with pytest.raises(llmc.UnknownNameError, match="modules_to_save"):
        extract_lora(base, tuned, modules_to_save=["no_such"])


def test_files_shards_names_and_layouts_do_not_matter(tmp_path):
    base, tuned = planted(TINY["llama"])
    truth = extract_lora(base, tuned, rank=3)
    base.save_pretrained(tmp_path / "base", max_shard_size="20KB")
    tensors = {f"module.{name}": np.ascontiguousarray(array) for name, array in tuned._parameters.items()}
    checkpoint.write(tmp_path / "tuned", tensors)
    found = extract_lora(tmp_path / "base", tmp_path / "tuned", rank=3)
    in_order = sorted(found.rows, key=lambda row: row["name"])
    assert in_order == sorted(truth.rows, key=lambda row: row["name"])
    assert found.config.base_model_name_or_path == str(tmp_path / "base")
    assert all(np.array_equal(array, truth.state_dict()[key]) for key, array in found.state_dict().items())


def test_a_larger_vocabulary_is_said_and_the_common_part_extracted():
    config = TINY["llama"]
    base, tuned = planted(config)
    tuned.resize_token_embeddings(113)
    found = extract_lora(base, tuned, rank=3, target_modules=["q_proj"], modules_to_save="changed")
    more = "tuned has 6 more along axis 0"
    assert {entry["name"] for entry in found.left_out if entry["why"] == more} == {
        "model.embed_tokens.weight", "lm_head.weight"}
    tuned._parameters["lm_head.weight"][:107] += np.outer(np.ones(107), np.arange(44)).astype(np.float32)
    found = extract_lora(base, tuned, rank=3, target_modules=["lm_head"])
    assert found.rows[0]["shape"] == [107, 44] and found.rows[0]["error"] < 1e-5
    assert {"name": "lm_head.weight", "role": "head", "delta_norm": None, "share": None, "why": more} in found.left_out


def test_an_adapter_is_extracted_from_an_adapter(tmp_path):
    config = TINY["gpt2"]
    base, model = tiny_model(config), tiny_model(config)
    model.add_adapter(llmc.LoraConfig(r=6, target_modules="all-linear", init_lora_weights=False))
    model.save_adapter(tmp_path / "six")
    base.save_pretrained(tmp_path / "base")
    same = extract_lora(tmp_path / "base", tmp_path / "six", rank=6)
    assert all(row["error"] < SINGLE and row["next_singular_value"] == 0.0 for row in same.rows)
    less = extract_lora(tmp_path / "base", tmp_path / "six", rank=2)
    merged = extract_lora(base, model.merge_and_unload(), rank=2)
    assert [row["rank"] for row in less.rows] == [2] * 12
    for row, other in zip(less.rows, merged.rows):
        assert row["kept"] == pytest.approx(other["kept"], rel=1e-4)


@pytest.mark.parametrize("dtype, tolerance", [("bfloat16", 8e-3), ("float16", 1e-3)])
def test_narrow_factors_are_saved_and_their_error_is_told(tmp_path, dtype, tolerance):
    base, tuned = planted(TINY["llama"])
    found = extract_lora(base, tuned, rank=3, dtype=dtype, out=tmp_path / "adapter")
    assert all(1e-5 < row["error"] < tolerance for row in found.rows)
    with checkpoint.open(tmp_path / "adapter" / "adapter_model.safetensors") as files:
        assert {str(files.dtype(name)) for name in files} == {dtype}
    base.load_adapter(tmp_path / "adapter")


def test_a_text_says_what_it_is_worth():
    config = TINY["llama"]
    base, tuned = full(config)
    ids = random_ids(config, 2, 9)
    found = extract_lora(base, tuned, rank=8, text=ids)
    there, alone = (reference.kept(model, ids)[1].reshape(18, -1) for model in (tuned, base))
    assert list(found.logits) == ["tokens", "max_abs", "mean_abs", "kl_mean", "kl_max", "agreement", "base_max_abs",
                                  "base_mean_abs", "base_kl_mean", "base_kl_max", "base_agreement", "recovered"]
    kl = reference.kl(alone, there)
    assert found.logits["tokens"] == 18 and found.logits["base_kl_mean"] == pytest.approx(kl.mean())
    assert found.logits["base_kl_max"] == pytest.approx(kl.max())
    assert found.logits["base_max_abs"] == pytest.approx(np.abs(there - alone).max())
    assert found.logits["base_mean_abs"] == pytest.approx(np.abs(there - alone).mean())
    assert found.logits["base_agreement"] == pytest.approx((there.argmax(1) == alone.argmax(1)).mean())
    assert found.logits["recovered"] == pytest.approx(1 - found.logits["kl_mean"] / found.logits["base_kl_mean"])
    assert not base.adapters
    exact = extract_lora(*planted(config), rank=3, text=ids)
    assert exact.logits["recovered"] > 0.999 and exact.logits["agreement"] == 1.0
    cut = extract_lora(base, tuned, rank=8, text=ids, max_tokens=11)
    assert cut.logits["tokens"] == 11


def test_a_text_in_words_needs_a_tokenizer(tmp_path):
    config = {**TINY["llama"], "vocab_size": 300}
    base, tuned = planted(config)
    with pytest.raises(llmc.ConfigError, match="tokenizer="):
        extract_lora(base, tuned, rank=3, text="a door")
    tokenizer = llmc.Tokenizer.train([llmc.data.builtin_text()[:20000]], vocab_size=300)
    found = extract_lora(base, tuned, rank=3, text=["a door", "is listening"], tokenizer=tokenizer)
    assert found.logits["tokens"] == len(tokenizer.encode("a door")) + len(tokenizer.encode("is listening"))
    tokenizer.save_pretrained(tmp_path)
    tuned.save_pretrained(tmp_path)
    assert extract_lora(base, tmp_path, rank=3, text=["a door", "is listening"]).logits == found.logits


def test_the_folder_says_what_it_holds(tmp_path):
    base, tuned = full(TINY["llama"])
    found = extract_lora(base, tuned, rank=2, out=tmp_path / "adapter", text=random_ids(TINY["llama"], 1, 5))
    read = json.loads((tmp_path / "adapter" / "extraction.json").read_text(), parse_constant=pytest.fail)
    assert read == {"format": "llmc-extraction", "version": 1, "rows": found.rows, "left_out": found.left_out,
                    "kept": found.kept, "logits": found.logits}
    text = str(found)
    assert "21 matrices at rank 2" in text and f"left out: {len(found.left_out)}" in text and "recovered" in text


def test_a_mapping_without_a_configuration_goes_by_names():
    base, tuned = planted(TINY["llama"])
    truth = extract_lora(base, tuned, rank=3)
    arrays = [{name: np.array(array) for name, array in model._parameters.items()} for model in (base, tuned)]
    found = extract_lora(*arrays, rank=3)
    assert [row["name"] for row in found.rows] == [row["name"] for row in truth.rows]
    with pytest.raises(llmc.ConfigError, match="mapping of arrays"):
        extract_lora(*arrays, rank=3, text=[1, 2, 3])
    with pytest.raises(llmc.ConfigError, match="config.json"):
        extract_lora(*arrays, target_modules="domain")


def test_what_is_impossible_is_refused_before_the_work(tmp_path):
    base, tuned = planted(TINY["llama"])
    for words, match in ((dict(rank=0), "rank is 0"), (dict(energy=0), "energy is 0"),
                         (dict(energy=1.5), "energy is 1.5"), (dict(method="svd"), "method is 'svd'"),
                         (dict(dtype="int8"), "dtype is 'int8'")):
        with pytest.raises(llmc.ConfigError, match=match):
            extract_lora(base, tuned, **words)
    tuned.save_pretrained(tmp_path / "tuned")
    with pytest.raises(llmc.ConfigError, match="folder of its own"):
        extract_lora(base, tmp_path / "tuned", out=tmp_path / "tuned")
    broken = {name: np.array(array) for name, array in tuned._parameters.items()}
    broken["model.layers.0.mlp.up_proj.weight"][0, 0] = np.nan
    with pytest.raises(llmc.CheckpointError, match="model.layers.0.mlp.up_proj.weight: .* not finite"):
        extract_lora({name: np.array(array) for name, array in base._parameters.items()}, broken)
    with pytest.raises(FileNotFoundError):
        extract_lora(base, tmp_path / "nowhere")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tuned"]


def test_the_command_writes_the_adapter(tmp_path, capsys):
    base, tuned = full(TINY["llama"])
    for name, model in (("base", base), ("tuned", tuned)):
        model.save_pretrained(tmp_path / name)
    words = ["extract-lora", str(tmp_path / "base"), str(tmp_path / "tuned"), "--rank", "4", "--target-modules",
             "q_proj", "v_proj", "--layers-to-transform", "0-1", "--modules-to-save", "changed", "--output-dir"]
    assert main([*words, str(tmp_path / "adapter")]) == 0
    out = capsys.readouterr().out
    assert "4 matrices at rank 4 hold" in out and "left out: 17" in out
    base.load_adapter(tmp_path / "adapter")
    assert len(base.adapters["default"].branches) == 4 and len(base.adapters["default"].copies) == 9
    assert main([*words, str(tmp_path / "tuned")]) == 1
    assert "folder of its own" in capsys.readouterr().err
    assert main(["extract-lora", str(tmp_path / "base"), str(tmp_path / "tuned")]) == 2


def test_the_command_takes_adapters_and_a_text(tmp_path, capsys):
    config = {**TINY["gpt2"], "vocab_size": 300}
    base, model = tiny_model(config), tiny_model(config)
    base.save_pretrained(tmp_path / "base")
    llmc.Tokenizer.train([llmc.data.builtin_text()[:20000]], vocab_size=300).save_pretrained(tmp_path / "base")
    model.add_adapter(llmc.LoraConfig(r=5, target_modules="all-linear", init_lora_weights=False))
    model.save_adapter(tmp_path / "five")
    (tmp_path / "text.txt").write_text("a door is listening")
    assert main(["extract-lora", str(tmp_path / "base"), f"{tmp_path / 'base'}+{tmp_path / 'five'}", "--energy", "0.8",
                 "--text", str(tmp_path / "text.txt"), "--output-dir", str(tmp_path / "less")]) == 0
    assert "recovered" in capsys.readouterr().out
    read = json.loads((tmp_path / "less" / "extraction.json").read_text())
    assert 0 < read["logits"]["kl_mean"] and {row["rank"] for row in read["rows"]} <= set(range(1, 6))
