"""Adapter files both ways: peft opens what we write, we open what peft writes, and nothing else is let in."""

import json
import os
import shutil
import warnings

import ml_dtypes
import numpy as np
import pytest
import tiny
from conftest import TINY, TOLERANCE
from lora_peers import adapted, disturb, logits, reopened, require_peft
from tiny import close, random_ids, tiny_model

import llmc
from llmc import checkpoint
from llmc.errors import CheckpointError, ConfigError, NonFiniteError, ShapeError

CONFIGS = {
    "gpt2 names": ("gpt2", dict(target_modules=["c_attn"], r=4)),
    "gpt2 everything": ("gpt2", dict(target_modules="all-linear", r=3, lora_alpha=5)),
    "gpt2 all biases": ("gpt2", dict(target_modules=["c_attn"], r=4, bias="all")),
    "gpt2 its biases": ("gpt2", dict(target_modules=["c_attn", "mlp.c_proj"], r=4, bias="lora_only")),
    "gpt2 a norm too": ("gpt2", dict(target_modules=["c_attn"], r=4, modules_to_save=["ln_f"])),
    "gpt2 a block's mlp too": ("gpt2", dict(target_modules=["c_attn"], r=4, modules_to_save=["mlp"])),
    "gpt2 biases and a norm": ("gpt2", dict(target_modules=["c_attn"], r=4, bias="all", modules_to_save=["ln_f"])),
    "gpt": ("openai-gpt", dict(target_modules="all-linear", r=3, layers_to_transform=None)),
    "llama patterns": ("llama", dict(
        target_modules="all-linear", r=3, use_rslora=True, rank_pattern={"q_proj": 5, r"layers\.1\.mlp\..*": 2},
        alpha_pattern={"v_proj": 20})),
    "llama head": ("llama", dict(target_modules=["q_proj", "lm_head"], r=3)),
    "llama head and embedding too": ("llama", dict(
        target_modules=["q_proj"], r=3, modules_to_save=["lm_head", "embed_tokens"])),
    "llama biases": ("llama: mlp bias", dict(target_modules=["o_proj", "up_proj"], r=3, bias="lora_only")),
    "llama tied": ("llama: tied", dict(target_modules=r".*\.(q|down)_proj", r=3, lora_dropout=0.5)),
    "mistral layers": ("mistral", dict(target_modules=["q_proj"], r=3, layers_to_transform=[0, 2])),
    "mistral more than its width": ("mistral", dict(target_modules=["k_proj"], r=50)),
}  # fmt: skip
TWICE = ("modules_to_save.bias", "original_module.bias")  # what peft writes of bias="all" beside modules_to_save


