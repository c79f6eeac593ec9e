"""Config: every spelling, every refusal, and the same computation as transformers from the same file."""

import copy
import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY

from llmc.config import Config
from llmc.errors import CheckpointError, ConfigError
from llmc import _core
from llmc.config import rope
from llmc.config.fields import CANONICAL, REFUSED, ROPE_FIELDS
from llmc.families import row_of, rows
from llmc.families.activations import ACTIVATIONS

YARN = {"rope_type": "yarn", "factor": 4.0, "mscale": 0.7, "mscale_all_dim": 0.9,
        "original_max_position_embeddings": 16}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}  # fmt: skip
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0}

# Configurations that must compute the same here, there, and from each other's files.
VARIANTS = [
    ("openai-gpt", {}),
    ("openai-gpt", dict(afn="relu", tie_word_embeddings=False)),
    ("openai-gpt", dict(afn="silu", layer_norm_epsilon=0.01)),
    ("gpt2", {}),
    ("gpt2", dict(n_inner=None, activation_function="relu2", tie_word_embeddings=False)),
    ("gpt2", dict(scale_attn_weights=False, scale_attn_by_inverse_layer_idx=True, reorder_and_upcast_attn=True)),
    ("gpt2", dict(layer_norm_epsilon=0.1, activation_function="gelu_10", pad_token_id=3, eos_token_id=[4, 5])),
    ("llama", {}),
    ("llama", dict(head_dim=None, hidden_size=48, num_key_value_heads=None, tie_word_embeddings=True)),
    ("llama", dict(attention_bias=True, mlp_bias=True, hidden_act="mish", num_key_value_heads=1, rms_norm_eps=0.01)),
    ("llama", dict(rope_theta=500.0, rope_scaling={"type": "linear", "factor": 3.0}, pad_token_id=-1)),
    ("llama", dict(rope_parameters=YARN | {"rope_theta": 77.0})),
    ("llama", dict(rope_parameters=LLAMA3, rope_theta=5e5, original_max_position_embeddings=24)),
    ("llama", dict(rope_scaling={"rope_type": "proportional", "partial_rotary_factor": 0.5})),
    ("llama", dict(partial_rotary_factor=0.5, pretraining_tp=2, layer_types=["full_attention"] * 3)),
    ("llama", dict(rope_theta=7.0, rope_parameters={"rope_type": "default", "rope_theta": 9.0})),
    ("mistral", {}),
    ("mistral", dict(sliding_window=None, num_key_value_heads=6)),
    ("mistral", dict(sliding_window=3, rope_scaling=DYNAMIC, max_position_embeddings=8)),
]

