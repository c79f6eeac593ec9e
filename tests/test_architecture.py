"""Assembled decoders: every kind against the reference, in double; and all that a model of a family can do."""

import copy
import itertools
import pickle

import lim_reference
import numpy as np
import pytest
import reference
from conftest import TOLERANCE
from test_truth import assert_gradients_are_slopes, left_mask, right_mask, truth
from tiny import close, random_ids, tiny_model

import llmc
from llmc.analysis import METRICS, lim

SIZES = dict(vocab_size=61, hidden_size=24, num_hidden_layers=3, num_attention_heads=4, intermediate_size=27,
             max_position_embeddings=40, initializer_range=0.15)  # fmt: skip
KINDS = {  # what differs from LLaMA's kinds; together they have every value of every kind
    "LLaMA's": dict(),
    "LayerNorm after the sum, learned positions, mlp, biases": dict(
        norm="layer", norm_place="sum", final_norm=False, position="learned", feed_forward="mlp", hidden_act="gelu_new",
        bias=("o", "mlp"), tie_word_embeddings=True),
    "norms on both sides, windows and bases by layer": dict(
        norm_place=("in", "out"), num_key_value_heads=2, head_dim=10, hidden_act="gelu_pytorch_tanh",
        sliding_window=[3, None, 5], rope_theta=[100.0, 10000.0, 100.0]),
    "norms on what branches give, no positions": dict(
        norm_place="out", position="none", bias=("o",), sliding_window=4),
    "parallel, feed-forwards and widths by layer": dict(
        order="parallel", feed_forward=["mlp", "gated", "mlp"], intermediate_size=[11, 27, 9], bias=("qkv", "mlp"),
        num_key_value_heads=1, tie_word_embeddings=True, hidden_act="mish"),
    "parallel LayerNorm, a window": dict(norm="layer", order="parallel", feed_forward="mlp", sliding_window=6,
                                         hidden_act="tanh", rope_theta=333.0),
    "RMSNorm after the sum": dict(norm_place="sum", num_key_value_heads=2, num_attention_heads=6, head_dim=8),
    "LayerNorm on both sides, learned positions, odd heads": dict(
        norm="layer", norm_place=("in", "out"), position="learned", num_attention_heads=5, head_dim=7, bias=("mlp",),
        hidden_act="quick_gelu"),
    "LayerNorm on what mlps give, four times the width": dict(
        norm="layer", norm_place="out", feed_forward="mlp", intermediate_size=None, final_norm=False, norm_eps=0.1),
    "bare norms": dict(norm="bare"),
    "bare norms on both sides, biases": dict(norm="bare", norm_place=("in", "out"), bias=True),
    "bare norms after the sum": dict(norm="bare", norm_place="sum", final_norm=False, feed_forward="mlp",
                                     hidden_act="gelu", position="none", tie_word_embeddings=True),
    "scaled bases by layer": dict(
        rope_theta=[50.0, 5000.0, 50.0],
        rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16)),
}  # fmt: skip
each_kind = pytest.mark.parametrize("case", KINDS)


def fields(case):
    return {"model_type": "llmc", **SIZES, **KINDS[case]}


def architecture(**kinds):
    return llmc.Architecture(**{**SIZES, **kinds})


