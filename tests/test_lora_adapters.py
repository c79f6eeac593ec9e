"""What a model does with its adapters: coming, going, switching, counting, and being asked for the wrong thing."""

import contextlib
import io
import warnings

import numpy as np
import pytest
from conftest import TINY, TOLERANCE
from lora_peers import adapted, require_peft
from tiny import close, hf_model, random_ids, tiny_model

import llmc
from llmc.errors import ConfigError, UnknownNameError
from llmc.lora.activity import State
from llmc.lora.overview import spans

IDS = random_ids(TINY["llama"], 2, 9)
RANDOM = dict(r=4, init_lora_weights=False)


def two_adapters():
    """A model with adapters a, which is active, and b."""
    model = tiny_model(TINY["llama"])
    model.add_adapter(llmc.LoraConfig(target_modules="attention", **RANDOM), "a")
    model.add_adapter(llmc.LoraConfig(target_modules="mlp", **RANDOM), "b", seed=1)
    return model


def printed(call):
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        call()
    return text.getvalue()


# --- switching -------------------------------------------------------------------------------------------------------
def test_the_first_adapter_is_active_and_others_wait():
    model = two_adapters()
    assert model.active_adapters() == ["a"]
    alone = tiny_model(TINY["llama"])
    alone.add_adapter(llmc.LoraConfig(target_modules="attention", **RANDOM), "another name")
    assert (model(IDS) == alone(IDS)).all()


def test_active_adapters_add_up_in_any_order():
    model = two_adapters()
    model.set_adapter(["a", "b"])
    both = model(IDS)
    assert model.active_adapters() == ["a", "b"]
    model.set_adapter(["b", "a"])
    close(model(IDS), both, TOLERANCE["logits"])
    model.set_adapter("b")
    assert model.active_adapters() == ["b"] and np.abs(model(IDS) - both).max() > 1e-2


def test_disabled_adapters_leave_the_base_to_the_bit_and_come_back_to_the_bit():
    model, base = two_adapters(), tiny_model(TINY["llama"])(IDS)
    adapted_logits = model(IDS)
    model.disable_adapters()
    assert (model(IDS) == base).all() and model.active_adapters() == ["a"]
    model.enable_adapters()
    assert (model(IDS) == adapted_logits).all()


def test_disabled_biases_and_saved_modules_leave_the_base_too():
    model = tiny_model(TINY["gpt2"])
    ids = random_ids(TINY["gpt2"], 2, 9)
    base = model(ids)
    model.add_adapter(llmc.LoraConfig(target_modules="mlp", bias="all", modules_to_save=["ln_f"], **RANDOM))
    for view in model._model.adapter_parameters("default").values():
        view += 0.1
    assert np.abs(model(ids) - base).max() > 0.1
    model.disable_adapters()
    assert (model(ids) == base).all()


def test_a_deleted_adapter_is_gone_and_the_next_becomes_active():
    model = two_adapters()
    model.set_adapter("b")
    b = model(IDS)
    model.set_adapter("a")
    with pytest.warns(UserWarning, match="'a' was active; now 'b' is"):
        model.delete_adapter("a")
    assert (model(IDS) == b).all() and not any(".a." in name for name in model.state_dict())
    model.delete_adapter("b")
    assert model.active_adapters() == [] and (model(IDS) == tiny_model(TINY["llama"])(IDS)).all()
    model.add_adapter(llmc.LoraConfig(target_modules="mlp"), "a")


def test_activity_is_that_of_peft(peers):
    peft = require_peft()
    configs = {name: peft.LoraConfig(target_modules=[target]) for name, target in (("a", "q_proj"), ("b", "up_proj"))}
    theirs = peft.get_peft_model(hf_model(peers, TINY["llama"]), configs["a"], "a")
    theirs.add_adapter("b", configs["b"])
    ours = two_adapters()

    def training():
        return {name for name in "ab" for key, q in theirs.named_parameters() if f".{name}." in key and q.requires_grad}

    for step in (lambda m: None, lambda m: m.set_adapter("b"), lambda m: m.set_adapter("a", inference_mode=True)):
        step(theirs), step(ours)
        assert theirs.active_adapters == ours.active_adapters()
        assert training() == {name for name in "ab" if ours.adapters.state(name) is State.TRAINS}


