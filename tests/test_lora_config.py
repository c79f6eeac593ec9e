"""LoraConfig: every field of peft's file, honoured, kept or refused by name."""

import json

import numpy as np
import pytest
from lora_peers import require_peft

import llmc
from llmc.errors import CheckpointError, ConfigError


def test_the_defaults_are_those_of_the_installed_peft():
    peft = require_peft()
    theirs = {name: getattr(value, "value", value) for name, value in peft.LoraConfig().to_dict().items()}
    assert llmc.LoraConfig().to_dict() == theirs | {"peft_version": None}


def test_every_field_of_the_installed_peft_survives_a_round_trip(tmp_path):
    peft = require_peft()
    theirs = peft.LoraConfig(
        r=3, target_modules=["q_proj", "v_proj"], exclude_modules=["k_proj"], lora_alpha=7, lora_dropout=0.25,
        fan_in_fan_out=True, bias="lora_only", use_rslora=True, modules_to_save=["norm"], init_lora_weights="gaussian",
        layers_to_transform=[1, 0], layers_pattern="layers", rank_pattern={"v_proj": 5, "q_proj": 4},
        alpha_pattern={"z": 2, "a": 1.5}, task_type="CAUSAL_LM", base_model_name_or_path="here", revision="main",
        inference_mode=True, ensure_weight_tying=True,
    )  # fmt: skip
    theirs.save_pretrained(tmp_path / "theirs")
    ours = llmc.LoraConfig.from_pretrained(tmp_path / "theirs")
    ours.save_pretrained(tmp_path / "ours")
    there, here = (json.loads((tmp_path / side / "adapter_config.json").read_text()) for side in ("theirs", "ours"))
    for fields in (there, here):
        fields["target_modules"].sort()
    assert here == there
    again = peft.LoraConfig.from_pretrained(tmp_path / "ours")
    assert again.to_dict() == theirs.to_dict()
    assert llmc.LoraConfig.from_pretrained(tmp_path / "ours") == ours == llmc.LoraConfig(**ours.to_dict())


def test_the_order_of_patterns_is_kept(tmp_path):
    ours = llmc.LoraConfig(rank_pattern={"z": 1, "a": 2, "m": 3})
    ours.save_pretrained(tmp_path)
    assert list(llmc.LoraConfig.from_pretrained(tmp_path).rank_pattern) == ["z", "a", "m"]
    assert list(json.loads((tmp_path / "adapter_config.json").read_text())["rank_pattern"]) == ["z", "a", "m"]


def test_fields_of_later_releases_are_accepted_where_they_are_off():
    config = llmc.LoraConfig(a_later_field=None, another=False, a_third={})
    assert config.to_dict()["a_later_field"] is None
    with pytest.raises(ConfigError, match="a_later_field 3: LoraConfig has no such field"):
        llmc.LoraConfig(a_later_field=3)


def test_sets_and_numpy_numbers_are_fields_too():
    config = llmc.LoraConfig(r=np.int64(4), target_modules={"v_proj", "q_proj"}, layers_to_transform=range(2),
                             lora_alpha=np.float32(2), use_rslora=np.True_)
    assert config.target_modules == ["q_proj", "v_proj"] and config.layers_to_transform == [0, 1]
    json.dumps(config.to_dict())


def test_what_is_shown_is_what_was_changed():
    shown = repr(llmc.LoraConfig(r=4, target_modules=["q_proj"]))
    assert shown == "LoraConfig(r=4, target_modules=['q_proj'])"


@pytest.mark.parametrize("alpha, rank, rslora, scale", [(8, 4, False, 2.0), (8, 4, True, 4.0), (3, 2, False, 1.5)])
def test_the_scale_is_alpha_by_the_rank_or_by_its_root(alpha, rank, rslora, scale):
    assert llmc.LoraConfig(use_rslora=rslora).scale(rank, alpha) == scale