def same_parameters(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return list(ours) == list(theirs) and all(np.array_equal(view, theirs[name]) for name, view in ours.items())


# --- values and gradients
@each_kind
def test_double_logits_and_loss_are_the_references(case):
    model = tiny_model(fields(case), double=True)
    config, ids = model.config.to_dict(), random_ids(fields(case), 2, 13)
    given = truth(model, config, ids)
    close(model(ids), reference.model_logits(**given), TOLERANCE["double"], "logits")
    assert model.loss(ids) == pytest.approx(reference.model_loss(**given), abs=TOLERANCE["double"])


@each_kind
@pytest.mark.parametrize("mask_of", [left_mask, right_mask])
def test_masks_are_the_references(case, mask_of):
    model = tiny_model(fields(case), double=True)
    config, ids, mask = model.config.to_dict(), random_ids(fields(case), 3, 13), mask_of(3, 13)
    given = truth(model, config, ids, attention_mask=mask)
    logits = model(ids, attention_mask=mask)
    close(logits[mask == 1], reference.model_logits(**given)[mask == 1], TOLERANCE["double"], "logits")
    loss = model.loss(ids, attention_mask=mask)
    assert loss == pytest.approx(reference.model_loss(**given), abs=TOLERANCE["double"])


PLACES = ("in", "out", "sum", ("in", "out"), "parallel")
SMALL = dict(model_type="llmc", vocab_size=17, hidden_size=12, num_hidden_layers=2, num_attention_heads=2,
             intermediate_size=7, initializer_range=0.2)  # fmt: skip


@pytest.mark.parametrize("norm", ["rms", "layer", "bare"])
@pytest.mark.parametrize("place", PLACES, ids=str)
def test_kinds_go_together_in_every_way(norm, place):
    stands = dict(order="parallel") if place == "parallel" else dict(norm_place=place)
    ids = random_ids(SMALL, 1, 6)
    others = itertools.product(("rope", "learned", "none"), (True, False), ("gated", "mlp"), (True, False))
    for position, final_norm, feed_forward, bias in others:
        kinds = dict(position=position, final_norm=final_norm, feed_forward=feed_forward, bias=bias)
        model = tiny_model({**SMALL, "norm": norm, **stands, **kinds}, double=True)
        given = truth(model, model.config.to_dict(), ids)
        close(model(ids), reference.model_logits(**given), TOLERANCE["double"], str(kinds))


@each_kind
def test_gradients_are_slopes(case):
    model, ids = tiny_model(fields(case), double=True), random_ids(fields(case), 2, 11)
    run = model.run(2, 11, backward=True)
    assert_gradients_are_slopes(model, run, lambda: run.forward(ids, labels=ids), directions=1)


@pytest.mark.parametrize("case", [name for name in KINDS if "parallel" in name or "sum" in name or "both" in name])
def test_gradients_are_slopes_under_dropout_and_left_padding(case):
    rates = dict(embd_pdrop=0.2, resid_pdrop=0.2, attn_pdrop=0.2)
    model, ids = tiny_model({**fields(case), **rates}, double=True), random_ids(fields(case), 2, 9)
    run, mask = model.run(2, 9, backward=True, dropout=True, seed=3), left_mask(2, 9)

    def call():
        run._core.set_dropout_key(5, 1)
        return run.forward(ids, labels=ids, attention_mask=mask)

    assert_gradients_are_slopes(model, run, call, directions=1)


@pytest.mark.parametrize("position", ["learned", "none"])
def test_biases_of_keys_that_are_not_rotated_change_nothing(position):
    """They add one number to all scores of a query."""
    model, ids = tiny_model({**SMALL, "bias": True, "position": position}, double=True), random_ids(SMALL, 2, 9)
    run = model.run(2, 9, backward=True)
    run.forward_backward(ids)
    for name in model._parameters:
        assert (np.abs(run.grad(name)).max() < 1e-14) == name.endswith("k_proj.bias"), name


# --- generation
@each_kind
def test_the_cache_changes_no_text(case):
    model, ids = tiny_model(fields(case)), random_ids(fields(case), 3, 9)
    given = dict(attention_mask=left_mask(3, 9), max_new_tokens=20, eos_token_id=-1, return_logprobs=True)
    text, logprobs = model.generate(ids, prefill_chunk=4, **given)
    plain, expected = model.generate(ids, use_cache=False, **given)
    assert np.array_equal(text, plain)
    close(logprobs, expected, TOLERANCE["company"], "logprobs")


@pytest.mark.parametrize("position", ["rope", "learned"])
def test_layers_with_windows_forget_and_others_do_not(position):
    """Windows whose caches are full twice before the end, beside a layer that sees everything."""
    config = {**SMALL, "num_hidden_layers": 3, "sliding_window": [2, None, 31], "position": position,
              "norm_place": "out", "max_position_embeddings": 650}  # fmt: skip
    model, ids = tiny_model(config), random_ids(config, 2, 600)
    given = dict(max_new_tokens=40, eos_token_id=-1, return_logprobs=True)
    text, logprobs = model.generate(ids, prefill_chunk=70, **given)
    plain, expected = model.generate(ids, use_cache=False, **given)
    assert np.array_equal(text, plain)
    close(logprobs, expected, TOLERANCE["company"], "logprobs")


def test_learned_positions_end_and_others_do_not():
    def text(position):
        model = llmc.Model(architecture(position=position, max_position_embeddings=8))
        return model.generate(np.arange(6), max_new_tokens=10, eos_token_id=-1)

    assert text("none").shape == text("rope").shape == (1, 16)
    with pytest.raises(llmc.ConfigError, match="8 positions"):
        text("learned")


# --- files
@each_kind
def test_a_saved_model_opens_as_the_same(case, tmp_path):
    model, ids = tiny_model(fields(case)), random_ids(fields(case), 2, 9)
    model.save_pretrained(tmp_path)
    again = llmc.Model.from_pretrained(tmp_path)
    assert again.config == model.config == llmc.Config.from_pretrained(tmp_path)
    assert same_parameters(again, model) and np.array_equal(again(ids), model(ids))


@each_kind
def test_an_architecture_is_the_config_of_its_fields(case):
    ours, written = llmc.Architecture(**SIZES | KINDS[case]), llmc.Config(**fields(case))
    assert isinstance(ours, llmc.Config) and ours == written
    assert same_parameters(llmc.Model(ours, seed=3), llmc.Model(written, seed=3))


@pytest.mark.parametrize("tied", [False, True])
def test_llamas_kinds_are_a_llama_to_the_bit(tied):
    sizes = {**SIZES, "num_key_value_heads": 2, "tie_word_embeddings": tied, "norm_eps": 1e-6, "pad_token_id": 3}
    ours = llmc.Model(llmc.Architecture(**sizes), seed=5)
    llama = llmc.Model(llmc.Config("llama", bos_token_id=None, eos_token_id=None, **sizes), seed=5)
    ids = random_ids(sizes, 2, 9)
    assert same_parameters(ours, llama) and np.array_equal(ours(ids), llama(ids))
    runs = [model.run(2, 9, backward=True) for model in (ours, llama)]
    assert len({run.forward_backward(ids) for run in runs}) == 1
    assert all(np.array_equal(runs[0].grad(name), runs[1].grad(name)) for name in ours._parameters)


def test_parameters_have_llamas_names_and_those_of_their_kinds():
    def norms(**kinds):
        names = llmc.Model(architecture(num_hidden_layers=1, **kinds)).state_dict()
        return [name.split(".")[3] for name in names if "norm" in name and "layers" in name and "bias" not in name]

    assert norms() == ["input_layernorm", "post_attention_layernorm"]
    assert norms(norm_place="out") == norms(norm_place="sum") \
        == ["post_attention_layernorm", "post_feedforward_layernorm"]
    assert norms(norm_place=("in", "out")) == ["input_layernorm", "post_attention_layernorm",
                                               "pre_feedforward_layernorm", "post_feedforward_layernorm"]
    assert norms(order="parallel") == ["input_layernorm"]
    names = llmc.Model(architecture(position="learned", feed_forward="mlp", norm="layer", bias=("o",))).state_dict()
    assert "model.embed_positions.weight" in names and "model.norm.bias" in names
    assert {name.split("mlp.")[1] for name in names if "mlp." in name} == {"up_proj.weight", "down_proj.weight"}
    assert {name.rsplit(".", 2)[1] for name in names if name.endswith("proj.bias")} == {"o_proj"}


def test_bare_norms_have_no_parameters():
    assert not any("norm" in name for name in llmc.Model(architecture(norm="bare")).state_dict())


# --- words
TOGETHER = {  # fields that do not go together: what the message says
    "parallel after": (dict(order="parallel", norm_place="sum"), "order 'parallel'.*norm_place 'sum'"),
    "parallel both": (dict(order="parallel", norm_place=("in", "out")), "order 'parallel'.*norm_place.*'in', 'out'"),
    "base of none": (dict(position="none", rope_theta=500.0), "rope_theta 500.0.*no rotary positions"),
    "scaling of learned": (
        dict(position="learned", rope_scaling={"rope_type": "linear", "factor": 2.0}), "rope_scaling.*no rotary"),
    "odd heads": (dict(head_dim=7), "head_dim 7 is odd.*rope"),
    "groups": (dict(num_key_value_heads=3), "num_attention_heads 4.*num_key_value_heads 3"),
    "heads": (dict(num_attention_heads=5), "hidden_size 24.*num_attention_heads 5"),
    "padding": (dict(pad_token_id=61), "pad_token_id 61.*vocab_size 61"),
    "windows": (dict(sliding_window=[3]), r"sliding_window \[3\] has 1 values, num_hidden_layers is 3"),
    "bases": (dict(rope_theta=[1.0, 2.0]), r"rope_theta \[1.0, 2.0\] has 2 values, num_hidden_layers is 3"),
    "feed-forwards": (dict(feed_forward=["mlp"] * 4), "feed_forward .* has 4 values, num_hidden_layers is 3"),
    "widths": (dict(intermediate_size=[]), r"intermediate_size \[\] has 0 values, num_hidden_layers is 3"),
    "many bases": (
        dict(num_hidden_layers=65, rope_theta=[2.0 + i for i in range(65)]), "rope_theta has 65 different values.*64"),
}  # fmt: skip
WRONG = {  # field: values that it does not have
    "norm": ("batch", 3, ["rms"]),
    "norm_place": ("before", ("out", "in"), [["in"]], 3),
    "final_norm": (1, "yes"),
    "position": ("rotary", 0),
    "feed_forward": ("moe", ["gated", "mlp", "moe"], 3),
    "order": ("both", 1),
    "bias": (0, "q", ("qkv", "head"), [["qkv"]], [3]),
    "sliding_window": (0, 3.5, [3, None, 0], [3, True, 3]),
    "intermediate_size": (0, "wide", [3, None, 3]),
    "rope_theta": (0, [1.0, 0, 2.0], [1.0, "a", 2.0], [[1.0], 2.0, 3.0]),
    "hidden_act": ("zilu", 3),
    "head_dim": (0,),
    "norm_eps": (-1, "small"),
    "resid_pdrop": (1.0, -0.1),
    "tie_word_embeddings": (1,),
}


@pytest.mark.parametrize("case", TOGETHER)
def test_fields_that_do_not_go_together_are_both_named(case):
    kinds, message = TOGETHER[case]
    with pytest.raises(llmc.ConfigError, match=message):
        architecture(**kinds)


@pytest.mark.parametrize("field", WRONG)
def test_a_wrong_word_names_its_field(field):
    for value in WRONG[field]:
        with pytest.raises(llmc.ConfigError, match=field):
            architecture(**{field: value})


def test_the_wrong_one_of_a_list_is_named_by_its_layer():
    with pytest.raises(llmc.ConfigError, match=r"feed_forward\[1\] is 'moe', not one of gated, mlp"):
        architecture(feed_forward=["gated", "moe", "mlp"])
    with pytest.raises(llmc.ConfigError, match=r"intermediate_size\[2\] is None"):
        architecture(intermediate_size=[3, 4, None])


def test_an_unknown_word_is_refused_with_the_nearest():
    with pytest.raises(TypeError, match="Architecture has no argument 'norm_plce'; nearest: norm_place"):
        architecture(norm_plce="in")
    with pytest.raises(TypeError, match="Config.replace has no argument 'norm_plce'.*norm_place"):
        architecture().replace(norm_plce="in")
    with pytest.raises(TypeError, match="'norm_plce'; it is no field of llmc; nearest: norm_place"):
        llmc.Config("llmc", **SIZES, norm_plce="in")
    with pytest.raises(llmc.ConfigError, match="vocab_size is not given; an assembled decoder has no default"):
        llmc.Config("llmc", hidden_size=12)
    with pytest.raises(llmc.ConfigError, match="attention_bias True: llmc has no such field"):
        llmc.Config("llmc", **SIZES, attention_bias=True)


def test_tuples_and_lists_of_one_value_a_layer_are_the_same():
    lists = dict(sliding_window=[3, None, 4], rope_theta=[5.0, 7.0, 5.0], feed_forward=["mlp", "mlp", "gated"],
                 intermediate_size=[3, 4, 5], norm_place=["in", "out"], bias=["qkv", "o"])  # fmt: skip
    tuples = {name: tuple(value) for name, value in lists.items()}
    assert architecture(**tuples) == architecture(**lists) == architecture().replace(**tuples)


def test_a_value_of_every_layer_is_that_value_once():
    ids = random_ids(SIZES, 2, 9)
    one = dict(sliding_window=3, rope_theta=50.0, feed_forward="mlp", intermediate_size=13)
    each = {name: [value] * 3 for name, value in one.items()}
    assert np.array_equal(llmc.Model(architecture(**one))(ids), llmc.Model(architecture(**each))(ids))


def test_layer_types_say_what_the_windows_do():
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    config = llmc.Config("llmc", **SIZES, sliding_window=[3, None, 4], layer_types=kinds)
    assert config.layer_types == kinds
    with pytest.raises(llmc.ConfigError, match="layer_types.*full.*the 3 layers of llmc are .*sliding"):
        config.replace(sliding_window=[3, 3, 4])


def test_copies_are_equal_and_can_be_changed():
    config = architecture(rope_theta=[5.0, 7.0, 5.0], norm_place=("in", "out"), bias=("qkv",))
    frozen = llmc.Model(config).config
    for other in (copy.copy(config), copy.deepcopy(frozen), pickle.loads(pickle.dumps(frozen)), frozen.replace()):
        assert other == config and isinstance(other, llmc.Architecture)
        other.rope_theta, other.norm = (5.0, 7.0, 9.0), "layer"
        assert llmc.Model(other).config == other != config
    with pytest.raises(llmc.ConfigError, match="read-only.*replace"):
        frozen.rope_theta[0] = 3.0


def test_one_family_alone_takes_lists():
    for field, value in (("sliding_window", [3, 4]), ("rope_theta", [3.0, 4.0]), ("intermediate_size", [3, 4])):
        with pytest.raises(llmc.ConfigError, match=field):
            llmc.Config("mistral", num_hidden_layers=2, **{field: value})


# --- adapters
PARTS = {"domain": {"q_proj", "v_proj"}, "context": {"q_proj", "k_proj", "v_proj"},
         "attention": {"q_proj", "k_proj", "v_proj", "o_proj"}, "mlp": {"gate_proj", "up_proj", "down_proj"},
         "all-linear": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}}  # fmt: skip


