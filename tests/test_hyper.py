"""Hyper-Connections: several residual streams, as LIMe's authors coded them and as the paper has them."""

import collections
import inspect
import math

import ml_dtypes
import numpy as np
import pytest
import reference
import test_generation
import test_identities
import test_lim
import test_looking_inside
import test_narrow_weights
import test_reached
import test_truth
from conftest import TINY, TOLERANCE, needs_bfloat16
from test_identities import assert_same, close_but_rounding, stepwise
from test_truth import assert_gradients_are_slopes, truth
from tiny import close, close_relative, random_ids, tiny_model

import llmc
from llmc.errors import ConfigError

LENGTH = 17
FAMILIES = {name: {**TINY["llama"], "model_type": name, "hyper_rate": 3} for name in ("hc", "hc-paper")}
each_family = pytest.mark.parametrize("name", FAMILIES)
LEAVES = ("static_beta", "static_alpha", "dynamic_alpha_fn", "dynamic_alpha_scale", "dynamic_beta_fn",
          "dynamic_beta_scale")  # fmt: skip
CASES = [(name, streams, dynamic) for name in FAMILIES for streams, dynamic in ((1, True), (2, False), (4, True))]
each_case = pytest.mark.parametrize("config", [
    {**FAMILIES[name], "hyper_rate": streams, "hyper_dynamic": dynamic} for name, streams, dynamic in CASES
], ids=[f"{name}, {streams}, {'dynamic' if dynamic else 'static'}" for name, streams, dynamic in CASES])  # fmt: skip


@pytest.fixture(autouse=True)
def as_many_threads_as_before():
    before = llmc.get_num_threads()
    yield
    llmc.set_num_threads(before)


def connections(model):
    """The names of the parameters of connections."""
    return [name for name in model._parameters if ".hc_" in name]


def shapes(**fields):
    return llmc._core.Model(llmc.Config(**fields).spec(), False).shapes()


# --- what every family keeps to, these keep to

OF_EVERY_FAMILY = [
    (test_truth.test_masks_labels_and_positions_are_the_references, dict(mask_of=test_truth.left_mask)),
    (test_truth.test_a_row_of_one_token_is_the_references, {}),
    (test_truth.test_a_long_row_is_the_references, {}),
    (test_truth.test_gradients_are_slopes_when_blocks_and_branches_are_left_out, {}),
    (test_truth.test_the_gradient_at_a_module_is_the_slope_of_what_is_written_there, {}),
    (test_truth.test_double_model_needs_no_double_files, {}),
    (test_identities.test_tied_head_equals_a_copy_of_the_embedding, {}),
    (test_identities.test_no_token_sees_a_later_one, {}),
    (test_identities.test_padding_changes_no_real_token_and_no_loss, dict(side="left")),
    (test_identities.test_company_in_a_batch_changes_nothing, {}),
    (test_identities.test_run_returns_to_a_shape_with_the_same_bits, {}),
    (test_identities.test_every_pass_of_a_run_gives_what_a_fresh_run_gives, {}),
    (test_identities.test_forward_backward_equals_forward_and_backward, {}),
    (test_identities.test_kept_or_not_the_bits_are_the_same, dict(keep="all")),
    (test_identities.test_four_micro_batches_of_one_equal_one_of_four, {}),
    (test_identities.test_stopping_anywhere_and_going_on_changes_no_bit, {}),
    (test_identities.test_skipped_branch_is_zero, dict(which="attention")),
    (test_identities.test_reading_with_a_past_equals_reading_at_once, dict(chunk=1)),
    (test_identities.test_reading_padded_rows_with_a_past_equals_reading_at_once, dict(chunk=5)),
    (test_looking_inside.test_keep_all_keeps_input_output_and_gradient_of_every_module_and_no_pattern, {}),
    (test_looking_inside.test_summary_counts_every_parameter_once, {}),
    (test_looking_inside.test_estimate_forecasts_what_a_run_takes, dict(keep=None, train=True, shape=(3, 17))),
    (test_looking_inside.test_estimate_counts_the_cache_of_a_generation, {}),
    (test_reached.test_gradients_of_hook_points_are_those_of_this_pass, {}),
    (test_generation.test_streaming_gives_what_generate_gives, {}),
    (test_narrow_weights.test_generation_with_narrow_weights_is_the_same_without_a_cache, dict(dtype="int8")),
    (test_narrow_weights.test_the_double_core_reads_narrow_weights_too, dict(dtype="bfloat16")),
]


