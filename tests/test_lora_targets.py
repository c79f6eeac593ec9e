"""The same choice of modules as peft: names, expressions, layers, exclusions, patterns, presets."""

import itertools
import warnings
from types import SimpleNamespace

import pytest
import tiny
from conftest import TINY
from lora_peers import require_peft

import llmc
from llmc.errors import ConfigError, UnknownNameError
from llmc.lora.attached import module_paths
from llmc.lora.suffixes import condense
from llmc.lora.targets import is_target, layer_index, pattern_value

# What peft 0.21 answers: path, target_modules, layers_to_transform, layers_pattern, exclude, modules_to_save, answer.
STORED = [
    ("model.layers.0.self_attn.q_proj", ["q_proj"], None, None, None, None, True),
    ("model.layers.0.self_attn.q_proj", ["self_attn.q_proj"], None, None, None, None, True),
    ("model.layers.0.self_attn.q_proj", ["attn.q_proj"], None, None, None, None, False),
    ("model.layers.0.self_attn.q_proj", ["proj"], None, None, None, None, False),
    ("q_proj", ["q_proj"], [5], None, None, None, True),
    ("model.layers.1.q_proj", ["model.layers.1.q_proj"], [0], None, None, None, True),
    ("model.layers.1.self_attn.q_proj", ["q_proj"], 1, None, None, None, True),
    ("model.layers.1.self_attn.q_proj", ["q_proj"], [0, 2], None, None, None, False),
    ("model.layers.10.self_attn.q_proj", ["q_proj"], [1], None, None, None, False),
    ("model.layers.1.self_attn.q_proj", ["q_proj"], [], None, None, None, True),
    ("model.layers.1.self_attn.q_proj", ["q_proj"], [1], "layers", None, None, True),
    ("model.layers.1.self_attn.q_proj", ["q_proj"], [1], "h", None, None, False),
    ("model.layers.1.self_attn.q_proj", ["q_proj"], [1], ["h", "layers"], None, None, True),
    ("h.1.attn.c_attn", ["c_attn"], [1], None, None, None, False),
    ("h.1.attn.c_attn", ["c_attn"], [1], "h", None, None, True),
    ("model.layers.1.experts.3.up_proj", ["up_proj"], [3], None, None, None, False),
    ("model.layers.1.self_attn.q_proj", "q_proj", None, None, None, None, False),
    ("model.layers.1.self_attn.q_proj", r".*\.q_proj", None, None, None, None, True),
    ("model.layers.1.self_attn.q_proj", r".*\.[qk]_proj|x", None, None, None, None, True),
    ("model.layers.1.self_attn.q_proj", ["q_proj"], None, None, ["q_proj"], None, False),
    ("model.layers.1.self_attn.q_proj", ["q_proj"], None, None, ["model.layers.1.self_attn.q_proj"], None, False),
    ("model.layers.1.self_attn.q_proj", ["q_proj"], None, None, ["layers.1"], None, True),
    ("model.layers.1.self_attn.q_proj", ["q_proj"], None, None, r"model\.layers\.1\..*", None, False),
    ("model.layers.1.self_attn.q_proj", r".*q_proj", None, None, r".*layers\.0.*", None, True),
    ("model.layers.1.mlp.up_proj", ["up_proj"], None, None, None, ["mlp"], False),
    ("model.layers.1.mlp.up_proj", ["up_proj"], None, None, None, ["lp"], True),
    ("lm_head", ["lm_head"], [0], None, None, None, True),
]
PATHS = [
    "lm_head", "h.0.attn.c_attn", "model.layers.1.self_attn.q_proj", "model.layers.0.self_attn.v_proj",
    "transformer.h.1.attn.c_proj", "transformer.h.0.mlp.c_proj", "model.layers.10.mlp.up_proj",
    "model.layers.1.experts.0.up_proj", "model.layers.1.self_attn.q_proj_extra", "layers.1.q_proj",
]  # fmt: skip
CONFIGS = itertools.product(
    (["q_proj"], ["c_proj", "up_proj"], ["attn.c_attn", "lm_head"], ["model.layers.1.self_attn.q_proj"],
     r".*(q|v)_proj", r".*\.h\.\d\..*"),
    (None, 0, 1, [0, 10], []),
    (None, "layers", ["h", "layers"], ""),
    (None, ["q_proj"], r".*attn.*", ["mlp.c_proj"]),
    (None, ["mlp"], ["self_attn"]),
)