# Fields, and what the message must say.
IMPOSSIBLE = [
    ("llama", dict(hidden_size=0), ["hidden_size is 0", "not a whole number of at least 1"]),
    ("llama", dict(hidden_size=-4), ["hidden_size is -4"]),
    ("llama", dict(hidden_size=44.0), ["hidden_size is 44.0"]),
    ("llama", dict(hidden_size="44"), ["hidden_size is '44'"]),
    ("llama", dict(num_hidden_layers=True), ["num_hidden_layers is True"]),
    ("llama", dict(num_hidden_layers=0), ["num_hidden_layers is 0"]),
    ("llama", dict(num_attention_heads=None), ["num_attention_heads is None"]),
    ("llama", dict(vocab_size=0), ["vocab_size is 0"]),
    ("llama", dict(vocab_size=2**31), ["vocab_size is 2147483648", "at most 2147483647"]),
    ("llama", dict(vocab_size=2**31 - 1, hidden_size=2**30), ["vocab_size 2147483647", "hidden_size 1073741824"]),
    ("llama", dict(head_dim=2**30), ["num_attention_heads 4 x head_dim 1073741824", "2147483647"]),
    ("llama", dict(num_hidden_layers=2**31 - 1, hidden_size=2**20), ["num_hidden_layers 2147483647"]),
    ("gpt2", dict(n_positions=2**31 - 1, n_embd=2**30, n_head=2), ["n_positions 2147483647", "n_embd 1073741824"]),
    ("llama", dict(hidden_size=46), ["hidden_size 46", "num_attention_heads 4"]),
    ("gpt2", dict(n_embd=40), ["n_embd 40", "n_head 3"]),
    ("mistral", dict(head_dim=None), ["hidden_size 43", "num_attention_heads 6"]),
    ("llama", dict(num_key_value_heads=3), ["num_attention_heads 4", "num_key_value_heads 3"]),
    ("llama", dict(num_key_value_heads=8), ["num_attention_heads 4", "num_key_value_heads 8"]),
    ("llama", dict(head_dim=9), ["head_dim 9", "odd"]),
    ("llama", dict(intermediate_size=None), ["intermediate_size", "llama needs a number"]),
    ("llama", dict(rms_norm_eps=float("nan")), ["rms_norm_eps is nan"]),
    ("llama", dict(rms_norm_eps="1e-5"), ["rms_norm_eps is '1e-5'"]),
    ("llama", dict(rms_norm_eps=-1e-5), ["rms_norm_eps is -1e-05"]),
    ("llama", dict(initializer_range=float("inf")), ["initializer_range is inf"]),
    ("llama", dict(initializer_range=1.5), ["initializer_range is 1.5", "from 0 to 1"]),
    ("gpt2", dict(resid_pdrop=1.0), ["resid_pdrop is 1.0", "below 1"]),
    ("gpt2", dict(embd_pdrop=-0.1), ["embd_pdrop is -0.1"]),
    ("gpt2", dict(attn_pdrop=True), ["attn_pdrop is True"]),
    ("llama", dict(attention_bias=1), ["attention_bias is 1", "true or false"]),
    ("llama", dict(tie_word_embeddings=None), ["tie_word_embeddings is None"]),
    ("llama", dict(eos_token_id=2.0), ["eos_token_id is 2.0"]),
    ("llama", dict(eos_token_id=[1, None]), ["eos_token_id is [1, None]"]),
    ("llama", dict(pad_token_id=True), ["pad_token_id is True"]),
    ("llama", dict(pad_token_id=107), ["pad_token_id 107", "vocab_size 107"]),
    ("llama", dict(pad_token_id=-108), ["pad_token_id -108", "vocab_size 107"]),
    ("llama", dict(dtype="float12"), ["dtype is 'float12'", "bfloat16"]),
    ("llama", dict(hidden_act="hardswish"), ["hidden_act 'hardswish'", "gelu_new", "silu"]),
    ("openai-gpt", dict(afn="gelu_new"), ["afn 'gelu_new'", "gelu, relu, silu, swish"]),
    ("openai-gpt", dict(n_inner=99), ["n_inner 99", "180"]),
    ("openai-gpt", dict(scale_attn_by_inverse_layer_idx=True), ["scale_attn_by_inverse_layer_idx True", "openai-gpt"]),
    ("gpt2", dict(num_key_value_heads=1), ["num_key_value_heads 1", "gpt2", "with 3"]),
    ("gpt2", dict(head_dim=12), ["head_dim 12", "with 13"]),
    ("gpt2", dict(attention_bias=False), ["attention_bias False", "gpt2"]),
    ("gpt2", dict(rope_theta=1e4), ["rope_theta 10000.0", "no rotary positions"]),
    ("gpt2", dict(add_cross_attention=True), ["add_cross_attention True"]),
    ("gpt2", dict(pruned_heads={"0": [1]}), ["pruned_heads"]),
    ("llama", dict(resid_pdrop=0.1), ["resid_pdrop 0.1", "llama"]),
    ("llama", dict(sliding_window=8), ["sliding_window 8", "llama"]),
    ("llama", dict(is_causal=False), ["is_causal False"]),
    ("llama", dict(is_encoder_decoder=True), ["is_encoder_decoder True"]),
    ("llama", dict(quantization_config={"bits": 4}), ["quantization_config", "quantised"]),
    ("llama", dict(per_layer_config={"0": {"head_dim": 4}}), ["per_layer_config"]),
    ("llama", dict(layer_types=["full_attention", "sliding_attention", "full_attention"]), ["layer_types"]),
    ("llama", dict(layer_types=["full_attention"]), ["layer_types", "3 layers"]),
    ("mistral", dict(layer_types=["full_attention"] * 3), ["layer_types", "sliding_window 7"]),
    ("mistral", dict(sliding_window=0), ["sliding_window is 0"]),
    ("mistral", dict(attention_bias=True), ["attention_bias True", "mistral"]),
    ("llama", dict(n_embd=48), ["hidden_size 44", "n_embd 48", "disagree"]),
    ("gpt2", dict(torch_dtype="float16", dtype="bfloat16"), ["float16", "bfloat16", "disagree"]),
]


def fields_of(family, **changes):
    return {**TINY[family], **changes}