@each_family
@pytest.mark.parametrize("test, given", OF_EVERY_FAMILY, ids=lambda each: getattr(each, "__name__", ""))
def test_what_holds_of_every_family_holds_here(test, given, name, monkeypatch, tmp_path):
    config = FAMILIES[name]
    for table in ("TINY", "EVERY"):  # where a test looks a family up
        if hasattr(module := inspect.getmodule(test), table):
            monkeypatch.setitem(getattr(module, table), name, config)
    if "tiny" in inspect.signature(test).parameters:
        given = {**given, "tiny": inspect.unwrap(module.tiny)(name)}
    given = {**given, "family": name, "tmp_path": tmp_path}
    test(**{key: value for key, value in given.items() if key in inspect.signature(test).parameters})


# --- values and gradients


@each_case
def test_logits_and_loss_are_the_references(config):
    ids = random_ids(config, 2, LENGTH)
    for double, tolerance in ((True, "double"), (False, "logits")):
        model = tiny_model(config, double=double)
        given = truth(model, config, ids)
        close(model(ids), reference.model_logits(**given), TOLERANCE[tolerance], "logits")
        assert model.loss(ids) == pytest.approx(reference.model_loss(**given), abs=TOLERANCE[tolerance])


@each_case
def test_gradients_are_slopes(config):
    model = tiny_model(config, double=True)
    ids = random_ids(config, 2, LENGTH)
    run = model.run(2, LENGTH, backward=True)
    assert_gradients_are_slopes(model, run, lambda: run.forward(ids, labels=ids), directions=1)
    assert all(run.grad(name).any() for name in connections(model))


def test_gradients_over_more_rows_than_a_task_takes_are_slopes():
    config = {**FAMILIES["hc"], "hidden_size": 12, "head_dim": 2, "intermediate_size": 9, "num_hidden_layers": 2}
    model = tiny_model(config, double=True)
    ids = random_ids(config, 11, 199)
    run = model.run(11, 199, backward=True)
    run.forward_backward(ids)
    for name in connections(model):
        if not name.startswith("model.layers.1.hc_mlp."):
            continue
        array, found = model._parameters[name], run.grad(name, copy=True)
        start, direction = array.copy(), np.random.default_rng(1).standard_normal(found.shape)

        def moved(by):
            array[...] = start + by * direction
            return run.forward(ids, labels=ids)

        difference = test_truth.slope(moved) - float((found * direction).sum())
        array[...] = start
        assert abs(difference) <= TOLERANCE["slope"] * max(float(np.linalg.norm(found)), 1e-5), name


def test_any_number_of_threads_gives_the_same_bits():
    config = {**FAMILIES["hc"], "num_hidden_layers": 2, "hidden_size": 76, "vocab_size": 307}
    model, ids, found = tiny_model(config), random_ids(config, 5, 131), []
    run = model.run(5, 131, backward=True)
    for threads in (1, 2, 3, 4):
        llmc.set_num_threads(threads)
        run.zero_grad()
        loss = run.forward_backward(ids)
        found.append({"loss": loss} | {name: run.grad(name, copy=True) for name in model._parameters})
    for other in found[1:]:
        assert_same(found[0], other)


@each_family
def test_a_frozen_base_and_one_trained_connection_have_the_same_gradients(name):
    config = FAMILIES[name]
    model, ids = tiny_model(config), random_ids(config, 2, LENGTH)
    run, path = model.run(2, LENGTH, backward=True), "model.layers.1.hc_attn"
    run.forward_backward(ids)
    whole = {leaf: run.grad(f"{path}.{leaf}", copy=True) for leaf in LEAVES}
    model.add_adapter(llmc.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=[path]))
    run = model.run(2, LENGTH, backward=True)
    run.forward_backward(ids)
    copies = {key.rpartition(".")[2]: run.grad(key) for key in model.trained() if "hc_attn" in key}
    assert_same(copies, whole)