def test_generation_and_hooks_see_the_adapter():
    model, path = two_adapters(), "model.layers.1.self_attn.q_proj"
    run = model.run(2, 9, keep=[path])
    run.forward(IDS)
    tensors = model.state_dict()
    weight = tensors[f"{path}.weight"] + 2 * tensors[f"{path}.lora_B.a.weight"] @ tensors[f"{path}.lora_A.a.weight"]
    close(run.output(path), run.input(path) @ weight.T, TOLERANCE["hidden"])
    merged = two_adapters().merge_and_unload()
    assert (model.generate(IDS, max_new_tokens=8) == merged.generate(IDS, max_new_tokens=8)).all()
    assert (model.generate(IDS, max_new_tokens=8) == model.generate(IDS, max_new_tokens=8, use_cache=False)).all()


# --- what is shown ---------------------------------------------------------------------------------------------------
def test_a_state_dict_keeps_the_names_of_the_base():
    model, plain = two_adapters(), tiny_model(TINY["llama"]).state_dict()
    state = model.state_dict()
    assert list(state)[: len(plain)] == list(plain)
    assert all("lora_" in name for name in list(state)[len(plain):]) and len(state) == len(plain) + 2 * 7 * 3
    assert state["model.layers.0.mlp.up_proj.lora_A.b.weight"].shape == (4, 44)
    assert state["model.layers.0.mlp.up_proj.lora_B.b.weight"].shape == (37, 4)


def test_copies_of_modules_stand_in_a_state_dict_with_lora_in_their_names():
    model, plain = tiny_model(TINY["llama"]), tiny_model(TINY["llama"]).state_dict()
    model.add_adapter(llmc.LoraConfig(target_modules="mlp", modules_to_save=["model.norm"]))
    extra = set(model.state_dict()) - set(plain)
    assert "model.norm.lora_copy.default.weight" in extra and all("lora_" in name for name in extra)


def test_a_state_dict_can_be_loaded_with_adapters_and_without():
    model, other = two_adapters(), two_adapters()
    for view in other.state_dict().values():
        view += 0.01
    other.load_state_dict(model.state_dict())
    assert (other(IDS) == model(IDS)).all()
    base = tiny_model(TINY["llama"], seed=3)
    other.load_state_dict(base.state_dict())
    other.disable_adapters()
    assert (other(IDS) == base(IDS)).all()


def test_writing_into_a_view_of_an_adapter_is_training_by_hand():
    model = two_adapters()
    for name, view in model.state_dict().items():
        if "lora_B.a" in name:
            view[...] = 0
    assert (model(IDS) == tiny_model(TINY["llama"])(IDS)).all()


@pytest.mark.parametrize("case, config", [
    ("gpt2", dict(target_modules=["c_attn"])), ("gpt2", dict(target_modules=["c_attn"], bias="all")),
    ("gpt2", dict(target_modules=["c_attn"], bias="lora_only", modules_to_save=["ln_f"])),
    ("llama", dict(target_modules="all-linear", r=3, rank_pattern={"q_proj": 2})),
    ("llama: tied", dict(target_modules=["q_proj"])),
    ("mistral", dict(target_modules=["v_proj"], layers_to_transform=0)),
])  # fmt: skip
def test_the_count_is_printed_as_peft_prints_it(peers, tmp_path_factory, case, config):
    theirs, ours = adapted(peers, case, tmp_path_factory, **config)
    ours.add_adapter(llmc.LoraConfig(**config))
    expected = printed(theirs.print_trainable_parameters).strip()
    assert printed(ours.print_trainable_parameters).splitlines()[0] == expected