@each_kind
def test_presets_of_adapters_reach_the_linears_of_all_kinds(case):
    for preset, parts in PARTS.items():
        model, ids = tiny_model(fields(case)), random_ids(fields(case), 2, 9)
        linears = {name.removesuffix(".weight") for name in model.state_dict()}
        expected = {path for path in linears if path.rpartition(".")[2] in parts}
        before = model(ids)
        model.add_adapter(llmc.LoraConfig(r=2, target_modules=preset, init_lora_weights=False))
        adapted = {name.split(".lora_A")[0] for name in model.state_dict() if ".lora_A." in name}
        assert adapted == expected
        after = model(ids)
        assert np.abs(after - before).max() > 0.01
        model.merge_and_unload()
        close(model(ids), after, TOLERANCE["logits"], preset)


def test_adapters_of_an_assembled_decoder_have_no_default():
    model = llmc.Model(architecture())
    with pytest.raises(llmc.ConfigError, match="peft has no default for llmc.*domain"):
        model.add_adapter(llmc.LoraConfig(target_modules=None))


# --- training, storage, looking inside
class Rows:
    """Rows of a text that can be learned."""

    def __len__(self):
        return 16

    def __getitem__(self, index):
        if index >= len(self):
            raise IndexError(index)
        return {"input_ids": [(index + 3 * t) % 31 for t in range(9)]}