def config_of(targets, layers, pattern, exclude, save):
    return SimpleNamespace(target_modules=targets, layers_to_transform=layers, layers_pattern=pattern,
                           exclude_modules=exclude, modules_to_save=save)


@pytest.mark.parametrize("path, targets, layers, pattern, exclude, save, answer", STORED)
def test_a_module_is_chosen_as_peft_chose_it(path, targets, layers, pattern, exclude, save, answer):
    assert is_target(config_of(targets, layers, pattern, exclude, save), path) is answer


def test_the_stored_choices_are_those_of_the_installed_peft():
    require_peft()
    from peft.tuners.tuners_utils import check_target_module_exists

    for path, targets, layers, pattern, exclude, save, answer in STORED:
        config = config_of(targets, layers, pattern, exclude, save)
        config.target_parameters = None
        assert bool(check_target_module_exists(config, path)) is answer, (path, targets)


def test_every_combination_of_fields_chooses_as_the_installed_peft():
    require_peft()
    from peft.tuners.tuners_utils import check_target_module_exists

    for fields in CONFIGS:
        config = config_of(*fields)
        config.target_parameters = None
        for path in PATHS:
            assert is_target(config, path) is bool(check_target_module_exists(config, path)), (path, fields)


def test_patterns_give_ranks_as_the_installed_peft():
    require_peft()
    from peft.utils.other import get_pattern_key

    patterns = [{"q_proj": 1, r".*1.*": 2}, {r"layers\.1\..*": 3, "proj": 4}, {"^model.layers.1.self_attn.q_proj": 5},
                {"attn.c_(attn|proj)": 6}, {}]
    for pattern, path in itertools.product(patterns, PATHS):
        assert pattern_value(pattern, path, 9) == pattern.get(get_pattern_key(pattern, path), 9)


def test_the_first_pattern_that_fits_counts():
    path = "model.layers.1.self_attn.q_proj"
    assert pattern_value({"q_proj": 1, r"layers\.1\..*": 2}, path, 9) == 1
    assert pattern_value({r"layers\.1\..*": 2, "q_proj": 1}, path, 9) == 2
    assert pattern_value({"_proj": 2, r"^layers\..*": 1}, path, 9) == 9


def test_a_layer_is_the_first_number_of_a_path():
    assert layer_index("model.layers.1.experts.0.up_proj") == 1
    assert layer_index("model.layers.1.experts.0.up_proj", "experts") == 0
    assert layer_index("lm_head") is None


# --- whole models ----------------------------------------------------------------------------------------------------
MODEL_CONFIGS = {
    "gpt2": [
        dict(target_modules=None), dict(target_modules="all-linear"), dict(target_modules=["c_proj"]),
        dict(target_modules=["mlp.c_proj", "c_attn"], layers_to_transform=[0, 2], layers_pattern="h"),
        dict(target_modules=r".*\.attn\.c_.*", modules_to_save=["ln_f"]),
        dict(target_modules=["c_fc", "c_proj"], exclude_modules=["attn.c_proj"], rank_pattern={r"h\.1\..*": 3}),
    ],
    "openai-gpt": [dict(target_modules="all-linear"), dict(target_modules=["c_attn"], layers_to_transform=1)],
    "llama": [
        dict(target_modules=None), dict(target_modules="all-linear"), dict(target_modules="ALL-LINEAR"),
        dict(target_modules=["q_proj", "lm_head"], layers_to_transform=[0]),
        dict(target_modules="all-linear", exclude_modules=r".*layers\.0.*", alpha_pattern={"q_proj": 5, "up_proj": 6}),
        dict(target_modules=["up_proj", "q_proj"], modules_to_save=["mlp"], rank_pattern={"q_proj": 2}),
    ],
    "mistral": [dict(target_modules=None), dict(target_modules=["v_proj"], layers_to_transform=2, use_rslora=True)],
}  # fmt: skip


