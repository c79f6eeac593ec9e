"""A model's configuration: its own, read-only, and always that of what it computes and what it saves."""

import copy
import pickle

import numpy as np
import pytest
from conftest import TINY

import llmc
from llmc.system import hub


@pytest.fixture(params=list(TINY))
def config(request):
    return llmc.Config(**TINY[request.param])


def test_a_model_has_its_own_copy(config):
    model = llmc.Model(config)
    before = model(np.arange(5))
    config.norm_eps = 0.5
    assert model.config != config and np.array_equal(model(np.arange(5)), before)


def test_what_a_model_computes_cannot_be_edited_away(config):
    model = llmc.Model(config)
    for name in ("norm_eps", "hidden_size", "dtype", "num_hidden_layers", "never_heard_of"):
        with pytest.raises(llmc.ConfigError, match=f"{name}.*read-only.*replace"):
            setattr(model.config, name, 3)
    assert model.config == config


def test_an_item_of_rope_parameters_cannot_be_edited_either():
    model = llmc.Model(llmc.Config(**TINY["llama"], rope_scaling={"rope_type": "linear", "factor": 2.0}))
    for edit in (lambda rope: rope.update(factor=3.0), lambda rope: rope.pop("factor"), lambda rope: rope.clear()):
        with pytest.raises(llmc.ConfigError, match="rope_parameters.*replace"):
            edit(model.config.rope_parameters)
    with pytest.raises(llmc.ConfigError, match="rope_theta.*replace"):
        model.config.rope_theta = 50.0
    assert model.config.rope_parameters == {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}


def test_a_list_of_one_value_a_layer_cannot_be_edited():
    config = llmc.Architecture(31, 16, 2, 2, sliding_window=[3, None])
    model = llmc.Model(config)
    with pytest.raises(llmc.ConfigError, match="sliding_window.*replace"):
        model.config.sliding_window[0] = 5
    assert model.config == config


def test_token_ids_and_what_a_generation_does_by_default_can_be_set_and_are_saved(config, tmp_path):
    model = llmc.Model(config)
    model.config.eos_token_id, model.config.pad_token_id, model.config.temperature = 3, 4, 0.7
    model.save_pretrained(tmp_path)
    again = llmc.Config.from_pretrained(tmp_path)
    assert (again.eos_token_id, again.pad_token_id, again.temperature) == (3, 4, 0.7)


def test_copies_of_a_model_s_configuration_can_be_edited(config):
    frozen = llmc.Model(config).config
    for other in (copy.copy(frozen), copy.deepcopy(frozen), pickle.loads(pickle.dumps(frozen)), frozen.replace()):
        assert other == frozen
        other.norm_eps = 0.25
        assert other.norm_eps == 0.25 != frozen.norm_eps


def test_a_replaced_configuration_makes_another_model(config):
    changed = config.replace(num_hidden_layers=1)
    assert changed.num_hidden_layers == 1 and config.num_hidden_layers == 3
    assert len(llmc.Model(changed).state_dict()) < len(llmc.Model(config).state_dict())
    with pytest.raises(TypeError, match="Config.replace has no argument 'num_layers'.*num_hidden_layers"):
        config.replace(num_layers=1)
    with pytest.raises(llmc.ConfigError, match="vocab_size"):
        config.replace(vocab_size=0)


def test_fields_given_go_before_the_file_s_and_are_saved(tmp_path):
    llmc.Model(llmc.Config(**TINY["mistral"])).save_pretrained(tmp_path)
    plain = llmc.Model.from_pretrained(tmp_path)
    changed = llmc.Model.from_pretrained(tmp_path, rope_theta=50.0, sliding_window=2)
    assert (changed.config.rope_theta, changed.config.sliding_window) == (50.0, 2)
    ids = np.arange(20)
    assert not np.allclose(changed(ids), plain(ids))
    changed.save_pretrained(tmp_path / "changed")
    assert np.array_equal(llmc.Model.from_pretrained(tmp_path / "changed")(ids), changed(ids))
    given = llmc.Model.from_pretrained(tmp_path, config=changed.config)
    assert np.array_equal(given(ids), changed(ids))


def test_fields_that_nobody_has_are_refused_with_the_nearest(tmp_path):
    llmc.Model(llmc.Config(**TINY["llama"])).save_pretrained(tmp_path)
    with pytest.raises(TypeError, match="Model.from_pretrained has no argument 'rope_thta'.*rope_theta"):
        llmc.Model.from_pretrained(tmp_path, rope_thta=50.0)
    with pytest.raises(TypeError, match="config= and rope_theta="):
        llmc.Model.from_pretrained(tmp_path, config=llmc.Config(**TINY["llama"]), rope_theta=50.0)
    with pytest.raises(llmc.ConfigError, match="num_attention_heads"):
        llmc.Model.from_pretrained(tmp_path, num_attention_heads=5)


def test_a_checkpoint_is_located_once_and_recorded_once(tmp_path, monkeypatch, config):
    llmc.Model(config).save_pretrained(tmp_path)
    calls = {"located": 0, "validated": 0, "recorded": 0}

    def counting(name, function):
        def counted(*args, **kwargs):
            calls[name] += 1
            return function(*args, **kwargs)

        return counted

    class Core:
        Model, Run = staticmethod(counting("recorded", llmc.Model._core.Model)), llmc.Model._core.Run
        info = staticmethod(llmc.Model._core.info)

    monkeypatch.setattr(llmc.Model, "_core", Core)
    monkeypatch.setattr(hub, "folder", counting("located", hub.folder))
    monkeypatch.setattr(llmc.Config, "validate", counting("validated", llmc.Config.validate))
    llmc.Model.from_pretrained(tmp_path)
    assert calls == {"located": 1, "validated": 1, "recorded": 1}
