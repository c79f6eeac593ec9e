"""Adapters as people meet them: several at once, merged in part, on heads of their own, on vocabularies that grew."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, TOLERANCE
from tiny import close, random_ids, tiny_model

import llmc
from llmc.cli import main
from llmc.errors import ConfigError

FIELD = Path(__file__).parent / "vectors" / "field"
RIGHT = json.loads((FIELD / "right.json").read_text(encoding="utf-8"))
IDS = RIGHT["ids"]


def last(model, ids=IDS):
    return model(ids)[0, -1]


# --- merging some of several -----------------------------------------------------------------------------------------
def a_and_b(dtype="float32"):
    model = llmc.Model.from_pretrained(FIELD / "base", dtype=dtype)
    for name in "ab":
        model.load_adapter(FIELD / name, name)
    model.set_adapter(["a", "b"])
    return model


def bits(model):
    return {name: view.copy() for name, view in model._parameters.items()}


def same(model, before):
    return all((view == before[name]).all() for name, view in model._parameters.items())


def test_two_adapters_add_up_to_peft_s_logits():
    close(last(a_and_b()), RIGHT["a and b on base"]["last logits"], TOLERANCE["logits"])


@pytest.mark.parametrize("merged", [["a"], ["b"], ["a", "b"]])
def test_merging_some_of_the_active_adapters_changes_no_output(merged):
    model = a_and_b()
    before, attached = bits(model), model(IDS)
    model.merge_adapter(merged)
    close(model(IDS), attached, TOLERANCE["logits"])
    assert model.active_adapters() == ["a", "b"] and model.adapters.merged() == merged and not same(model, before)
    model.unmerge_adapter()
    assert same(model, before) and (model(IDS) == attached).all() and model.active_adapters() == ["a", "b"]


def test_an_adapter_beside_a_merged_one_is_merged_later_to_the_same_bits():
    one, other = a_and_b(), a_and_b()
    before, attached = bits(one), one(IDS)
    one.merge_adapter()
    other.merge_adapter(["a"])
    other.merge_adapter()
    assert same(other, bits(one))
    other.unmerge_adapter()
    assert same(other, before) and (other(IDS) == attached).all()


def test_unloading_after_merging_one_of_several_loses_none():
    model = a_and_b()
    model.merge_adapter(["a"])
    plain = model.merge_and_unload()
    close(last(plain), RIGHT["a and b on base"]["last logits"], TOLERANCE["logits"])
    assert plain.active_adapters() == [] and len(plain.adapters) == 0


def test_an_adapter_beside_a_merged_one_goes_on_training_and_is_not_lost_by_saving(tmp_path):
    model = a_and_b()
    model.merge_adapter(["a"])
    merged = bits(model)
    run, optimizer = model.run(1, 8, backward=True), llmc.AdamW(model, lr=0.01)
    run.forward_backward(IDS)
    optimizer.step(run)
    assert same(model, merged) and all(".b." in name for name in optimizer.state_dict()["exp_avg"])
    with pytest.raises(ConfigError, match=r"adapters \(b\) that are not merged"):
        model.save_pretrained(tmp_path)


def test_only_adapters_that_are_active_stay_beside_a_merged_one():
    model = a_and_b()
    model.set_adapter("b")
    b = model(IDS)
    model.set_adapter("a")
    model.merge_adapter(["b"])
    close(model(IDS), b, TOLERANCE["logits"])
    assert model.active_adapters() == ["b"]
    model.unmerge_adapter()
    assert model.active_adapters() == ["a"]


def test_what_is_merged_already_or_named_by_nobody_is_refused():
    model = a_and_b()
    with pytest.raises(ConfigError, match=r"merge_adapter: no adapter is named"):
        model.merge_adapter([])
    model.merge_adapter(["a"])
    merged = bits(model)
    with pytest.raises(ConfigError, match="merged already: a"):
        model.merge_adapter(["a"])
    with pytest.raises(ConfigError, match="merged"):
        model.delete_adapter("b")
    assert same(model, merged)


def test_a_weight_that_an_active_adapter_reads_its_own_copy_of_is_not_merged_under_it():
    model = tiny_model(TINY["llama"])
    model.add_adapter(llmc.LoraConfig(target_modules=["v_proj"], init_lora_weights=False), "a")
    model.add_adapter(llmc.LoraConfig(target_modules=["q_proj"], modules_to_save=["v_proj"]), "b")
    model.set_adapter(["a", "b"])
    ids = random_ids(TINY["llama"], 2, 9)
    before, attached = bits(model), model(ids)
    with pytest.raises(ConfigError, match="'b' has its own model.layers.0.self_attn.v_proj.weight.*merge both"):
        model.merge_adapter(["a"])
    assert same(model, before) and (model(ids) == attached).all()
    model.merge_adapter(["b"])
    close(model(ids), attached, TOLERANCE["logits"])
    model.merge_adapter(["a"])
    close(model(ids), attached, TOLERANCE["logits"])


# --- what rounding may do --------------------------------------------------------------------------------------------
def test_the_bound_of_a_merge_grows_with_the_largest_logit():
    model = llmc.Model.from_pretrained(FIELD / "large-logits")
    model.load_adapter(FIELD / "large-logits" / "adapter")
    right = RIGHT["large-logits"]
    largest = np.abs(right["last logits, merged"]).max() / 8
    close(last(model), right["last logits, adapter attached"], largest * TOLERANCE["logits"])
    close(last(model.merge_and_unload()), right["last logits, merged"], largest * TOLERANCE["logits"])


def share(text):
    """The percentage that a text states, once."""
    assert text.count(" %") == 1, text
    return float(text.split(" %")[0].split()[-1])


def test_bfloat16_weights_are_merged_and_the_share_that_rounding_loses_is_said(capsys):
    model = a_and_b("bfloat16")
    base = {name: view.astype(np.float64) for name, view in model._parameters.items()}
    tensors = {name: model.adapters.parameters(name) for name in "ab"}
    model.merge_adapter()
    stated = share(capsys.readouterr().out)
    lost = added = 0.0
    for path in model.adapters["a"].branches:
        name = f"{path}.weight"
        exact = base[name] + sum(2.0 * tensors[each][f"{path}.lora_B.{each}.weight"].astype(np.float64)
                                 @ tensors[each][f"{path}.lora_A.{each}.weight"] for each in "ab")
        lost += np.sum((model._parameters[name].astype(np.float64) - exact) ** 2)
        added += np.sum((exact - base[name]) ** 2)
    assert stated == pytest.approx(100 * np.sqrt(lost / added), rel=0.01) and 0 < stated < 5


def test_a_small_adapter_is_merged_into_bfloat16_though_most_of_it_is_lost(capsys):
    model = a_and_b("bfloat16")
    for name in "ab":
        for tensor, view in model.adapters.parameters(name).items():
            view *= 0.02 if "lora_B" in tensor else 1
    model.merge_and_unload()
    assert share(capsys.readouterr().out) > 5


def test_an_adapter_that_does_nothing_loses_nothing(capsys):
    model = llmc.Model.from_pretrained(FIELD / "base", dtype="bfloat16")
    model.add_adapter(llmc.LoraConfig(target_modules=["q_proj"]))
    model.merge_adapter()
    assert share(capsys.readouterr().out) == 0


def test_int8_weights_are_never_merged_into():
    with pytest.raises(ConfigError, match="int8.*dtype='bfloat16' or 'float32'"):
        a_and_b("int8").merge_adapter()


def test_the_share_is_said_before_a_broken_adapter_is_refused_or_anything_written(capsys):
    model = a_and_b("bfloat16")
    before = bits(model)
    model.adapters.parameters("b")["model.layers.1.self_attn.v_proj.lora_B.b.weight"][0, 0] = np.inf
    with pytest.raises(llmc.NonFiniteError, match="model.layers.1.self_attn.v_proj.weight"):
        model.merge_adapter()
    assert same(model, before) and capsys.readouterr().out == ""


@pytest.mark.parametrize("dtype, said", [("float32", 0), ("bfloat16", 1), ("float16", 1)])
def test_the_command_says_the_share_once(tmp_path, capsys, dtype, said):
    shutil.copytree(FIELD / "large-logits", tmp_path / "base")
    out = tmp_path / "merged"
    words = ["merge", str(FIELD / "large-logits" / "adapter"), "--base", str(tmp_path / "base"), "--out", str(out)]
    assert main([*words, "--dtype", dtype]) == 0
    text = capsys.readouterr().out
    assert text.count(" %") == said and text.count("rounding") == said
    assert np.abs(last(llmc.Model.from_pretrained(out)) - RIGHT["large-logits"]["last logits, merged"]).max() < 4