def write(folder, name, fields):
    (folder / name).write_text(fields if isinstance(fields, str) else json.dumps(fields))
    return folder


def peer_config(peers, fields):
    fields = copy.deepcopy(fields)
    return peers.transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)


def logits_of(peers, config, state=None):
    """Logits of transformers' model of a configuration, and its state."""
    peers.torch.manual_seed(0)
    model = peers.transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    if state is not None:
        model.load_state_dict(state)
    ids = peers.torch.arange(24).reshape(2, 12) * 5 % config.vocab_size
    with peers.torch.no_grad():
        return model(ids).logits.numpy(), model.state_dict()


@pytest.mark.parametrize("change", [lambda spec: spec | {"norm": "batch"}, lambda spec: spec | {"layers": []},
                                    lambda spec: spec | {"vocab_size": 0}, lambda spec: spec | {"in_out": 2},
                                    lambda spec: spec | {"names": spec["names"] | {"nose": "x"}},
                                    lambda spec: spec | {"names": spec["names"] | {"up": None}},
                                    lambda spec: spec | {"names": spec["names"] | {"up": "x" * 80}},
                                    lambda spec: spec | {"rotaries": 65}])  # fmt: skip
def test_the_core_refuses_a_spec_that_is_none(family, change):
    spec = Config(**TINY[family]).spec()
    with pytest.raises(ConfigError, match="core|names|layers|rotary"):
        _core.Model(change(spec), False)
    for name in spec:
        with pytest.raises(ConfigError, match=f"'{name}'|'names' and 'layers'"):
            _core.Model({key: value for key, value in spec.items() if key != name}, False)


def test_spec_of_gpt2_has_its_scaling_switches():
    config = Config(**fields_of("gpt2", scale_attn_weights=False, scale_attn_by_inverse_layer_idx=True))
    assert config.spec()["attention_scale"] == 1.0
    assert config.spec()["scale_by_layer"] == 1
    assert Config(**TINY["gpt2"]).spec()["attention_scale"] == 13**-0.5


def test_rope_says_when_frequencies_depend_on_the_length():
    assert rope.grows(Config(**fields_of("llama", rope_scaling=DYNAMIC)))
    assert not rope.grows(Config(**fields_of("llama", rope_scaling=YARN)))


def test_mistral_without_a_window_is_wide_open_and_an_absent_one_is_4096():
    assert Config(**fields_of("mistral", sliding_window=None)).spec()["layers"][0]["window"] == 0
    absent = {name: value for name, value in TINY["mistral"].items() if name != "sliding_window"}
    assert Config(**absent).spec()["layers"][0]["window"] == 4096


@pytest.mark.parametrize("name, other", [(n, c) for n, c in CANONICAL.items() if n != c])
def test_both_spellings_are_one_field(family, name, other):
    config = Config(**TINY[family])
    value = {"hidden_act": "relu", "dtype": "bfloat16"}.get(other, 0.25 if "eps" in other or "pdrop" in other else 8)
    if other in row_of(family).fixed and other != "intermediate_size":
        value = row_of(family).fixed[other]
    setattr(config, name, value)
    assert getattr(config, other) == getattr(config, name) == value
    setattr(config, other, value)
    assert getattr(config, name) == value


def test_llama_reads_the_spelling_of_gpt2():
    old = dict(n_embd=44, n_layer=3, n_head=4, n_positions=229, n_inner=37, activation_function="silu")
    same = {name: value for name, value in TINY["llama"].items() if CANONICAL.get(name) not in map(CANONICAL.get, old)}
    assert Config(**same, **old) == Config(**TINY["llama"])


def test_both_spellings_may_be_given_when_they_agree():
    assert Config(**fields_of("gpt2", hidden_size=39, torch_dtype="float16", dtype="float16")).n_embd == 39


def test_what_follows_from_other_sizes_follows_when_they_change():
    config = Config(**fields_of("gpt2", n_inner=None))
    config.hidden_size = 60
    assert (config.head_dim, config.n_inner, config.num_key_value_heads) == (20, 240, 3)


def test_setting_a_field_checks_it_and_spec_checks_the_rest():
    config = Config(**TINY["llama"])
    with pytest.raises(ConfigError, match="hidden_size is 0"):
        config.hidden_size = 0
    config.hidden_size = 46
    with pytest.raises(ConfigError, match="hidden_size 46 is not a multiple"):
        config.validate()


