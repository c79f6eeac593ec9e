"""Merging: the same logits, the bits back, a plain model, or a refusal that changes nothing."""

import ml_dtypes
import numpy as np
import pytest
from conftest import TINY, TOLERANCE
from lora_peers import adapted, logits
from tiny import close, random_ids, tiny_model

import llmc
from llmc.errors import ConfigError, NonFiniteError
from llmc.lora import merging


def adapted_model(family="llama", **fields):
    model = tiny_model(TINY[family])
    model.add_adapter(llmc.LoraConfig(**dict(r=4, target_modules="all-linear", init_lora_weights=False) | fields))
    return model


def bits(model):
    return {name: view.copy() for name, view in model._parameters.items()}


def same(model, before):
    return all((view == before[name]).all() for name, view in model._parameters.items())


def test_merged_logits_are_those_of_the_attached_adapter(family):
    model, ids = adapted_model(family), random_ids(TINY[family], 2, 9)
    before, attached = bits(model), model(ids)
    model.merge_adapter()
    close(model(ids), attached, TOLERANCE["logits"])
    changed = {name for name, view in model.state_dict().items() if name in before and not (view == before[name]).all()}
    assert changed == {f"{path}.weight" for path in model.adapters["default"].branches}


def test_a_model_with_bfloat16_products_merges_as_exactly(family):
    model = llmc.Model(llmc.Config(**TINY[family]), precision="bfloat16")
    model.add_adapter(llmc.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    exact = model._exact_logits(random_ids(TINY[family], 2, 9))
    model.merge_adapter()
    close(model._exact_logits(random_ids(TINY[family], 2, 9)), exact, TOLERANCE["logits"])


def test_merged_weights_are_the_base_plus_the_scaled_product(family):
    model = adapted_model(family, lora_alpha=6)
    before, tensors = bits(model), model._model.adapter_parameters("default")
    model.merge_adapter()
    for path in model.adapters["default"].branches:
        A, B = (tensors[f"{path}.lora_{half}.default.weight"].astype(np.float64) for half in "AB")
        delta = 1.5 * B @ A
        expected = before[f"{path}.weight"] + (delta.T if family in ("gpt2", "openai-gpt") else delta)
        close(model.state_dict()[f"{path}.weight"], expected, 1e-6, path)


def test_unmerging_restores_the_bits(family):
    model, ids = adapted_model(family), random_ids(TINY[family], 2, 9)
    before, attached = bits(model), model(ids)
    for _ in range(3):
        model.merge_adapter()
        assert not same(model, before)
        model.unmerge_adapter()
        assert same(model, before) and (model(ids) == attached).all()


def test_several_adapters_are_merged_as_they_add_up():
    model, ids = adapted_model(), random_ids(TINY["llama"], 2, 9)
    model.add_adapter(llmc.LoraConfig(r=2, target_modules="mlp", init_lora_weights=False), "b")
    model.set_adapter(["default", "b"])
    both, before = model(ids), bits(model)
    model.merge_adapter()
    close(model(ids), both, TOLERANCE["logits"])
    model.unmerge_adapter()
    assert same(model, before) and (model(ids) == both).all()
    model.set_adapter("b")
    b = model(ids)
    model.set_adapter("default")
    model.merge_adapter(["b"])
    close(model(ids), b, TOLERANCE["logits"])


def test_a_merged_and_unloaded_model_is_plain(family, tmp_path, peers):
    model, ids = adapted_model(family), random_ids(TINY[family], 2, 9)
    attached = model(ids)
    plain = model.merge_and_unload()
    assert plain is model and model.active_adapters() == [] and not any("lora_" in name for name in model.state_dict())
    close(model(ids), attached, TOLERANCE["logits"])
    assert set(llmc.AdamW(model).state_dict()["exp_avg"]) == set(model._parameters)
    assert len(model.adapters.overwritten) == 0
    model.save_pretrained(tmp_path)
    assert (llmc.Model.from_pretrained(tmp_path)(ids) == model(ids)).all()
    theirs = peers.transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    close(logits(peers, theirs, ids), attached, TOLERANCE["logits"])


def test_merging_is_what_peft_makes_of_it(peers, tmp_path_factory, tmp_path):
    config = dict(target_modules=["c_attn", "mlp.c_proj"], r=4, bias="lora_only", modules_to_save=["ln_f"])
    theirs, ours = adapted(peers, "gpt2", tmp_path_factory, **config)
    theirs.save_pretrained(tmp_path)
    ours.load_adapter(tmp_path)
    ours.merge_and_unload()
    merged = dict(theirs.merge_and_unload().named_parameters())
    for name, view in ours._parameters.items():
        close(view, merged[name].detach().numpy(), 1e-6, name)


def test_trained_copies_are_merged_and_taken_back():
    model, ids = adapted_model("gpt2", bias="all", modules_to_save=["ln_f"]), random_ids(TINY["gpt2"], 2, 9)
    for view in model._model.adapter_parameters("default").values():
        view += 0.1
    before, attached = bits(model), model(ids)
    model.merge_adapter()
    close(model(ids), attached, TOLERANCE["logits"])
    model.unmerge_adapter()
    assert same(model, before) and (model(ids) == attached).all()


def test_a_tied_embedding_stays_tied(tmp_path):
    model = adapted_model("gpt2")
    model.merge_and_unload().save_pretrained(tmp_path)
    assert llmc.Config.from_pretrained(tmp_path).tie_word_embeddings
    assert "lm_head.weight" not in llmc.checkpoint.open(tmp_path)


def test_merged_weights_are_what_is_shown_and_saved(tmp_path):
    model, ids = adapted_model(), random_ids(TINY["llama"], 2, 9)
    with pytest.raises(ConfigError, match="save_adapter writes them"):
        model.save_pretrained(tmp_path)
    model.merge_adapter()
    model.save_pretrained(tmp_path)
    assert (llmc.Model.from_pretrained(tmp_path)(ids) == model(ids)).all()


def test_disabling_while_merged_gives_the_base_and_enabling_the_adapter():
    model, ids = adapted_model(), random_ids(TINY["llama"], 2, 9)
    before, attached, base = bits(model), model(ids), tiny_model(TINY["llama"])(ids)
    model.merge_adapter()
    model.disable_adapters()
    assert (model(ids) == base).all() and same(model, before)
    with pytest.raises(ConfigError, match="disabled"):
        model.merge_adapter()
    model.enable_adapters()
    assert (model(ids) == attached).all()


def test_setting_an_adapter_while_merged_unmerges_first():
    model, ids = adapted_model(), random_ids(TINY["llama"], 2, 9)
    model.add_adapter(llmc.LoraConfig(r=2, target_modules="mlp", init_lora_weights=False), "b")
    before, attached = bits(model), model(ids)
    model.merge_adapter()
    with pytest.warns(UserWarning, match="unmerged first"):
        model.set_adapter("default")
    assert same(model, before) and (model(ids) == attached).all()


# --- refusals --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("call", [
    lambda model: model.merge_adapter(),
    lambda model: model.add_adapter(llmc.LoraConfig(target_modules="mlp"), "b"),
    lambda model: model.delete_adapter("default"),
    lambda model: model.add_weighted_adapter(["default"], [1.0], "b"),
])  # fmt: skip
def test_what_cannot_be_done_while_merged_is_refused_and_changes_nothing(call):
    model, ids = adapted_model(), random_ids(TINY["llama"], 2, 9)
    model.merge_adapter()
    merged = model(ids)
    with pytest.raises(ConfigError, match="merged"):
        call(model)
    assert (model(ids) == merged).all() and list(model.adapters) == ["default"]


