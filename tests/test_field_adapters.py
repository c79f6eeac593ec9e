"""Adapters as people meet them: several at once, merged in part, on heads of their own, on vocabularies that grew."""

import copy
import json
import pickle
import shutil
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, TOLERANCE
from lora_peers import adapted, logits
from tiny import close, random_ids, tiny_model

import llmc
from llmc import checkpoint
from llmc.cli import main
from llmc.errors import CheckpointError, ConfigError, ShapeError

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


# --- what may not be done, or must count -----------------------------------------------------------------------------
def test_a_state_dict_is_not_loaded_under_a_merged_adapter():
    model = a_and_b()
    state = {name: view.copy() for name, view in model.state_dict().items()}
    model.merge_adapter(["a"])
    merged = bits(model)
    with pytest.raises(ConfigError, match=r"load_state_dict: adapters are merged into the weights \(a\)"):
        model.load_state_dict(state)
    assert same(model, merged)
    model.unmerge_adapter()
    model.load_state_dict(state)


def test_the_first_adapter_after_the_last_was_deleted_while_disabled_counts():
    model = llmc.Model.from_pretrained(FIELD / "base")
    model.load_adapter(FIELD / "a", "a")
    model.disable_adapters()
    model.delete_adapter("a")
    model.load_adapter(FIELD / "b", "b")
    assert model.active_adapters() == ["b"] == model.adapters.computing()
    other = llmc.Model.from_pretrained(FIELD / "base")
    other.load_adapter(FIELD / "b", "b")
    assert (model(IDS) == other(IDS)).all()


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_model_is_copied_by_its_files_alone(copied):
    model = llmc.Model.from_pretrained(FIELD / "base")
    with pytest.raises(TypeError, match="a Model cannot be copied or pickled.*save_pretrained.*from_pretrained"):
        copied(model)


# --- torch's tensors -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
@pytest.mark.parametrize("storage", ["float32", "bfloat16", "int8"])
def test_tensors_of_torch_are_loaded_in_any_dtype_and_with_gradients(peers, dtype, storage):
    torch, source = peers.torch, tiny_model(TINY["llama"])
    given = {name: torch.nn.Parameter(torch.tensor(view).to(getattr(torch, dtype)))
             for name, view in source.state_dict().items()}
    model, expected = (llmc.Model(llmc.Config(**TINY["llama"]), dtype=storage) for _ in range(2))
    model.load_state_dict(given)
    expected.load_state_dict({name: tensor.detach().float().numpy() for name, tensor in given.items()})
    assert all((view == expected.state_dict()[name]).all() for name, view in model.state_dict().items())


@pytest.mark.parametrize("how, error, words", [
    (lambda tensor: tensor.to("meta"), CheckpointError, "model.norm.weight: .*torch"),
    (lambda tensor: tensor.to_sparse(), CheckpointError, "model.norm.weight: .*torch"),
    (lambda tensor: tensor.cfloat(), CheckpointError, "model.norm.weight: dtype complex64"),
    (lambda tensor: tensor[:3], ShapeError, "model.norm.weight: shape"),
])  # fmt: skip
def test_tensors_of_torch_that_cannot_be_weights_are_refused_by_name(peers, how, error, words):
    model, torch = tiny_model(TINY["llama"]), peers.torch
    before = bits(model)
    given = {name: torch.tensor(view + 1) for name, view in model.state_dict().items()}
    given["model.norm.weight"] = how(given["model.norm.weight"])
    with pytest.raises(error, match=words):
        model.load_state_dict(given)
    assert same(model, before)