@pytest.mark.parametrize("case", [name for name in KINDS if "by layer" in name or "bare" in name])
def test_training_lowers_the_loss(case, tmp_path):
    model = llmc.Model(llmc.Config(**{**fields(case), "initializer_range": 0.02}))
    rows = np.array([row["input_ids"] for row in Rows()])
    before = model.loss(rows)
    arguments = llmc.TrainingArguments(str(tmp_path), max_steps=30, per_device_train_batch_size=8, learning_rate=1e-2,
                                       save_strategy="no", seed=5, disable_tqdm=True)  # fmt: skip
    llmc.Trainer(model, arguments, train_dataset=Rows()).train()
    assert model.loss(rows) < 0.7 * before


@each_kind
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_narrow_weights_compute_as_the_numbers_they_hold(case, dtype):
    config, ids = llmc.Config(**fields(case)), random_ids(fields(case), 2, 9)
    narrow, wide = llmc.Model(config, dtype=dtype, precision="float32"), llmc.Model(config)
    wide.load_state_dict(narrow.state_dict())
    close(narrow(ids), wide(ids), TOLERANCE["logits"], dtype)
    assert llmc.Model(config, dtype=dtype).generate(ids, max_new_tokens=5, eos_token_id=-1).shape == (2, 14)


def stream_of(run, config, branch):
    """What a branch joins: what the norm before it reads, or where there is none it itself; attention joins first."""
    block, _, leaf = branch.rpartition(".")
    if config["order"] == "parallel":
        stream = run.input(f"{block}.input_layernorm")
        return stream + run.output(f"{block}.self_attn") if leaf == "mlp" else stream
    place = config["norm_place"]
    before, _, _ = reference.NORMS[(place,) if isinstance(place, str) else tuple(place)][leaf == "mlp"]
    return run.input(f"{block}.{before}" if before else branch)