def test_unmerging_what_is_not_merged_is_refused():
    with pytest.raises(ConfigError, match="no adapter is merged"):
        adapted_model().unmerge_adapter()


def test_a_merge_that_would_change_the_logits_is_refused_and_undone():
    """Two huge columns that cancel: what is added to them is lost by rounding."""
    model, ids = adapted_model(target_modules=["o_proj"]), random_ids(TINY["llama"], 2, 9)
    weights = model.state_dict()
    values, out = (weights[f"model.layers.0.self_attn.{name}_proj.weight"] for name in "vo")
    values[1] = values[0]
    out[:, 0], out[:, 1] = 2.0**20, -(2.0**20)
    before, attached = bits(model), model(ids)
    with pytest.raises(ConfigError, match="nothing was merged"):
        model.merge_adapter()
    assert same(model, before) and (model(ids) == attached).all() and len(model.adapters.overwritten) == 0


def test_a_broken_adapter_is_not_merged():
    model = adapted_model()
    before = bits(model)
    model.state_dict()["model.layers.2.mlp.up_proj.lora_A.default.weight"][0, 0] = np.nan
    with pytest.raises(NonFiniteError, match="model.layers.2.mlp.up_proj.weight"):
        model.merge_adapter()
    assert same(model, before) and model.adapters.merged() == []


def test_narrow_weights_tell_what_rounding_lost(capsys):
    weight, A, B = (np.random.default_rng(0).standard_normal(shape, np.float32) for shape in ((5, 7), (2, 7), (5, 2)))
    changed = {"w": (None, [(A, B, 0.1)])}
    weight = weight.astype(ml_dtypes.bfloat16)
    stored, exact = merging.merged({"w": weight}, changed)["w"], weight.astype(np.float32) + 0.1 * B @ A
    lost = np.linalg.norm(stored.astype(np.float32) - exact) / np.linalg.norm(exact - weight.astype(np.float32))
    assert stored.dtype == weight.dtype
    assert f"bfloat16 weights: rounding loses {100 * lost:.3g} %" in capsys.readouterr().out
    merging.merged({"w": exact}, changed)
    assert capsys.readouterr().out == ""


def test_the_comparison_fits_a_model_of_few_positions():
    model = tiny_model(TINY["gpt2"] | dict(n_positions=3))
    model.add_adapter(llmc.LoraConfig(target_modules="mlp", init_lora_weights=False))
    model.merge_adapter()