# --- trainings of adapters by any name -------------------------------------------------------------------------------
class Rows:
    """Eight rows of seven tokens."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return {"input_ids": [(7 * index + 3 * t * t) % 31 for t in range(7)]}


ADAPTERS = {
    "not called default": {"german": dict(target_modules=["c_attn"])},
    "two": {"a": dict(target_modules=["c_attn"]), "b": dict(target_modules=["c_fc"])},
    "default and another": {"default": dict(target_modules=["c_attn"]), "optimizer": dict(target_modules="mlp")},
    "modules to save": {"a": dict(target_modules=["c_attn"], modules_to_save=["ln_f", "mlp"]),
                        "b": dict(target_modules=["c_attn"], modules_to_save=["wpe"])},
    "biases": {"a": dict(target_modules=["c_attn"], bias="all"), "b": dict(target_modules=["mlp.c_proj"])},
    "all of it": {"default": dict(target_modules=["c_attn"], bias="lora_only", modules_to_save=["ln_1"]),
                  "a b": dict(target_modules="all-linear", rank_pattern={"c_fc": 1})},
}


def trainer(folder, adapters, names=None, **changes):
    config = llmc.Config(model_type="gpt2", vocab_size=31, n_positions=16, n_embd=12, n_layer=2, n_head=2)
    model = tiny_model(config.to_dict())
    for name, fields in adapters.items():
        model.add_adapter(llmc.LoraConfig(r=2, lora_dropout=0.2, **fields), name)
    model.set_adapter(names or list(adapters))
    settings = dict(max_steps=6, per_device_train_batch_size=2, learning_rate=1e-2, save_strategy="steps", save_steps=3,
                    disable_tqdm=True) | changes
    return llmc.Trainer(model, llmc.TrainingArguments(str(folder), **settings), train_dataset=Rows())


@pytest.mark.parametrize("adapters", ADAPTERS.values(), ids=ADAPTERS)
def test_adapters_of_any_name_and_number_resume_to_the_same_bits(tmp_path, adapters):
    whole, cut = trainer(tmp_path / "whole", adapters), trainer(tmp_path / "cut", adapters)
    whole.train()
    cut.callbacks.append(lambda state: "stop" if state.step == 3 else None)
    cut.train()
    again = trainer(tmp_path / "cut", adapters)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again.train(resume_from_checkpoint=True)
    theirs = whole.model.state_dict()
    assert all((view == theirs[name]).all() for name, view in again.model.state_dict().items())
    loaded = tiny_model(whole.model.config.to_dict())
    for name in adapters:
        loaded.load_adapter(tmp_path / "cut", name)
    loaded.set_adapter(list(adapters))
    assert (loaded(Rows()[0]["input_ids"]) == whole.model(Rows()[0]["input_ids"])).all()


@pytest.mark.parametrize("before, after, said", [
    (["a"], ["b"], r"holds adapter a, but what is to be trained is adapter b;"),
    (["a", "b"], ["a"], r"holds adapters a, b, but what is to be trained is adapter a;"),
    (["a"], ["a", "b"], r"holds adapter a, but what is to be trained is adapters a, b;"),
])  # fmt: skip
def test_a_training_resumes_only_the_adapters_it_was_of(tmp_path, before, after, said):
    adapters = {"a": dict(target_modules=["c_attn"]), "b": dict(target_modules=["c_attn"])}
    trainer(tmp_path, adapters, before, max_steps=3).train()
    other = trainer(tmp_path, adapters, after, max_steps=3)
    state = {name: view.copy() for name, view in other.model.state_dict().items()}
    with pytest.raises(ConfigError, match=said):
        other.train(resume_from_checkpoint=True)
    assert all((view == state[name]).all() for name, view in other.model.state_dict().items())


def test_an_adapter_does_not_take_the_place_of_a_checkpoint(tmp_path):
    for name in ("checkpoint-3", "checkpoint-best"):
        with pytest.raises(ConfigError, match=f"'{name}'.*another adapter_name"):
            trainer(tmp_path, {name: dict(target_modules=["c_attn"])}).train()
    assert list(tmp_path.iterdir()) == []


# --- heads of their own ----------------------------------------------------------------------------------------------
def gpt2_with_a_head(folder, head, how):
    """A GPT-2 whose config.json ties, in files that hold a head too."""
    model = tiny_model(TINY["gpt2"])
    model.save_pretrained(folder)
    tensors = {name: view.copy() for name, view in model.state_dict().items()}
    tensors["lm_head.weight"] = head(tensors["transformer.wte.weight"])
    if how == "bin":
        (folder / "model.safetensors").unlink()
        checkpoint.write_torch(folder / "pytorch_model.bin", tensors)
    else:
        checkpoint.write(folder, tensors, max_shard_size="10KB" if how == "shards" else "5GB")
    return model, tensors


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_head_that_differs_from_the_embedding_counts_though_config_json_ties_them(tmp_path, dtype):
    with pytest.warns(UserWarning, match="lm_head.weight.*differs.*embed_tokens.weight") as said:
        model = llmc.Model.from_pretrained(FIELD / "tied-flag-own-head", dtype=dtype, precision="float32")
    assert len(said) == 1 and said[0].filename == __file__
    close(last(model), RIGHT["tied-flag-own-head"]["last logits"], TOLERANCE["logits"])
    assert model.config.tie_word_embeddings is False
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] is False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = llmc.Model.from_pretrained(tmp_path)
    close(last(again), RIGHT["tied-flag-own-head"]["last logits"], TOLERANCE["logits"])


@pytest.mark.parametrize("how", ["safetensors", "bin", "shards"])
@pytest.mark.parametrize("prefix", [True, False])
def test_the_head_of_a_gpt2_counts_too_when_it_differs(tmp_path, how, prefix):
    _, tensors = gpt2_with_a_head(tmp_path, lambda embedding: embedding[::-1] * 2, how)
    if not prefix:
        tensors = {name.removeprefix("transformer."): array for name, array in tensors.items()}
        if how == "bin":
            checkpoint.write_torch(tmp_path / "pytorch_model.bin", tensors)
        else:
            checkpoint.write(tmp_path, tensors)
    with pytest.warns(UserWarning, match="differs"):
        model = llmc.Model.from_pretrained(tmp_path)
    assert not model.config.tie_word_embeddings
    assert (model.state_dict()["lm_head.weight"] == tensors["lm_head.weight"]).all()


@pytest.mark.parametrize("how", ["safetensors", "bin", "shards"])
def test_a_head_that_equals_the_embedding_stays_tied(tmp_path, how):
    tied, _ = gpt2_with_a_head(tmp_path, np.copy, how)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = llmc.Model.from_pretrained(tmp_path)
    ids = random_ids(TINY["gpt2"], 2, 9)
    assert model.config.tie_word_embeddings and (model(ids) == tied(ids)).all()
    assert model.num_parameters() == tied.num_parameters()


def test_heads_are_compared_a_piece_at_a_time(tmp_path):
    embedding = np.random.default_rng(0).standard_normal((8000, 512), np.float32)
    head = embedding.copy()
    for apart, same_numbers in ((False, True), (True, False)):
        head[-1, -1] += apart
        checkpoint.write(tmp_path, {"a": embedding, "b": head, "half": embedding.astype(np.float16)})
        with checkpoint.open(tmp_path) as files:
            tracemalloc.start()
            assert files.equal("a", "b") is same_numbers and files.equal("a", "a") and not files.equal("a", "half")
            assert tracemalloc.get_traced_memory()[1] < embedding.nbytes / 4
            tracemalloc.stop()


def test_an_untied_model_whose_file_has_no_head_starts_it_from_the_embedding(tmp_path):
    shutil.copytree(FIELD / "tied-base", tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    with pytest.warns(UserWarning, match="no lm_head.weight.*starts as model.embed_tokens.weight"):
        model = llmc.Model.from_pretrained(tmp_path)
    tensors = model.state_dict()
    assert not model.config.tie_word_embeddings and not np.shares_memory(*(tensors[name] for name in (
        "lm_head.weight", "model.embed_tokens.weight")))
    assert (model(IDS) == llmc.Model.from_pretrained(FIELD / "tied-base")(IDS)).all()


# --- a base and its adapter in one folder ----------------------------------------------------------------------------
def test_a_folder_of_a_base_and_an_adapter_opens_as_both(tmp_path):
    for name in ("base", "a"):
        shutil.copytree(FIELD / name, tmp_path, dirs_exist_ok=True)
    both, apart = llmc.Model.from_pretrained(tmp_path), llmc.Model.from_pretrained(FIELD / "base")
    apart.load_adapter(FIELD / "a")
    assert both.active_adapters() == ["default"] and (both(IDS) == apart(IDS)).all()
    assert main(["merge", str(tmp_path), "--out", str(tmp_path / "merged")]) == 0
    close(last(llmc.Model.from_pretrained(tmp_path / "merged")), last(apart), TOLERANCE["logits"])


def test_a_folder_with_config_json_and_an_adapter_alone_opens_the_base_that_it_names(tmp_path):
    shutil.copytree(FIELD / "a", tmp_path / "a")
    shutil.copy(FIELD / "base" / "config.json", tmp_path / "a")
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    for base, words in ((str(FIELD / "base"), None), (str(tmp_path / "a"), "names itself")):
        config["base_model_name_or_path"] = base
        (tmp_path / "a" / "adapter_config.json").write_text(json.dumps(config))
        if words is None:
            assert llmc.Model.from_pretrained(tmp_path / "a").active_adapters() == ["default"]
        else:
            with pytest.raises(ConfigError, match=words):
                llmc.Model.from_pretrained(tmp_path / "a")


# --- an adapter that trains a tied head ------------------------------------------------------------------------------
def tied_and_adapter(dtype="float32"):
    model = llmc.Model.from_pretrained(FIELD / "tied-base", dtype=dtype, precision="float32")
    model.load_adapter(FIELD / "tied-base" / "adapter", is_trainable=True)
    return model


TIED = RIGHT["tied-base with its adapter"]["last logits"]


def test_an_adapter_that_trains_a_tied_head_has_a_head_of_its_own(capsys):
    model, base = tied_and_adapter(), llmc.Model.from_pretrained(FIELD / "tied-base")
    close(last(model), TIED, TOLERANCE["logits"])
    assert model.config.tie_word_embeddings and "lm_head.lora_copy.default.weight" in model.state_dict()
    assert "(lm_head): " in repr(model) and "or copy(default, weight, trains)" in repr(model)
    model.print_trainable_parameters()
    assert f"|| all params: {base.num_parameters() + 256 + 32 * 16:,} ||" in capsys.readouterr().out
    model.disable_adapters()
    assert (model(IDS) == base(IDS)).all()
    model.enable_adapters()
    close(last(model), TIED, TOLERANCE["logits"])
    model.delete_adapter("default")
    assert (model(IDS) == base(IDS)).all() and model.config.tie_word_embeddings


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_a_head_of_its_own_beside_narrow_weights_is_no_narrower(dtype):
    base = llmc.Model.from_pretrained(FIELD / "tied-base", dtype=dtype, precision="float32")
    model, before = tied_and_adapter(dtype), base(IDS)
    assert np.abs(last(model) - TIED).max() < 0.5
    model.disable_adapters()
    assert (model(IDS) == before).all()


def test_a_head_of_its_own_trains_and_the_embedding_stays(tmp_path):
    model = llmc.Model.from_pretrained(FIELD / "tied-base")
    model.add_adapter(llmc.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"]))
    before = bits(model)
    assert (model(IDS) == llmc.Model.from_pretrained(FIELD / "tied-base")(IDS)).all()
    run, optimizer = model.run(1, 8, backward=True), llmc.AdamW(model, lr=0.01)
    for _ in range(3):
        run.forward_backward(IDS)
        optimizer.step(run)
    copy = model.state_dict()["lm_head.lora_copy.default.weight"]
    assert same(model, before) and not (copy == model.state_dict()["lm_head.weight"]).all()
    model.save_adapter(tmp_path)
    with checkpoint.open(tmp_path / "adapter_model.safetensors") as files:
        assert (files["base_model.model.lm_head.weight"] == copy).all()
    again = llmc.Model.from_pretrained(FIELD / "tied-base")
    again.load_adapter(tmp_path)
    assert (again(IDS) == model(IDS)).all()


def test_a_tied_embedding_too_may_have_a_copy_that_the_head_does_not_read(peers, tmp_path_factory, tmp_path):
    for modules in (["lm_head"], ["embed_tokens"], ["embed_tokens", "lm_head"]):
        theirs, ours = adapted(peers, "llama: tied", tmp_path_factory, target_modules=["q_proj"],
                               modules_to_save=modules)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs.save_pretrained(tmp_path / "-".join(modules))
        ours.load_adapter(tmp_path / "-".join(modules))
        ids = random_ids(TINY["llama"], 2, 9)
        close(ours(ids), logits(peers, theirs, ids), TOLERANCE["logits"])
        merged = ours(ids)
        with pytest.warns(UserWarning, match="no longer tied"):
            ours.merge_adapter()
        close(ours(ids), merged, TOLERANCE["logits"])
        ours.unmerge_adapter()
        assert (ours(ids) == merged).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merging_a_head_of_its_own_unties_the_model(tmp_path, dtype):
    model = tied_and_adapter(dtype)
    before, attached = bits(model), model(IDS)
    run, optimizer = model.run(1, 8, backward=True), llmc.AdamW(model)
    with pytest.warns(UserWarning, match="lm_head.weight.*no longer tied") as said:
        model.merge_adapter()
    assert said[0].filename == __file__
    with pytest.raises(llmc.Error, match="anew"):
        run.forward(IDS)
    with pytest.raises(llmc.Error, match="anew"):
        optimizer.state_dict()
    assert model.config.tie_word_embeddings is False
    model.unmerge_adapter()
    assert same(model, before | {"lm_head.weight": before["model.embed_tokens.weight"]})
    assert (model(IDS) == attached).all()
    model.merge_and_unload().save_pretrained(tmp_path)
    again = llmc.Model.from_pretrained(tmp_path)
    assert not again.config.tie_word_embeddings and (again(IDS) == model(IDS)).all() or dtype == "bfloat16"
    assert np.abs(last(again) - TIED).max() < (1e-3 if dtype == "float32" else 0.5)


def test_a_tied_pair_that_peft_would_keep_tied_is_refused():
    model = llmc.Model.from_pretrained(FIELD / "tied-base")
    with pytest.raises(ConfigError, match="ensure_weight_tying"):
        model.add_adapter(llmc.LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"],
                                          ensure_weight_tying=True))


# --- vocabularies that grow ------------------------------------------------------------------------------------------
def test_an_adapter_of_a_vocabulary_that_grew_is_loaded_after_growing():
    model, right = llmc.Model.from_pretrained(FIELD / "base"), RIGHT["grown-adapter on base"]
    with pytest.raises(ShapeError, match=r"embed_tokens.weight has shape \(35, 16\).*resize_token_embeddings\(35\)"):
        model.load_adapter(FIELD / "grown-adapter")
    model.resize_token_embeddings(35)
    model.load_adapter(FIELD / "grown-adapter")
    close(last(model, right["ids"]), right["last logits"], TOLERANCE["logits"])


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_new_rows_are_the_mean_of_the_old_and_the_old_stay(tmp_path, family, dtype, tied):
    config = llmc.Config(**TINY[family] | dict(tie_word_embeddings=tied))
    model, ids = llmc.Model(config, dtype=dtype, precision="float32"), random_ids(TINY[family], 2, 9)
    old, before, V = bits_of(model), model(ids), config.vocab_size
    assert model.resize_token_embeddings(V + 5) is None
    new = bits_of(model)
    assert model.config.vocab_size == V + 5 and config.vocab_size == V and list(new) == list(old)
    assert model.config.tie_word_embeddings is tied and ("lm_head.weight" in model._parameters) is not tied
    for name, view in new.items():
        assert (view[:len(old[name])] == old[name]).all()
        if len(view) > len(old[name]):
            mean = old[name].astype(np.float64).mean(0)
            close(view[-1], mean, 0.02 * np.abs(mean).max() if dtype != "float32" else 1e-7)
    assert {len(view) for name, view in new.items() if "wte" in name or "tokens" in name} == {V + 5}
    assert (model(ids)[..., :V] == before).all()
    assert model.num_parameters() == llmc.Model(config.replace(vocab_size=V + 5)).num_parameters()
    model.save_pretrained(tmp_path)
    again = llmc.Model.from_pretrained(tmp_path)
    assert again.config.vocab_size == V + 5
    if dtype == "float32":
        assert (again([[V + 4, 1]]) == model([[V + 4, 1]])).all()
    model.resize_token_embeddings(V)
    assert all((view == old[name]).all() for name, view in bits_of(model).items()) and (model(ids) == before).all()


def bits_of(model):
    """What is stored, as arrays; int8 by its numbers times its scales."""
    return {name: np.array(np.asarray(view)) for name, view in model._parameters.items()}


def test_runs_and_optimizers_made_before_a_resize_ask_to_be_made_anew():
    model = llmc.Model.from_pretrained(FIELD / "base")
    run, optimizer = model.run(1, 8, backward=True), llmc.AdamW(model)
    model.resize_token_embeddings(40)
    with pytest.raises(llmc.Error, match="anew"):
        run.forward(IDS)
    fresh = model.run(1, 8, backward=True)
    fresh.forward_backward([[39, 3, 38, 1, 2, 3, 4, 5]])
    with pytest.raises(llmc.Error, match="anew"):
        optimizer.step(fresh)
    llmc.AdamW(model).step(fresh)


def test_adapters_are_carried_along_when_none_of_their_tensors_depends_on_the_vocabulary():
    model = a_and_b()
    model.adapters.parameters("a")  # views of before are of the model as it was
    before = model(IDS)
    model.resize_token_embeddings(33)
    assert (model(IDS)[..., :32] == before).all() and model.active_adapters() == ["a", "b"]
    model.disable_adapters()
    assert (model(IDS)[..., :32] == llmc.Model.from_pretrained(FIELD / "base")(IDS)).all()


@pytest.mark.parametrize("fields, tensor", [
    (dict(target_modules=["q_proj"], modules_to_save=["lm_head"]), "lm_head.weight"),
    (dict(target_modules=["q_proj"], modules_to_save=["embed_tokens"]), "model.embed_tokens.weight"),
    (dict(target_modules=["lm_head"]), "lm_head.weight"),
])  # fmt: skip
def test_a_vocabulary_does_not_grow_under_an_adapter_with_rows_of_it(fields, tensor):
    model = llmc.Model.from_pretrained(FIELD / "base")
    model.add_adapter(llmc.LoraConfig(r=2, **fields), "a")
    with pytest.raises(ConfigError, match=f"adapter 'a' has rows of its own for {tensor}.*delete_adapter"):
        model.resize_token_embeddings(35)
    assert model.config.vocab_size == 32
    model(IDS)


def test_a_vocabulary_does_not_grow_under_merged_adapters_or_to_what_is_no_size():
    model = a_and_b()
    model.merge_adapter(["a"])
    with pytest.raises(ConfigError, match="resize_token_embeddings: adapters are merged"):
        model.resize_token_embeddings(35)
    model.unmerge_adapter()
    for size, error in ((0, ConfigError), (2.5, TypeError), ("35", TypeError)):
        with pytest.raises(error, match="new_num_tokens"):
            model.resize_token_embeddings(size)
    with pytest.raises(ConfigError, match="pad_token_id"):
        llmc.Model(llmc.Config(**TINY["llama"] | dict(pad_token_id=100))).resize_token_embeddings(50)


def test_a_vocabulary_of_the_size_it_has_changes_nothing():
    model = llmc.Model.from_pretrained(FIELD / "base")
    run = model.run(1, 8)
    model.resize_token_embeddings(32)
    run.forward(IDS)