@each_kind
def test_lim_of_every_module_is_the_references(case):
    model, ids = tiny_model(fields(case), double=True), random_ids(fields(case), 2, 9)
    rows = {row["name"]: row for row in lim(model, ids, metrics=METRICS).rows}
    run = model.run(2, 9, keep="all")
    loss = run.forward(ids, labels=ids)
    for name, (read, _) in run.shapes().items():
        if read is None:
            continue
        x, y = (np.reshape(each, (18, -1)) for each in (run.input(name), run.output(name)))
        for metric in ("lim", "negative_cosine", "cka"):
            assert rows[name][metric] == pytest.approx(getattr(lim_reference, metric)(x, y), rel=1e-9, abs=1e-9), name
        if rows[name]["kind"] in ("attention", "feed-forward"):
            stream = np.reshape(stream_of(run, model.config.to_dict(), name), (18, -1))
            expected = lim_reference.relative_contribution(x, y, stream)
            assert rows[name]["relative_contribution"] == pytest.approx(expected, rel=1e-9), name
    skipped = [name for name, row in rows.items() if row["ablation"] is not None]
    assert len(skipped) == 3 * 3
    for name in skipped:
        assert rows[name]["ablation"] == pytest.approx(model.run(2, 9).forward(ids, labels=ids, skip=[name]) - loss)


@each_kind
def test_every_kind_is_drawn_listed_and_counted(case):
    config = llmc.Config(**fields(case))
    model = llmc.Model(config)
    drawing = config.drawing()
    assert drawing.count("+◀───┘") % 2 == 0 and "stream (24)" in drawing
    assert ("input_layernorm" in drawing) == ("in" in config.norm_place)
    assert "self_attn" in repr(model) and "lm_head" in str(model.summary())
    assert model.estimate(2, 9)["flops"] > 0
    assert model.num_parameters() == sum(view.size for view in model._parameters.values())