def test_rope_has_one_value_under_three_names():
    config = Config(**fields_of("llama", rope_theta=5e5, rope_scaling={"type": "linear", "factor": 2.0}))
    assert config.rope_parameters == {"type": "linear", "rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}
    config.rope_theta = 3e4
    assert config.rope_parameters["rope_theta"] == config.rope_theta == 3e4
    config.rope_scaling = {"rope_type": "dynamic", "factor": 4.0}
    assert config.rope_parameters == {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 3e4}
    config.rope_parameters = {"rope_theta": 1e6}
    assert (config.rope_theta, config.rope_scaling) == (1e6, None)
    config.rope_scaling = None
    assert config.rope_theta == 1e6


def test_rope_parameters_can_be_written_into_and_scaling_says_that_it_cannot():
    config = Config(**fields_of("llama", rope_scaling={"rope_type": "linear", "factor": 2.0}))
    config.rope_parameters["factor"] = 4.0
    assert config.rope_scaling["factor"] == 4.0
    with pytest.raises(TypeError):
        config.rope_scaling["factor"] = 8.0


@pytest.mark.parametrize("family, fields, words", IMPOSSIBLE)
def test_impossible_fields_are_refused_by_name(family, fields, words):
    with pytest.raises(ConfigError) as caught:
        Config(**fields_of(family, **fields))
    for word in words:
        assert word in str(caught.value)


HOSTILE = [None, True, -1, 0, 1, 2**31, 2**64, 10**5000, 0.5, float("nan"), -float("inf"), "", "x", [], [{}], {"a": {}}]
ALL_NAMES = [*CANONICAL, *REFUSED, *ROPE_FIELDS, "layer_types", "original_max_position_embeddings"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ALL_NAMES)
def test_any_value_of_any_field_is_taken_or_refused_in_words(family, name):
    same = CANONICAL.get(name, name)
    fields = {other: kept for other, kept in TINY[family].items() if CANONICAL.get(other) != same}
    for value in HOSTILE:
        try:
            Config(**{**fields, name: value}).validate()
        except ConfigError as error:
            assert len(str(error)) > 20


def test_an_unknown_family_lists_those_there_are_nearest_first():
    with pytest.raises(ConfigError, match="model_type 'mixtral'.*nearest first: mistral"):
        Config("mixtral")
    with pytest.raises(ConfigError, match="nearest first: gpt2"):
        Config("gpt")
    with pytest.raises(ConfigError, match="model_type None"):
        Config(None)


def test_a_name_that_is_no_field_is_a_type_error_with_the_nearest():
    with pytest.raises(TypeError, match="Config has no argument 'hidden_sise'; it is no field of llama; .*hidden_size"):
        Config(**fields_of("llama", hidden_sise=64))
    with pytest.raises(TypeError, match="'num_layers'.*num_hidden_layers"):
        Config(num_layers=7)
    with pytest.raises(TypeError, match="'summary_type'"):
        Config(**fields_of("llama", summary_type="cls_index"))


def test_a_configuration_of_nothing_is_refused_with_an_example():
    with pytest.raises(ConfigError, match=r"no field is given.*llmc\.Config\(model_type='llama', "):
        Config()
    assert Config("llama") == Config(model_type="llama") == Config(vocab_size=32000)


def test_every_field_of_transformers_own_configuration_is_taken(family, peers):
    fields = {name: value for name, value in TINY[family].items() if name != "model_type"}
    theirs = peers.transformers.AutoConfig.for_model(family, **fields).to_dict()
    ours = Config(**theirs)
    kept = {name: value for name, value in theirs.items() if name in ours._extra}
    assert kept.items() <= ours.to_dict().items()
    assert ours.spec() == Config(**TINY[family]).spec()


def test_a_dict_of_a_file_is_kept_whole():
    fields = fields_of("llama", note=[1], use_cache=False)
    config = Config.from_dict(fields)
    assert config.note == [1] and config.to_dict()["note"] == [1] and "note" in fields and "model_type" in fields
    with pytest.raises(ConfigError, match="no model_type"):
        Config.from_dict({"hidden_size": 4})


OTHERS = [("llama", "router_init", "identity"), ("mistral", "kv_init", "authors"), ("gpt2", "kv_init", "llama"),
          ("lime", "router_top_p", 0.9), ("lime", "hyper_rate", 4), ("llama", "hyper_dynamic", True),
          ("lime1-dynamic", "router_top_p", 0.9), ("hc", "router_init", "authors")]  # fmt: skip


@pytest.mark.parametrize("family, name, value", OTHERS)
def test_a_field_of_another_family_is_refused_by_name(tmp_path, family, name, value):
    words = f"{name} {value!r}: {family} has no such field"
    plain = Config(family)
    for act in (lambda: Config(family, **{name: value}), lambda: plain.replace(**{name: value}),
                lambda: setattr(plain, name, value)):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            act()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family, name: value}))
    with pytest.raises(ConfigError, match=f"config.json: {words}"):
        Config.from_pretrained(tmp_path)