REFUSED = {
    "use_dora": True, "velora_config": {"num_groups": 4}, "alora_invocation_tokens": [1], "use_qalora": True,
    "monteclora_config": {"num_samples": 2}, "layer_replication": [[0, 1]], "lora_bias": True,
    "target_parameters": ["experts.weight"], "trainable_token_indices": [1], "use_bdlora": {"nblocks": 2},
    "arrow_config": {"top_k": 1}, "kasa_config": {"beta": 1.0},
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_field_that_would_change_the_numbers_is_refused_by_name(name):
    with pytest.raises(ConfigError, match=name):
        llmc.LoraConfig(**{name: REFUSED[name]})


@pytest.mark.parametrize("kind", ["pissa", "pissa_niter_16", "olora", "corda", "loftq"])
def test_an_initialisation_that_changes_the_base_is_refused_by_name(kind):
    with pytest.raises(ConfigError, match=f"init_lora_weights '{kind}'.*base's weights"):
        llmc.LoraConfig(init_lora_weights=kind)


def test_every_field_of_the_installed_peft_is_honoured_kept_or_refused():
    known = llmc.LoraConfig().to_dict()
    assert set(require_peft().LoraConfig().to_dict()) <= set(known)


@pytest.mark.parametrize("fields, words", [
    (dict(r=0), "r is 0"), (dict(r=-1), "r is -1"), (dict(r=2.5), "r is 2.5"), (dict(r=True), "r is True"),
    (dict(r="8"), "r is '8'"), (dict(lora_alpha=0), "lora_alpha is 0"), (dict(lora_alpha=-1), "above 0"),
    (dict(lora_alpha=float("nan")), "finite"), (dict(lora_alpha=float("inf")), "finite"),
    (dict(lora_dropout=1.0), "below 1"), (dict(lora_dropout=-0.1), "at least 0"), (dict(lora_dropout="a"), "below 1"),
    (dict(bias="some"), "'none', 'all', 'lora_only'"), (dict(use_rslora="yes"), "true or false"),
    (dict(init_lora_weights="uniform"), "init_lora_weights is 'uniform'"),
    (dict(target_modules=[1]), "a list of names"), (dict(target_modules=[""]), "a list of names"),
    (dict(target_modules="("), "not a regular expression"), (dict(exclude_modules="["), "not a regular expression"),
    (dict(layers_to_transform=-1), "counted from 0"), (dict(layers_to_transform="0"), "counted from 0"),
    (dict(layers_pattern="h"), "needs layers_to_transform"),
    (dict(target_modules="x.*", layers_to_transform=0), "regular expression says the layers itself"),
    (dict(target_modules="x.*", layers_pattern="h"), "layers_pattern cannot go"),
    (dict(rank_pattern={"q": 0}), r"rank_pattern\['q'\] is 0"), (dict(alpha_pattern={"q": 0}), "above 0"),
    (dict(rank_pattern=["q"]), "a dict from ends"), (dict(rank_pattern={"(": 1}), "not a regular expression"),
    (dict(peft_type="IA3"), "peft_type 'IA3'"), (dict(task_type="CHAT"), "task_type 'CHAT'"),
    (dict(rank=4), "nearest: rank_pattern"), (dict(modules_to_save="lm_head"), "a list of names"),
])  # fmt: skip
def test_an_impossible_field_is_refused_by_name(fields, words):
    with pytest.raises(ConfigError, match=words):
        llmc.LoraConfig(**fields)


@pytest.mark.parametrize("text, error, words", [
    ('{"r": 4}', ConfigError, "no peft_type"), ("[]", CheckpointError, "a list and not an object"),
    ('{"peft_type": "LORA", "r": 0}', ConfigError, "adapter_config.json: r is 0"), ("{", CheckpointError, "adapter_"),
    ('{"peft_type": "LORA", "r": 4, "r": 5}', CheckpointError, "'r'"),
])  # fmt: skip
def test_a_damaged_file_is_refused_by_its_path(tmp_path, text, error, words):
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(error, match=words):
        llmc.LoraConfig.from_pretrained(tmp_path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="adapter_config.json"):
        llmc.LoraConfig.from_pretrained(tmp_path)


def test_a_preset_is_not_written_where_peft_would_read_it_as_an_expression(tmp_path):
    with pytest.raises(ConfigError, match="save_adapter"):
        llmc.LoraConfig(target_modules="attention").save_pretrained(tmp_path)
    llmc.LoraConfig(target_modules="all-linear").save_pretrained(tmp_path)