def test_a_table_says_what_got_an_adapter():
    model = two_adapters()
    model.add_adapter(llmc.LoraConfig(r=2, target_modules=["q_proj"], layers_to_transform=[0, 2], use_rslora=True), "c")
    lines = printed(model.print_trainable_parameters).splitlines()
    assert lines[0].startswith("trainable params: 3,552 || all params: ")
    assert lines[1].split() == "adapter state module layers rank alpha scale dropout parameters".split()
    assert lines[3].split() == ["a", "trains", "model.layers.*.self_attn.q_proj", "0-2", "4", "8", "2", "0", "1,008"]
    assert lines[-1].split() == ["c", "inactive", "model.layers.*.self_attn.q_proj", "0,", "2", "2", "8", "5.657", "0",
                                 "336"]


def test_the_tree_shows_adapters_where_they_are():
    model = tiny_model(TINY["llama"])
    plain = repr(model)
    model.add_adapter(llmc.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], layers_to_transform=[0, 1],
                                      modules_to_save=["norm"]), "a")
    model.add_adapter(llmc.LoraConfig(r=2, target_modules=["q_proj"]), "b")
    q = "(q_proj): Linear(in_features=44, out_features=40, bias=False)"
    lines = [line.strip() for line in repr(model).splitlines()]
    assert [line for line in lines if line.startswith("(q_proj)")] == [
        f"{q} + LoRA(a, r=4, alpha=8, trains) + LoRA(b, r=2, alpha=8, inactive)",
        f"{q} + LoRA(b, r=2, alpha=8, inactive)"]
    assert "(0-1): 2 x Block(" in lines and "(2): Block(" in lines
    assert any(line.startswith("(norm): ") and line.endswith(" or copy(a, weight, trains)") for line in lines)
    model.set_adapter("b", inference_mode=True)
    assert "LoRA(a, r=4, alpha=8, inactive) + LoRA(b, r=2, alpha=8, active)" in repr(model)
    model.disable_adapters()
    assert "LoRA(b, r=2, alpha=8, inactive)" in repr(model)
    model.enable_adapters()
    model.merge_adapter()
    assert "LoRA(b, r=2, alpha=8, merged)" in repr(model)
    model.merge_and_unload()
    assert repr(model) == plain


def test_a_summary_has_rows_for_adapters_and_counts_what_computes():
    model = tiny_model(TINY["llama"])
    plain = model.summary()
    model.add_adapter(llmc.LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["norm"]), "a")
    model.add_adapter(llmc.LoraConfig(r=2, target_modules=["q_proj"]), "b")
    rows = {row["module"]: row for row in model.summary().rows}
    assert [row for name, row in rows.items() if ".lora_" not in name] == plain.rows
    own = {name: row for name, row in rows.items() if ".lora_" in name}
    assert set(own) == {name.rpartition(".")[0] for name in model.state_dict() if ".lora_" in name}
    assert all(row["parameters"] * 4 == row["bytes"] == model.state_dict()[f"{name}.weight"].nbytes
               for name, row in own.items())
    path = "model.layers.0.self_attn.q_proj"
    assert own[f"{path}.lora_A.a"] == {"module": f"{path}.lora_A.a", "kind": "LoRA", "shape": (4, 44),
                                       "parameters": 176, "FLOPs": 352, "bytes": 704}
    assert own[f"{path}.lora_B.b"]["FLOPs"] == 0 and own["model.norm.lora_copy.a"]["kind"] == "copy"


def test_without_adapters_everything_is_trainable():
    text = printed(tiny_model(TINY["llama"]).print_trainable_parameters)
    assert text == "trainable params: 40,216 || all params: 40,216 || trainable%: 100.0000\n"


def test_numbers_are_told_as_spans():
    assert spans([5, 0, 1, 2]) == "0-2, 5" and spans([]) == "" and spans([3]) == "3"