def test_words_that_an_assembled_decoder_has_are_kept_elsewhere(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama", "norm": "pre", "order": "C"}')
    assert Config.from_pretrained(tmp_path).norm == "pre"


def test_an_absent_name_is_an_attribute_error_with_the_nearest():
    with pytest.raises(AttributeError, match="hidden_size"):
        Config(**TINY["llama"]).hiden_size  # noqa: B018


def test_unknown_fields_are_kept_and_written_back(tmp_path):
    extra = {"summary_type": "cls_index", "task_specific_params": {"a": [1, 2]}, "_name_or_path": "x"}
    config = Config(**fields_of("gpt2", **extra))
    config.save_pretrained(tmp_path)
    assert extra.items() <= json.loads((tmp_path / "config.json").read_text()).items()
    assert Config.from_pretrained(tmp_path) == config
    assert config.task_specific_params == {"a": [1, 2]}


def test_what_was_given_is_not_shared(family):
    scaling = {"rope_type": "longrope", "short_factor": [1.0] * 5, "long_factor": [2.0] * 5, "factor": 2.0}
    config = Config(**fields_of("llama", rope_scaling=scaling, _note=[1]))
    config.rope_parameters["short_factor"][0] = 9.0
    config.to_dict()["_note"].append(2)
    assert scaling["short_factor"][0] == 1.0 and config._note == [1]


@pytest.mark.parametrize("family, changes", VARIANTS)
def test_saved_is_read_back_equal(tmp_path, family, changes):
    config = Config(**fields_of(family, **changes))
    config.save_pretrained(tmp_path / "new" / "folder")
    again = Config.from_pretrained(tmp_path / "new" / "folder")
    assert again == config and again.spec() == config.spec()
    assert Config(**config.to_dict()) == config
    assert Config.from_pretrained(tmp_path / "new" / "folder" / "config.json") == config


def test_copies_and_pickles_are_equal_and_apart(family):
    config = Config(**TINY[family])
    for twin in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert twin == config
        twin.vocab_size = 99
        assert twin != config
    assert config != "a string"


def test_repr_is_the_json_of_the_fields(family):
    config = Config(**TINY[family])
    assert json.loads(repr(config).removeprefix("Config ")) == config.to_dict()


def test_numpy_numbers_are_numbers(tmp_path):
    config = Config(**fields_of("llama", hidden_size=np.int64(44), attention_bias=np.True_, eos_token_id=[np.int32(1)]))
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["eos_token_id"] == [1]


def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    Config(**TINY["llama"]).save_pretrained(tmp_path)
    before = (tmp_path / "config.json").read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError):
        Config(**TINY["gpt2"]).save_pretrained(tmp_path)
    assert (tmp_path / "config.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_field_that_is_no_json_is_named_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match="note .*config.json"):
        Config(**fields_of("llama", _note=object())).save_pretrained(tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    "text, words",
    [
        ("version https://git-lfs.github.com/spec/v1\noid", "git-LFS"),
        ("<!DOCTYPE html><html>", "HTML"),
        ("GGUF\x03", "GGUF"),
        ("[1, 2]", "not an object"),
        ('{"model_type": "llama", ', "not valid JSON"),
        ('{"vocab_size": 1, "vocab_size": 2}', "stands twice"),
        ('{"a": ' + "[" * 100000, "deeper"),
        ("", "JSON"),
    ],
)
def test_a_file_that_is_no_configuration_says_what_it_is(tmp_path, text, words):
    with pytest.raises(CheckpointError, match=words) as caught:
        Config.from_pretrained(write(tmp_path, "config.json", text))
    assert str(tmp_path) in str(caught.value)


def test_an_impossible_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path / "config.json")) + ": hidden_size is -1"):
        Config.from_pretrained(write(tmp_path, "config.json", {**TINY["llama"], "hidden_size": -1}))
    with pytest.raises(ConfigError, match="no model_type.*GPT2LMHeadModel"):
        Config.from_pretrained(write(tmp_path, "config.json", {"architectures": ["GPT2LMHeadModel"]}))