def torch_logits(torch, config, weights, ids):
    """An implementation of its own, after the paper's algorithms: a list of streams, each connection a matrix that is
    transposed and multiplied."""
    functional, S, D = torch.nn.functional, config["hyper_rate"], config["head_dim"]
    H, G = config["num_attention_heads"], config["num_key_value_heads"]
    B, T = ids.shape

    def rms(x, weight):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * weight

    def before(path, x):
        weight = weights.get(path + ".weight")
        return functional.layer_norm(x, x.shape[-1:], eps=1e-5) if weight is None else rms(x, weight)

    def rotated(x):  # (B, heads, T, D)
        angles = torch.outer(torch.arange(T), 10000.0 ** (-torch.arange(0, D, 2) / D)).float().repeat(1, 2)
        half = torch.cat((-x[..., D // 2 :], x[..., : D // 2]), -1)
        return x * angles.cos() + half * angles.sin()

    def attention(path, x):
        q, k, v = ((x @ weights[f"{path}.{part}_proj.weight"].T).view(B, T, -1, D).transpose(1, 2) for part in "qkv")
        k, v = (part.repeat_interleave(H // G, 1) for part in (rotated(k), v))
        mixed = functional.scaled_dot_product_attention(rotated(q), k, v, is_causal=True)
        return mixed.transpose(1, 2).reshape(B, T, H * D) @ weights[path + ".o_proj.weight"].T

    def feed_forward(path, x):
        hidden = functional.silu(x @ weights[path + ".gate_proj.weight"].T) * (x @ weights[path + ".up_proj.weight"].T)
        return hidden @ weights[path + ".down_proj.weight"].T

    def through(path, streams, branch):
        beta, alpha, alpha_fn, alpha_scale, beta_fn, beta_scale = (weights.get(f"{path}.{leaf}") for leaf in LEAVES)
        if alpha_fn is not None:
            normed = functional.layer_norm(streams, streams.shape[-1:], eps=1e-5)
            alpha = alpha + torch.tanh(normed @ alpha_fn) * alpha_scale
            beta = beta + torch.tanh(normed @ beta_fn) * beta_scale
        mixed = alpha.transpose(-1, -2) @ streams
        read, rest = mixed[..., :1, :], mixed[..., 1:, :]
        return rest + beta[..., None].expand(B, T, S, 1) * branch(read.squeeze(-2)).unsqueeze(-2)

    streams = weights["model.embed_tokens.weight"][ids].unsqueeze(2).expand(B, T, S, -1)
    for layer in range(config["num_hidden_layers"]):
        path = f"model.layers.{layer}"
        streams = through(f"{path}.hc_attn", streams, lambda x: attention(
            f"{path}.self_attn", before(f"{path}.input_layernorm", x)))  # fmt: skip
        streams = through(f"{path}.hc_mlp", streams, lambda x: feed_forward(
            f"{path}.mlp", before(f"{path}.post_attention_layernorm", x)))  # fmt: skip
    return rms(streams.sum(2), weights["model.norm.weight"]) @ weights["lm_head.weight"].T


@each_case
def test_logits_loss_and_gradients_are_those_of_torch(config, peers):
    torch = peers.torch
    model, ids = tiny_model(config), random_ids(config, 2, LENGTH)
    weights = {name: torch.tensor(array, requires_grad=True) for name, array in model.state_dict().items()}
    logits = torch_logits(torch, config, weights, torch.tensor(ids))
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]),
                                             torch.tensor(ids)[:, 1:].reshape(-1))  # fmt: skip
    loss.backward()
    close(model(ids), logits.detach().numpy(), TOLERANCE["logits"], "logits")
    run = model.run(2, LENGTH, backward=True)
    assert run.forward_backward(ids) == pytest.approx(loss.item(), abs=TOLERANCE["loss"])
    for name in weights:
        close_relative(run.grad(name), weights[name].grad.numpy(), TOLERANCE["gradient"], name)


# --- identities


@pytest.mark.parametrize("streams", [1, 2, 3, 4])
def test_the_papers_start_is_the_llama_of_its_weights(streams):
    """But for the epsilon of the last norm, which reads the sum of equal streams: here it is 0."""
    fields = {**FAMILIES["hc-paper"], "hyper_rate": streams, "rms_norm_eps": 0.0}
    paper = tiny_model(fields, double=True, scale=0)
    llama = tiny_model({**TINY["llama"], "rms_norm_eps": 0.0}, double=True, scale=0)
    given = paper.state_dict()
    llama.load_state_dict({name: given[name] for name in llama.state_dict()})
    ids = random_ids(fields, 2, LENGTH)
    close(paper(ids), llama(ids), TOLERANCE["double"], "logits")


def test_one_plain_stream_is_a_llama():
    """Whatever the connections are made of, where they come to 1 the one stream is the residual."""
    model = tiny_model({**FAMILIES["hc-paper"], "hyper_rate": 1, "hyper_dynamic": False}, double=True)
    for name in connections(model):
        model._parameters[name][...] = 1
    llama = tiny_model(TINY["llama"], double=True)
    given = model.state_dict()
    llama.load_state_dict({name: given[name] for name in llama.state_dict()})
    ids = random_ids(TINY["llama"], 2, LENGTH)
    close(model(ids), llama(ids), TOLERANCE["double"], "logits")


@each_family
def test_streams_may_change_places_with_their_numbers(name):
    config = {**FAMILIES[name], "hyper_rate": 4}
    model, ids, order = tiny_model(config, double=True), random_ids(config, 2, LENGTH), [2, 0, 3, 1]
    before = model(ids)
    for each in connections(model):
        array, leaf = model._parameters[each], each.rpartition(".")[2]
        if leaf in ("static_beta", "static_alpha"):
            array[...] = array[order]
        if leaf in ("static_alpha", "dynamic_alpha_fn"):
            array[:, 1:] = array[:, 1:][:, order]
    close(model(ids), before, TOLERANCE["double"], "logits")


@each_family
def test_a_block_left_out_leaves_every_stream_as_it_is_and_a_branch_left_out_mixes_them(name):
    config = FAMILIES[name]
    model, ids = tiny_model(config, double=True), random_ids(config, 2, LENGTH)
    run, path = model.run(2, LENGTH, keep="all"), "model.layers.1"
    run.forward(ids, skip=[path])
    assert_same(run.output(path), run.input(path))
    run.forward(ids, skip=[f"{path}.self_attn", f"{path}.mlp"])
    streams = run.input(path).reshape(2, LENGTH, 3, -1)
    for part in ("hc_attn", "hc_mlp"):
        _, streams, _ = reference.hyper_width(model._parameters, f"{path}.{part}", streams)
    close(run.output(path).reshape(streams.shape), streams, TOLERANCE["double"], "streams")


# --- the hook points


@each_family
def test_blocks_show_streams_side_by_side_and_connections_what_is_read_of_them(name):
    config = FAMILIES[name]
    model, ids, C = tiny_model(config, double=True), random_ids(config, 2, LENGTH), config["hidden_size"]
    run = model.run(2, LENGTH, keep="all")
    run.forward(ids)
    assert run.shapes()["model.layers.2"] == ((2, LENGTH, 3 * C), (2, LENGTH, 3 * C))
    assert run.shapes()["model.layers.2.hc_mlp"] == ((2, LENGTH, 3 * C), (2, LENGTH, C))
    assert_same(run.input("model.layers.0"), np.tile(run.output("model.embed_tokens"), 3))
    last = run.output("model.layers.2").reshape(2, LENGTH, 3, C)
    close(run.input("model.norm"), last.sum(axis=2), TOLERANCE["double"], "the sum")
    streams = run.input("model.layers.1").reshape(2, LENGTH, 3, C)
    read, _, _ = reference.hyper_width(model._parameters, "model.layers.1.hc_attn", streams)
    close(run.output("model.layers.1.hc_attn"), read, TOLERANCE["double"], "read")
    assert_same(run.input("model.layers.1.input_layernorm"), run.output("model.layers.1.hc_attn"))
    assert run.parts()["model.layers.1.hc_mlp"] == ("feed_forward_connection", 1)


@each_family
def test_what_is_written_into_what_a_branch_reads_leaves_the_streams_their_gradient(name):
    """A pass that stops there goes on from what is written: behind it the streams still depend on what came before."""
    model, ids = tiny_model(FAMILIES[name], double=True), random_ids(FAMILIES[name], 2, LENGTH)
    path = "model.layers.1.hc_mlp"
    run = model.run(2, LENGTH, backward=True)
    run.forward(ids, until=path)
    written = run.output(path)[:, ::-1].copy()

    def loss():
        run.forward(ids, labels=ids, until=path)
        run.output(path)[...] = written
        return run.resume()

    assert_gradients_are_slopes(model, run, loss, directions=1)


@each_family
def test_lim_of_every_module_is_the_references(name):
    model, ids = tiny_model(FAMILIES[name], double=True), random_ids(FAMILIES[name], 2, 9)
    metrics = ("lim", "negative_cosine", "relative_contribution", "ablation")
    report = llmc.analysis.lim(model, ids, metrics=metrics)
    test_lim.check(model, report, ids, metrics=metrics[:3])
    kinds = {row["name"]: row["kind"] for row in report.rows}
    assert {name for name, kind in kinds.items() if kind == "connection"} == {
        f"model.layers.{layer}.{part}" for layer in range(3) for part in ("hc_attn", "hc_mlp")}  # fmt: skip
    assert all(row["ablation"] for row in report.rows if row["kind"] in ("block", "attention", "feed-forward"))


def test_trees_tables_and_drawings_show_connections():
    model = llmc.Model(llmc.Config(**FAMILIES["hc"]))
    assert "(hc_attn): HyperConnection(3, dynamic=True)" in str(model)
    assert "(input_layernorm): LayerNorm((44,), eps=1e-05, elementwise_affine=False)" in str(model)
    assert "(norm): RMSNorm((44,), eps=1e-06)" in str(model)
    flops = {row["module"]: row["FLOPs"] for row in model.summary().rows}
    C, S = 44, 3
    assert flops["model.layers.0.hc_attn"] == flops["model.layers.2.hc_mlp"] == 2 * S * C * (1 + S + (S + 2) + 1)
    drawn = llmc.Config(**FAMILIES["hc-paper"], hyper_dynamic=False).drawing()
    assert "3 streams (44)" in drawn and drawn.count("+◀───┘") == 2
    assert " ├──▶ hc_attn                       a mixture of the streams, the same of every token" in drawn


# --- configurations and starting values


@pytest.mark.parametrize("name, groups, expected", [
    ("hc", 32, 1_177_064_256), ("hc", 8, 1_076_400_960), ("hc-paper", 32, 1_177_129_792),
])  # fmt: skip
def test_parameters_of_the_papers_models_are_counted(name, groups, expected):
    config = llmc.Config(name, vocab_size=50257, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
                         num_attention_heads=32, num_key_value_heads=groups, tie_word_embeddings=True)  # fmt: skip
    assert llmc._core.Model(config.spec(), False).parameter_count == expected


def test_parameters_have_the_authors_names_shapes_and_order():
    found, C = shapes(**FAMILIES["hc"]), FAMILIES["hc"]["hidden_size"]
    expected = dict(zip(LEAVES, ((3,), (3, 4), (C, 4), (1,), (C,), (1,))))
    for part in ("hc_attn", "hc_mlp"):
        own = {key.rpartition(".")[2]: shape for key, shape in found.items() if f"layers.1.{part}." in key}
        assert list(own.items()) == list(expected.items())
    assert not any("layernorm" in key for key in found)
    paper, llama = (shapes(**config) for config in (FAMILIES["hc-paper"], TINY["llama"]))
    assert {key: shape for key, shape in paper.items() if ".hc_" not in key} == llama
    static = shapes(**FAMILIES["hc"], hyper_dynamic=False)
    assert set(found) - set(static) == {key for key in found if ".dynamic_" in key}


@each_family
@pytest.mark.parametrize("streams", [1, 3, 4])
def test_connections_start_as_the_plain_residual(name, streams):
    config = {**FAMILIES[name], "hyper_rate": streams, "num_hidden_layers": 5}
    weights = llmc.Model(llmc.Config(**config), seed=1).state_dict()
    for layer in range(5):
        for branch, part in enumerate(("hc_attn", "hc_mlp")):
            own = {leaf: weights[f"model.layers.{layer}.{part}.{leaf}"] for leaf in LEAVES}
            reads = (layer if name == "hc" else 2 * layer + branch) % streams
            assert_same(own["static_alpha"], np.column_stack([np.eye(streams)[reads], np.eye(streams)]))
            assert (own["static_beta"] == 1).all()
            assert not own["dynamic_alpha_fn"].any() and not own["dynamic_beta_fn"].any()
            assert own["dynamic_alpha_scale"] == own["dynamic_beta_scale"] == np.float32(0.01)


def test_the_paper_scales_what_is_added_to_the_streams():
    fields = dict(TINY["llama"], hidden_size=400, intermediate_size=400, num_hidden_layers=1, initializer_range=0.08)
    weights = {name: llmc.Model(llmc.Config(**{**fields, "model_type": name})).state_dict()
               for name in ("llama", "hc", "hc-paper")}  # fmt: skip
    for part in ("self_attn.o_proj", "mlp.down_proj"):
        name = f"model.layers.0.{part}.weight"
        assert_same(weights["hc"][name], weights["llama"][name])
        assert weights["hc-paper"][name].std() == pytest.approx(0.08 / math.sqrt(4), rel=0.02)
    shared = [name for name in weights["llama"] if name in weights["hc-paper"] and "o_proj" not in name
              and "down_proj" not in name]  # fmt: skip
    assert_same({name: weights["hc-paper"][name] for name in shared}, weights["llama"])


def test_fields_have_the_faces_defaults_and_are_written():
    for name in FAMILIES:
        config = llmc.Config(name)
        assert (config.hyper_rate, config.hyper_dynamic, config.kv_init) == (4, True, "llama")
        assert config.to_dict()["hyper_rate"] == 4
        assert config.architectures == ["LlamaHCForCausalLM"]
        assert config.replace(hyper_rate=2, kv_init="authors").hyper_rate == 2
    assert llmc.Config("hc").norm_eps == 1e-6


@pytest.mark.parametrize("field, value", [
    ("hyper_rate", 0), ("hyper_rate", 2.0), ("hyper_rate", True), ("hyper_rate", None), ("hyper_rate", 10**8),
    ("hyper_dynamic", 1), ("hyper_dynamic", "yes"), ("kv_init", "normal"), ("router_init", "identity"),
    ("router_top_p", 0.9),
])  # fmt: skip
def test_what_is_outside_the_table_is_refused_by_name(field, value):
    for name in FAMILIES:
        with pytest.raises(ConfigError, match=field):
            llmc.Config(**{**FAMILIES[name], field: value})


@pytest.mark.parametrize("field, value", [("hyper_rate", 4), ("hyper_dynamic", True)])
def test_other_families_have_no_streams(field, value):
    for name in ("gpt2", "llama", "lime"):
        with pytest.raises(ConfigError, match=f"{field} .*: {name} has no such field, hc, hc-paper have"):
            llmc.Config(name, **{field: value})


@pytest.mark.parametrize("change", [
    {"order": "parallel"}, {"streams": 2, "residual": "plain"}, {"streams": 2**30},
    {"names": {"attention_norm_out": "norm_out"}}, {"names": {"feed_forward_connection": None}},
])  # fmt: skip
def test_the_core_refuses_kinds_that_do_not_go_together(change):
    spec = llmc.Config(**FAMILIES["hc"]).spec()
    names = spec["names"] | change.get("names", {})
    with pytest.raises(ConfigError, match="stream|hyper|connection"):
        llmc._core.Model(spec | change | {"names": names}, False)


# --- training, files, adapters, narrow weights, precision


@each_family
def test_it_trains_and_opens_as_it_was_saved(name, tmp_path):
    config = FAMILIES[name]
    model, ids = llmc.Model(llmc.Config(**config), seed=3), random_ids(config, 4, LENGTH)
    run, optimizer = model.run(4, LENGTH, backward=True), llmc.AdamW(model, lr=3e-3)
    before = {each: model._parameters[each].copy() for each in connections(model)}
    losses = []
    for _ in range(12):
        losses.append(run.forward_backward(ids))
        optimizer.step(run)
    assert losses[-1] < 0.8 * losses[0]
    moved = [each for each, array in before.items() if not np.array_equal(array, model._parameters[each])]
    assert {each.rpartition(".")[2] for each in moved} == set(LEAVES)
    model.save_pretrained(tmp_path)
    opened = llmc.Model.from_pretrained(tmp_path)
    assert opened.config == model.config
    assert_same(opened.state_dict(), model.state_dict())
    assert_same(opened(ids), model(ids))


def test_a_training_resumes_to_the_same_bits(tmp_path):
    rows = [{"input_ids": [(7 * index + 3 * t * t) % 31 for t in range(4 + index % 5)]} for index in range(11)]

    def trained(out, **options):
        model = llmc.Model(llmc.Config(**FAMILIES["hc"]), seed=2)
        arguments = llmc.TrainingArguments(tmp_path / out, max_steps=6, per_device_train_batch_size=2, save_steps=3,
                                           learning_rate=1e-2, disable_tqdm=True, seed=1)  # fmt: skip
        llmc.Trainer(model, arguments, rows).train(**options)
        return model.state_dict()

    whole = trained("whole")
    assert_same(trained("whole", resume_from_checkpoint=tmp_path / "whole" / "checkpoint-3"), whole)


@pytest.mark.parametrize("decay", ["matrices", "all"])
def test_what_depends_on_the_token_decays_and_what_does_not_does_not(decay):
    config = FAMILIES["hc"]
    ids, stepped = random_ids(config, 2, LENGTH), []
    for weight_decay in (0.0, 0.5):
        model = tiny_model(config)
        run = model.run(2, LENGTH, backward=True)
        run.forward_backward(ids)
        llmc.AdamW(model, lr=0.1, weight_decay=weight_decay, decay=decay).step(run)
        stepped.append({leaf: model._parameters[f"model.layers.1.hc_mlp.{leaf}"].copy() for leaf in LEAVES})
    decayed = {leaf for leaf in LEAVES if (stepped[0][leaf] != stepped[1][leaf]).any()}
    assert decayed == (set(LEAVES) if decay == "all" else set(LEAVES[2:]))


@each_family
def test_adapters_stand_beside_linears_and_merge(name):
    config = FAMILIES[name]
    model, ids = tiny_model(config, double=True), random_ids(config, 2, LENGTH)
    model.add_adapter(llmc.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    assert not any(".hc_" in key for key in model.trained())
    run = model.run(2, LENGTH, backward=True)
    run.forward_backward(ids)
    rng = np.random.default_rng(3)
    for key, view in list(model.trained().items())[::5]:
        start, direction = view.copy(), rng.standard_normal(view.shape)

        def moved(by):
            view[...] = start + by * direction
            return run.forward(ids, labels=ids)

        difference = test_truth.slope(moved, step=3e-6) - float((run.grad(key) * direction).sum())  # it is steep
        view[...] = start
        assert abs(difference) <= TOLERANCE["slope"] * max(float(np.linalg.norm(run.grad(key))), 1e-5), key
    logits = model(ids).copy()
    model.merge_and_unload()
    close(model(ids), logits, TOLERANCE["double"], "merged")


@each_family
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_connections_stay_float32_where_weights_lie_narrower(name, dtype):
    config = llmc.Config(**FAMILIES[name])
    narrow, wide = (llmc.Model(config, seed=1, precision="float32", dtype=each) for each in (dtype, "float32"))
    for each in connections(wide):
        assert narrow.state_dict()[each].dtype == np.float32
        assert_same(narrow.state_dict()[each], wide.state_dict()[each])
    ids = random_ids(FAMILIES[name], 2, LENGTH)
    wide.load_state_dict(narrow.state_dict())
    close_but_rounding(narrow(ids), wide(ids), dtype)


@needs_bfloat16
@each_family
def test_bfloat16_is_as_near_to_float32_as_its_weights(name):
    """A connection's few numbers are sums over all tokens that may cancel: the error is measured over all that are
    alike and several batches, by that which rounding the weights alone makes."""
    exact, rough, rounded = (tiny_model(FAMILIES[name], precision=each) for each in ("float32", "bfloat16", "float32"))
    for each, array in rounded.state_dict().items():
        if each.endswith(("_proj.weight", "lm_head.weight")):
            array[:] = array.astype(ml_dtypes.bfloat16)
    runs = [model.run(2, 33, backward=True) for model in (exact, rough, rounded)]
    errors = collections.defaultdict(lambda: np.zeros(2))
    for seed in range(16):
        ids = np.random.default_rng(seed).integers(0, FAMILIES[name]["vocab_size"], (2, 33))
        for run in runs:
            run.zero_grad()
        losses = [run.forward_backward(ids) for run in runs]
        assert abs(losses[0] - losses[1]) < 2e-2
        for each in exact._parameters:
            true = runs[0].grad(each)
            errors[each.split(".", 3)[-1]] += [np.linalg.norm(run.grad(each) - true) ** 2 for run in runs[1:]]
    for each, (products, weights) in errors.items():
        assert products**0.5 <= 2 * weights**0.5, (each, (products / weights) ** 0.5)


def test_generation_is_the_same_with_and_without_a_cache():
    for config in FAMILIES.values():
        model, ids = tiny_model(config), random_ids(config, 3, 5)
        assert_same(*(model.generate(ids, max_new_tokens=12, do_sample=False, use_cache=cached)
                      for cached in (True, False)))  # fmt: skip
        whole = model(ids)
        close_but_rounding(stepwise(model, ids, 2), whole, "pieces")