@pytest.mark.parametrize("name, fields", [(name, fields) for name, many in MODEL_CONFIGS.items() for fields in many])
def test_a_whole_model_is_adapted_as_peft_adapts_it(peers, name, fields):
    peft = require_peft()
    theirs = tiny.hf_model(peers, TINY[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(theirs, peft.LoraConfig(r=4, lora_alpha=6, **fields))
    layers = {path.removeprefix("base_model.model."): layer for path, layer in theirs.named_modules()
              if hasattr(layer, "lora_A")}
    ours = tiny.tiny_model(TINY[name])
    ours.add_adapter(llmc.LoraConfig(r=4, lora_alpha=6, **fields))
    branches = ours.adapters["default"].branches
    assert set(branches) == set(layers)
    for path, layer in layers.items():
        assert branches[path].rank == layer.r["default"] and branches[path].scale == layer.scaling["default"]


# --- presets ---------------------------------------------------------------------------------------------------------
LLAMA = {"domain": "q v", "context": "q k v", "attention": "q k v o", "mlp": "gate up down",
         "all-linear": "q k v o gate up down"}
GPT = {"context": ["attn.c_attn"], "attention": ["attn.c_attn", "attn.c_proj"], "mlp": ["mlp.c_fc", "mlp.c_proj"],
       "all-linear": ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]}


def targeted(model):
    """{end of a path after its layer} that got a branch."""
    return {path.split(".", 3)[3].split(".", 1)[-1] for path in model.adapters["default"].branches}


@pytest.mark.parametrize("name", ["llama", "mistral"])
@pytest.mark.parametrize("preset", LLAMA)
def test_a_preset_means_its_projections(name, preset):
    model = tiny.tiny_model(TINY[name])
    model.add_adapter(llmc.LoraConfig(target_modules=preset))
    assert targeted(model) == {f"{part}_proj" for part in LLAMA[preset].split()}


@pytest.mark.parametrize("name", ["gpt2", "openai-gpt"])
@pytest.mark.parametrize("preset", GPT)
def test_a_preset_is_translated_into_the_names_of_the_family(name, preset):
    model = tiny.tiny_model(TINY[name])
    model.add_adapter(llmc.LoraConfig(target_modules=preset))
    paths = {".".join(path.split(".")[3:]) for path in model.adapters["default"].branches}
    assert paths == set(GPT[preset])


@pytest.mark.parametrize("name", ["gpt2", "openai-gpt"])
def test_q_and_v_alone_are_refused_where_k_would_come_along(name):
    model = tiny.tiny_model(TINY[name])
    with pytest.raises(ConfigError, match="q, k, v in one matrix, c_attn"):
        model.add_adapter(llmc.LoraConfig(target_modules="domain"))
    assert model.active_adapters() == []


@pytest.mark.parametrize("preset", LLAMA)
def test_a_preset_works_with_layers_and_is_saved_as_names_that_peft_matches(preset, tmp_path):
    model = tiny.tiny_model(TINY["llama"])
    model.add_adapter(llmc.LoraConfig(target_modules=preset, layers_to_transform=[0, 2]))
    branches = model.adapters["default"].branches
    assert {layer_index(path) for path in branches} == {0, 2}
    model.save_adapter(tmp_path)
    saved = llmc.LoraConfig.from_pretrained(tmp_path)
    modules = module_paths(model._parameters)
    assert {path for path in modules if is_target(saved, path)} == set(branches)
    assert isinstance(saved.target_modules, list)


def test_an_ending_is_as_short_as_it_can_be():
    modules = ["a.0.x.w", "a.1.x.w", "a.0.y.w", "a.1.y.w", "head"]
    assert condense(["a.0.x.w", "a.1.x.w"], modules) == ["x.w"]
    assert condense(["a.0.x.w", "a.0.y.w"], modules) == ["0.x.w", "0.y.w"]
    assert condense(modules[:4], modules) == ["w"]


# --- what is wrong ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("fields, error, words", [
    (dict(target_modules=["q_porj"]), UnknownNameError, "'q_porj'; nearest: q_proj"),
    (dict(target_modules=["q_proj", "vproj"]), UnknownNameError, "'vproj'; nearest: v_proj"),
    (dict(target_modules=["model.layers.0.self_attn.q_porj"]), UnknownNameError, "nearest: model.layers.0.self_attn.q"),
    (dict(target_modules=["xyz"]), UnknownNameError, "there are .*q_proj"),
    (dict(target_modules="q_proj"), UnknownNameError, r"regular expression over a whole path.*write \['q_proj'\]"),
    (dict(target_modules="qproj"), UnknownNameError, "regular expression over a whole path.*nearest: q_proj"),
    (dict(target_modules=["q_proj"], layers_to_transform=[0, 3]), ConfigError, "has 3, but the model has 3 layers, 0"),
    (dict(target_modules=["q_proj"], layers_to_transform=[0], layers_pattern="h"), UnknownNameError, "_pattern 'h'"),
    (dict(target_modules=["q_proj"], exclude_modules=["q_proj"]), UnknownNameError, "exclude_modules"),
    (dict(target_modules=["embed_tokens"]), ConfigError, "model.embed_tokens, which can carry no adapter"),
    (dict(target_modules=["self_attn"]), ConfigError, "self_attn, which can carry no adapter"),
    (dict(target_modules=["norm"]), ConfigError, "model.norm, which can carry no adapter"),
    (dict(target_modules=["q_proj"], modules_to_save=["nrom"]), UnknownNameError, "modules_to_save: .*nearest: norm"),
    (dict(target_modules=["q_proj"], modules_to_save=["proj"]), ConfigError, "trains model.layers.0.self_attn.q_pro"),
])  # fmt: skip
def test_a_wrong_choice_is_refused_with_the_nearest_names(fields, error, words):
    model = tiny.tiny_model(TINY["llama"])
    with pytest.raises(error, match=words):
        model.add_adapter(llmc.LoraConfig(**fields))
    assert model.active_adapters() == [] and not any("lora_" in name for name in model.state_dict())


def test_a_tied_weight_is_not_adapted_by_half():
    model = tiny.tiny_model(TINY["gpt2"])
    with pytest.raises(ConfigError, match="share"):
        model.add_adapter(llmc.LoraConfig(target_modules=["lm_head"]))


def test_no_targets_are_refused_where_peft_has_no_default():
    with pytest.raises(ConfigError, match="no default for openai-gpt"):
        tiny.tiny_model(TINY["openai-gpt"]).add_adapter(llmc.LoraConfig())


@pytest.mark.parametrize("fields, words", [
    (dict(rank_pattern={"v_porj": 4}), "rank_pattern: 'v_porj' fits no adapted module.*nearest: v_proj"),
    (dict(alpha_pattern={"up_proj": 4}), "alpha_pattern: 'up_proj' fits no adapted module"),
    (dict(exclude_modules=["nothing"]), "excludes nothing"),
])  # fmt: skip
def test_what_has_no_effect_is_said_as_peft_says_it(fields, words):
    with pytest.warns(UserWarning, match=words):
        tiny.tiny_model(TINY["llama"]).add_adapter(llmc.LoraConfig(target_modules="attention", **fields))