def test_missing_files_are_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json"):
        Config.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        Config.from_pretrained(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="hub"):
        Config.from_pretrained("nobody/nothing-of-this-name", local_files_only=True)


def test_generation_config_overrides_the_ids_for_generation_and_is_written_back(tmp_path):
    write(tmp_path, "config.json", {**TINY["llama"], "eos_token_id": 2, "pad_token_id": 5})
    write(tmp_path, "generation_config.json", {"eos_token_id": [3, 4], "temperature": 0.6})
    config = Config.from_pretrained(tmp_path)
    assert (config.eos_token_id, config.pad_token_id, config.padding_idx) == ([3, 4], None, 5)
    config.bos_token_id = 7
    config.save_pretrained(tmp_path / "out")
    written = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert written == {"eos_token_id": [3, 4], "temperature": 0.6, "bos_token_id": 7}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["eos_token_id"] == 2
    write(tmp_path, "generation_config.json", {"eos_token_id": "2"})
    with pytest.raises(ConfigError, match="generation_config.json: eos_token_id is '2'"):
        Config.from_pretrained(tmp_path)


def test_every_activation_is_the_core_s_and_every_one_of_the_core_has_a_name():
    assert set(ACTIVATIONS.values()) == set(_core.ACTIVATIONS)


def test_activations_of_one_word_are_one_function(peers):
    functions = peers.transformers.activations.ACT2FN
    x = peers.torch.linspace(-12, 12, 1001)
    values = {name: functions[name](x).numpy() for name in ACTIVATIONS}
    for name in ACTIVATIONS:
        for other in ACTIVATIONS:
            close = np.allclose(values[name], values[other], atol=1e-6)
            assert close == (ACTIVATIONS[name] == ACTIVATIONS[other]), (name, other)
    assert {"hardswish", "prelu", "sqrtsoftplus", "xielu"} >= set(functions) - set(ACTIVATIONS)


def test_gpt_has_the_activations_of_its_own_table(peers):
    from transformers.models.openai.modeling_openai import ACT_FNS

    assert set(ACT_FNS) == set(row_of("openai-gpt").activations)


def test_defaults_are_transformers(peers, family):
    theirs = peers.transformers.AutoConfig.for_model(family)
    ours = Config(family)
    for canonical in row_of(family).defaults.keys() - {"dtype", "intermediate_size"}:
        name = row_of(family).spellings.get(canonical, canonical)
        assert getattr(ours, name) == getattr(theirs, name), name
    if row_of(family).position == "rope":
        assert ours.rope_parameters == theirs.rope_parameters
        assert ours.intermediate_size == theirs.intermediate_size
    else:
        assert ours.intermediate_size == 4 * theirs.n_embd


@pytest.mark.parametrize("family, changes", VARIANTS)
def test_files_of_either_side_compute_the_same(peers, tmp_path, family, changes):
    fields = fields_of(family, **changes)
    theirs = peer_config(peers, fields)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = Config(**fields)
    ours.save_pretrained(tmp_path / "ours")

    read = Config.from_pretrained(tmp_path / "theirs")
    assert read.spec() == ours.spec() and read.padding_idx == ours.padding_idx
    assert getattr(read, "rope_theta", None) == getattr(ours, "rope_theta", None)

    opened = peers.transformers.AutoConfig.from_pretrained(tmp_path / "ours")
    expected, state = logits_of(peers, theirs)
    assert np.array_equal(logits_of(peers, opened, state)[0], expected)
    assert opened.architectures == [type(peers.transformers.AutoModelForCausalLM.from_config(opened)).__name__]


def test_generation_ids_are_transformers(peers, tmp_path):
    for number, generation in enumerate([None, {}, {"eos_token_id": [3, 4]}, {"pad_token_id": 1}]):
        folder = tmp_path / str(number)
        model = peers.transformers.AutoModelForCausalLM.from_config(
            peer_config(peers, fields_of("llama", eos_token_id=9, pad_token_id=8))
        )
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink()
        if generation is not None:
            write(folder, "generation_config.json", generation)
        theirs = peers.transformers.AutoModelForCausalLM.from_pretrained(folder)
        ours = Config.from_pretrained(folder)
        for name in ("eos_token_id", "pad_token_id", "bos_token_id"):
            assert getattr(ours, name) == getattr(theirs.generation_config, name), (generation, name)
        assert ours.padding_idx == theirs.model.padding_idx