# --- wrong -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("call, error, words", [
    (lambda m: m.set_adapter("default"), UnknownNameError, "no adapter 'default'; a, b"),
    (lambda m: m.set_adapter(["a", "bb"]), UnknownNameError, "no adapter 'bb'; nearest: b"),
    (lambda m: m.set_adapter([]), ConfigError, "no adapter is named"),
    (lambda m: m.delete_adapter("x"), UnknownNameError, "no adapter 'x'"),
    (lambda m: m.save_adapter("nowhere"), UnknownNameError, "no adapter 'default'"),
    (lambda m: m.merge_adapter(["x"]), UnknownNameError, "no adapter 'x'"),
    (lambda m: m.merge_adapter("a"), TypeError, "a list of names"),
    (lambda m: m.add_adapter(llmc.LoraConfig(target_modules="mlp"), "a"), ConfigError, "'a' already, besides b"),
    (lambda m: m.load_adapter("nowhere", "a"), ConfigError, "adapter 'a' already"),
    (lambda m: m.load_adapter("nowhere/at/all", "c"), FileNotFoundError, "nowhere"),
    (lambda m: m.add_adapter(llmc.LoraConfig(target_modules="mlp"), "a.b"), ConfigError, "a name is at most 64"),
    (lambda m: m.add_adapter(llmc.LoraConfig(target_modules="mlp"), ""), ConfigError, "a name is at most 64 letters"),
    (lambda m: m.add_adapter(llmc.LoraConfig(target_modules="mlp"), 3), TypeError, "adapter_name is a string"),
    (lambda m: m.add_adapter({"r": 4}, "c"), TypeError, "llmc.LoraConfig is needed, not dict"),
    (lambda m: m.add_adapter(llmc.LoraConfig(target_modules="mlp"), "c", seed="x"), TypeError, "seed"),
])  # fmt: skip
def test_a_wrong_call_is_refused_and_changes_nothing(call, error, words):
    model = two_adapters()
    before = model(IDS)
    run = model.run(2, 9)
    with pytest.raises(error, match=words):
        call(model)
    assert list(model.adapters) == ["a", "b"] and model.active_adapters() == ["a"]
    assert (model(IDS) == before).all()
    run.forward(IDS)  # nor is there a change of structure


@pytest.mark.parametrize("call", ["disable_adapters", "enable_adapters", "merge_adapter", "merge_and_unload"])
def test_what_needs_an_adapter_says_so(call):
    with pytest.raises(ConfigError, match="the model has no adapter"):
        getattr(tiny_model(TINY["llama"]), call)()


def test_two_adapters_with_their_own_copy_of_one_parameter_are_not_active_at_once():
    model = tiny_model(TINY["llama"])
    for name in "ab":
        model.add_adapter(llmc.LoraConfig(target_modules="mlp", modules_to_save=["model.norm"]), name)
    with pytest.raises(ConfigError, match="'a' and 'b' both have their own model.norm.weight"):
        model.set_adapter(["a", "b"])
    assert model.active_adapters() == ["a"]


def test_one_adapter_alone_trains_biases_as_in_peft():
    model = tiny_model(TINY["gpt2"])
    model.add_adapter(llmc.LoraConfig(target_modules="mlp", bias="all"))
    with pytest.raises(ConfigError, match="adapter 'default' trains biases already"):
        model.add_adapter(llmc.LoraConfig(target_modules="mlp", bias="lora_only"), "b")


def test_an_adapter_under_another_seed_of_the_base_still_adds_the_same_delta():
    one, other = two_adapters(), tiny_model(TINY["llama"], seed=9)
    other.add_adapter(llmc.LoraConfig(target_modules="attention", **RANDOM), "a")
    ours, theirs = (model._model.adapter_parameters("a") for model in (one, other))
    assert all((view == theirs[name]).all() for name, view in ours.items())


def test_adapters_of_any_size_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        two_adapters().merge_and_unload()