@pytest.mark.parametrize("name", CONFIGS)
def test_an_adapter_goes_from_peft_to_us_and_back(peers, tmp_path_factory, tmp_path, name):
    case, config = CONFIGS[name]
    theirs, ours = adapted(peers, case, tmp_path_factory, **config)
    ids = random_ids(tiny.fields(case), 2, 9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.save_pretrained(tmp_path / "theirs")
    expected = logits(peers, theirs, ids)
    base = ours(ids)
    ours.load_adapter(tmp_path / "theirs")
    close(ours(ids), expected, TOLERANCE["logits"], "peft's files here")
    assert np.abs(expected - base).max() > 0.1
    ours.save_adapter(tmp_path / "ours")
    there, here = (set(checkpoint.open(tmp_path / side / "adapter_model.safetensors")) for side in ("theirs", "ours"))
    assert {key for key in there ^ here if ".lm_head.base_layer." not in key and not key.endswith(TWICE)} == set()
    again, leftover = reopened(theirs, tmp_path / "ours")
    assert leftover.missing_keys == [] and leftover.unexpected_keys == []
    close(logits(peers, again, ids), expected, TOLERANCE["logits"], "our files in peft")


def test_an_adapter_made_here_opens_in_peft(peers, tmp_path_factory, tmp_path):
    theirs, ours = adapted(peers, "llama", tmp_path_factory, target_modules=["q_proj"])
    ours.add_adapter(llmc.LoraConfig(r=4, target_modules="mlp", layers_to_transform=[1], init_lora_weights=False))
    ours.save_adapter(tmp_path)
    again, leftover = reopened(theirs, tmp_path)
    ids = random_ids(TINY["llama"], 2, 9)
    assert leftover.missing_keys == [] and leftover.unexpected_keys == []
    close(logits(peers, again, ids), ours(ids), TOLERANCE["logits"])


def test_torch_files_are_written_too(peers, tmp_path_factory, tmp_path):
    theirs, ours = adapted(peers, "gpt2", tmp_path_factory, target_modules=["c_attn"])
    ours.add_adapter(llmc.LoraConfig(r=4, target_modules="context", bias="all", init_lora_weights=False))
    ours.save_adapter(tmp_path, safe_serialization=False)
    assert sorted(os.listdir(tmp_path)) == ["adapter_config.json", "adapter_model.bin"]
    again, leftover = reopened(theirs, tmp_path)
    ids = random_ids(TINY["gpt2"], 2, 9)
    assert leftover.missing_keys == [] and leftover.unexpected_keys == []
    close(logits(peers, again, ids), ours(ids), TOLERANCE["logits"])
    here = tiny_model(TINY["gpt2"])
    before = here(ids)
    here.load_adapter(tmp_path)
    assert np.abs(here(ids) - before).max() > 0.1
    here.save_adapter(tmp_path / "again")
    torch_file, safe = (checkpoint.open(path) for path in
                        (tmp_path / "adapter_model.bin", tmp_path / "again" / "adapter_model.safetensors"))
    assert set(torch_file) == set(safe) and all((torch_file[key] == safe[key]).all() for key in safe)


@pytest.mark.parametrize("first", [True, False])
def test_a_save_in_the_other_format_leaves_one_file_of_weights(tmp_path, first):
    model = saved(tmp_path)
    model.save_adapter(tmp_path, safe_serialization=first)
    model.state_dict()["model.layers.0.self_attn.q_proj.lora_B.default.weight"][...] = 1
    model.save_adapter(tmp_path, safe_serialization=not first)
    assert len(os.listdir(tmp_path)) == 2
    again = tiny_model(TINY["llama"])
    again.load_adapter(tmp_path)
    ids = random_ids(TINY["llama"], 2, 9)
    assert (again(ids) == model(ids)).all()


def test_torch_files_are_read_too(peers, tmp_path_factory, tmp_path):
    theirs, ours = adapted(peers, "llama", tmp_path_factory, target_modules=["q_proj"])
    theirs.save_pretrained(tmp_path, safe_serialization=False)
    assert sorted(name for name in os.listdir(tmp_path) if name.startswith("adapter_m")) == ["adapter_model.bin"]
    ours.load_adapter(tmp_path)
    ids = random_ids(TINY["llama"], 2, 9)
    close(ours(ids), logits(peers, theirs, ids), TOLERANCE["logits"])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_adapters_stored_in_other_dtypes_are_read(tmp_path, dtype):
    model = saved(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    rewrite(path, lambda key, array: array.astype(np.dtype(getattr(ml_dtypes, dtype, dtype))))
    again = tiny_model(TINY["llama"])
    again.load_adapter(tmp_path)
    ids = random_ids(TINY["llama"], 2, 9)
    close(again(ids), model(ids), 0.2 if dtype != "float64" else 1e-5)
    assert all(view.dtype == np.float32 for view in again.state_dict().values())


def saved(folder, config=None, name="default", family="llama", **fields):
    """A model with a random adapter, saved in a folder."""
    model = tiny_model(TINY[family])
    fields = dict(r=4, target_modules="attention", init_lora_weights=False) | fields
    model.add_adapter(config or llmc.LoraConfig(**fields), name)
    model.save_adapter(folder, name)
    return model


def rewrite(path, change):
    """Change every tensor of a file; a change to None leaves it out."""
    tensors = {key: np.array(array) for key, array in checkpoint.open(path).items()}
    changed = {key: change(key, array) for key, array in tensors.items()}
    folder = path.parent / "rewritten"
    checkpoint.write(folder, {key: array for key, array in changed.items() if array is not None})
    os.replace(folder / "model.safetensors", path)


# --- our own way round -----------------------------------------------------------------------------------------------
def test_saved_and_loaded_adapters_compute_the_same_bits(tmp_path, family):
    model = saved(tmp_path, family=family)
    again = tiny_model(TINY[family])
    again.load_adapter(tmp_path)
    ids = random_ids(TINY[family], 2, 9)
    assert (again(ids) == model(ids)).all()


@pytest.mark.parametrize("name", ["default", "b"])
def test_no_folder_is_not_the_working_directory(tmp_path, monkeypatch, name):
    model = tiny_model(TINY["llama"])
    model.add_adapter(llmc.LoraConfig(r=2, target_modules=["up_proj"]), name)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError):
        model.save_adapter("", name)
    assert not list(tmp_path.iterdir())


def test_an_adapter_of_another_name_lies_in_a_folder_of_its_name(tmp_path):
    model = saved(tmp_path)
    model.add_adapter(llmc.LoraConfig(r=2, target_modules=["up_proj"], init_lora_weights=False), "b")
    model.save_adapter(tmp_path, "b")
    assert (tmp_path / "b" / "adapter_config.json").exists()
    again = tiny_model(TINY["llama"])
    again.load_adapter(tmp_path, "b")
    again.load_adapter(tmp_path)
    again.load_adapter(tmp_path / "b", "the same")
    assert list(again.adapters["b"].branches) == list(again.adapters["the same"].branches)
    assert again.active_adapters() == ["b"]
    ids = random_ids(TINY["llama"], 2, 9)
    model.set_adapter("b")
    assert (again(ids) == model(ids)).all()
    again.set_adapter("default")
    model.set_adapter("default")
    assert (again(ids) == model(ids)).all()


def test_the_config_says_what_peft_needs(tmp_path):
    model = tiny_model(TINY["gpt2"])
    model.save_pretrained(tmp_path / "base")
    model = llmc.Model.from_pretrained(tmp_path / "base")
    model.add_adapter(llmc.LoraConfig(target_modules="attention", task_type="CAUSAL_LM"))
    model.save_adapter(tmp_path / "adapter")
    fields = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert fields["base_model_name_or_path"] == str(tmp_path / "base") and fields["inference_mode"] is True
    assert fields["fan_in_fan_out"] is True and fields["target_modules"] == ["c_attn", "attn.c_proj"]
    assert model.adapters["default"].config.inference_mode is False


def test_the_folder_of_an_adapter_opens_as_its_base_with_the_adapter(tmp_path):
    tiny_model(TINY["llama"]).save_pretrained(tmp_path / "base")
    model = llmc.Model.from_pretrained(tmp_path / "base")
    model.add_adapter(llmc.LoraConfig(target_modules="mlp", init_lora_weights=False))
    model.save_adapter(tmp_path / "adapter")
    again = llmc.Model.from_pretrained(tmp_path / "adapter")
    ids = random_ids(TINY["llama"], 2, 9)
    assert again.active_adapters() == ["default"] and (again(ids) == model(ids)).all()


def test_an_adapter_that_names_no_base_does_not_open_as_a_model(tmp_path):
    saved(tmp_path)
    with pytest.raises(ConfigError, match="base_model_name_or_path"):
        llmc.Model.from_pretrained(tmp_path)


def test_saving_over_an_adapter_replaces_it(tmp_path):
    saved(tmp_path, r=4)
    saved(tmp_path, r=2, target_modules=["up_proj"])
    again = tiny_model(TINY["llama"])
    again.load_adapter(tmp_path)
    assert {branch.rank for branch in again.adapters["default"].branches.values()} == {2}
    assert sorted(os.listdir(tmp_path)) == ["adapter_config.json", "adapter_model.safetensors"]


def test_transformers_opens_our_folder(peers, tmp_path):
    require_peft()
    tiny_model(TINY["llama"]).save_pretrained(tmp_path / "base")
    model = llmc.Model.from_pretrained(tmp_path / "base")
    model.add_adapter(llmc.LoraConfig(target_modules="mlp", init_lora_weights=False))
    model.save_adapter(tmp_path / "adapter")
    theirs = peers.transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
    ids = random_ids(TINY["llama"], 2, 9)
    close(logits(peers, theirs, ids), model(ids), TOLERANCE["logits"])


def test_a_trained_peft_adapter_of_two_steps_is_the_same_here(peers, tmp_path_factory, tmp_path):
    theirs, ours = adapted(peers, "mistral", tmp_path_factory, target_modules="all-linear", r=2)
    disturb(peers, theirs)
    theirs.save_pretrained(tmp_path)
    ours.load_adapter(tmp_path, "x")
    named = dict(theirs.named_parameters())
    for name, view in ours._model.adapter_parameters("x").items():
        assert (view == named[f"base_model.model.{name.replace('.x.', '.default.')}"].detach().numpy()).all()


# --- what is wrong with a file ---------------------------------------------------------------------------------------
def unchanged(model):
    """That loading failed and left nothing behind."""
    return not any("lora_" in name for name in model.state_dict()) and model.adapters == {}


def test_an_adapter_of_another_base_is_refused_with_tensors_and_shapes(tmp_path):
    saved(tmp_path, target_modules=["q_proj"])
    wider = tiny_model(TINY["llama"] | dict(hidden_size=48))
    with pytest.raises(ShapeError, match=r"q_proj.lora_A.weight has shape \(4, 44\), this model needs \(4, 48\)"):
        wider.load_adapter(tmp_path)
    assert unchanged(wider)


def test_an_adapter_of_more_layers_is_refused_by_its_tensors(tmp_path):
    saved(tmp_path, target_modules=["q_proj"])
    shorter = tiny_model(TINY["llama"] | dict(num_hidden_layers=2))
    with pytest.raises(CheckpointError, match="surplus base_model.model.model.layers.2.self_attn.q_proj.lora_A"):
        shorter.load_adapter(tmp_path)
    assert unchanged(shorter)


def test_an_adapter_of_another_family_is_refused(tmp_path):
    saved(tmp_path, family="gpt2", target_modules="mlp")
    model = tiny_model(TINY["llama"])
    with pytest.raises(llmc.UnknownNameError, match="means no module of this model"):
        model.load_adapter(tmp_path)
    assert unchanged(model)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_adapter_that_is_not_finite_is_refused_by_its_tensor(tmp_path, value):
    saved(tmp_path)

    def spoil(key, array):
        if "layers.1.self_attn.v_proj.lora_B" in key:
            array[0, 0] = value
        return array

    rewrite(tmp_path / "adapter_model.safetensors", spoil)
    model = tiny_model(TINY["llama"])
    with pytest.raises(CheckpointError, match="layers.1.self_attn.v_proj.lora_B.weight holds .* not finite"):
        model.load_adapter(tmp_path)
    assert unchanged(model)


def test_a_missing_tensor_is_named(tmp_path):
    saved(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    rewrite(path, lambda key, array: None if "0.self_attn.k_proj.lora_A" in key else array)
    model = tiny_model(TINY["llama"])
    with pytest.raises(CheckpointError, match="missing base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight"):
        model.load_adapter(tmp_path)
    assert unchanged(model)


def test_whole_numbers_are_no_adapter(tmp_path):
    saved(tmp_path)
    rewrite(tmp_path / "adapter_model.safetensors", lambda key, array: array.astype(np.int32))
    with pytest.raises(CheckpointError, match="dtype int32"):
        tiny_model(TINY["llama"]).load_adapter(tmp_path)


def test_a_base_weight_stored_beside_is_compared_with_the_models_own(tmp_path):
    model = saved(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = {key: np.array(array) for key, array in checkpoint.open(path).items()}
    for change, fine in ((0.0, True), (1.0, False)):
        beside = {"base_model.model.lm_head.weight": model.state_dict()["lm_head.weight"] + np.float32(change)}
        checkpoint.write(tmp_path / "w", tensors | beside)
        shutil.move(tmp_path / "w" / "model.safetensors", path)
        again = tiny_model(TINY["llama"])
        if fine:
            again.load_adapter(tmp_path)
        else:
            with pytest.raises(CheckpointError, match="lm_head.weight is a weight of the base"):
                again.load_adapter(tmp_path)
            assert unchanged(again)


def test_missing_files_are_named(tmp_path):
    model = tiny_model(TINY["llama"])
    with pytest.raises(FileNotFoundError, match="adapter_config.json"):
        model.load_adapter(tmp_path)
    saved(tmp_path)
    os.remove(tmp_path / "adapter_model.safetensors")
    with pytest.raises(FileNotFoundError, match="adapter_model.safetensors.*nor adapter_model.bin"):
        model.load_adapter(tmp_path)
    assert unchanged(model)


def test_what_is_not_finite_is_not_saved(tmp_path):
    model = saved(tmp_path / "good")
    model.state_dict()["model.layers.0.self_attn.q_proj.lora_A.default.weight"][0, 0] = np.nan
    with pytest.raises(NonFiniteError, match="q_proj.lora_A.weight is not finite"):
        model.save_adapter(tmp_path / "bad")
    assert not (tmp_path / "bad").exists()


def test_an_initialisation_that_llmc_cannot_start_loads_where_it_computes_like_any_other(tmp_path):
    model = saved(tmp_path)
    path = tmp_path / "adapter_config.json"
    for kind, fine in (("eva", True), ("lora_ga", True), ("mica", True), ("pissa", False)):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"init_lora_weights": kind}))
        again = tiny_model(TINY["llama"])
        if fine:
            again.load_adapter(tmp_path)
            ids = random_ids(TINY["llama"], 1, 7)
            assert (again(ids) == model(ids)).all()
            with pytest.raises(ConfigError, match=f"'{kind}'"):
                again.add_adapter(llmc.LoraConfig(target_modules="mlp", init_lora_weights=kind), "new")
        else:
            with pytest.raises(ConfigError, match="adapter_config.json: init_lora_weights 'pissa'"):
                again.load_adapter(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"init_lora_weights": "mica"}))
    with pytest.raises(ConfigError, match="trains A alone"):
        tiny_model(TINY["llama"]).load_adapter(tmp_path, is_trainable=True)
