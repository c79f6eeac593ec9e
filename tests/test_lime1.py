"""LIMe, version 1: heads whose keys and values are made of mixtures of all streams so far, static or by the token."""

import math

import lime_torch
import numpy as np
import pytest
import reference
from conftest import BESIDE_PEERS, TOLERANCE, needs_bfloat16
from test_identities import assert_same, close_but_rounding, stepwise
from test_truth import assert_gradients_are_slopes, left_mask, right_mask, slope, truth
from tiny import close, close_relative, random_ids, tiny_model

import llmc
from llmc.errors import ConfigError

LENGTH = 13
PRUNED = {**BESIDE_PEERS["lime1-static"], "num_hidden_layers": 4, "router_top_p": 0.7}
STATIC = {**PRUNED, "router_top_p": None, "tie_word_embeddings": True}
DYNAMIC = {**BESIDE_PEERS["lime1-dynamic"], "num_hidden_layers": 4}
CONFIGS = {"static": STATIC, "pruned": PRUNED, "dynamic": DYNAMIC}
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
ROUTER, GAIN = "model.layers.{}.attention_router", "model.layers.{}.input_layernorm_lime.weight"


def own_names(config, layer):
    """The parameters that a LLaMA does not have."""
    dynamic = config["model_type"] == "lime1-dynamic"
    return [f"{ROUTER.format(layer)}.{'dynamic_proj.0.weight' if dynamic else 'static_weights'}", GAIN.format(layer)]


def llama_of(config):
    """The same as a LLaMA."""
    return {name: value for name, value in config.items() if name != "router_top_p"} | {"model_type": "llama"}


def routers(config):
    return [own_names(config, layer)[0] for layer in (1, 2, 3)]


def config_of(model_type, **fields):
    return llmc.Config(model_type, vocab_size=50257, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
                       num_attention_heads=32, tie_word_embeddings=True, **fields)  # fmt: skip


def assert_slopes_of(model, run, call, names):
    """The gradients of some parameters, along a random direction each."""
    call()
    run.backward()
    found, rng = {name: run.grad(name, copy=True) for name in names}, np.random.default_rng(7)
    for name, gradient in found.items():
        array = model._parameters[name]
        start, direction = array.copy(), rng.standard_normal(array.shape)

        def moved(by):
            array[...] = start + by * direction
            return call()

        difference = slope(moved) - float((gradient * direction).sum())
        array[...] = start
        assert abs(difference) <= TOLERANCE["slope"] * np.linalg.norm(gradient), name


# --- values and gradients


@each_config
def test_logits_and_loss_are_the_references(config):
    ids = random_ids(config, 2, LENGTH)
    for double, tolerance in ((True, "double"), (False, "logits")):
        model = tiny_model(config, double=double)
        given = truth(model, config, ids)
        close(model(ids), reference.model_logits(**given), TOLERANCE[tolerance], "logits")
        assert model.loss(ids) == pytest.approx(reference.model_loss(**given), abs=TOLERANCE[tolerance])


@each_config
def test_gradients_are_slopes(config):
    model = tiny_model(config, double=True)
    ids = random_ids(config, 2, LENGTH)
    run = model.run(2, LENGTH, backward=True)
    assert_gradients_are_slopes(model, run, lambda: run.forward(ids, labels=ids), directions=1)
    for layer in (1, 2, 3):
        assert all(np.abs(run.grad(name)).max() > 1e-6 for name in own_names(config, layer))


@each_config
def test_gradients_over_more_rows_than_a_task_takes_are_slopes(config):
    model = tiny_model(config, double=True)
    ids = random_ids(config, 3, 199)
    run = model.run(3, 199, backward=True)
    names = [*own_names(config, 2), "model.layers.2.self_attn.v_proj.weight", "model.embed_tokens.weight"]
    assert_slopes_of(model, run, lambda: run.forward(ids, labels=ids), names)


@each_config
def test_gradients_add_up_over_passes(config):
    model = tiny_model(config, double=True)
    run = model.run(1, 97, backward=True)
    ids, sums = random_ids(config, 2, 97), dict.fromkeys(model._parameters, 0)
    for row in ids:
        run.zero_grad()
        run.forward_backward(row[None])
        sums = {name: total + run.grad(name, copy=True) for name, total in sums.items()}
    run.zero_grad()
    for row in ids:
        run.forward_backward(row[None])
    for name, total in sums.items():
        close_relative(run.grad(name), total, 1e-12, name)


@pytest.mark.parametrize("mask_of", [None, left_mask, right_mask])
@pytest.mark.parametrize("shape", [(3, LENGTH), (2, 1), (1, 150)], ids=["rows", "a token a row", "a long row"])
@pytest.mark.parametrize("config", [*CONFIGS.values(), {**BESIDE_PEERS["lime"], "num_hidden_layers": 6}],
                         ids=[*CONFIGS, "version 2"])  # fmt: skip
def test_logits_loss_and_every_gradient_are_those_of_pytorch(config, shape, mask_of, peers):
    torch, model, ids = peers.torch, tiny_model(config), random_ids(config, *shape)
    mask = np.ones(shape, int) if mask_of is None or shape[1] == 1 else mask_of(*shape)
    torch.set_num_threads(1)
    theirs = {name: torch.tensor(array, requires_grad=True) for name, array in model.state_dict().items()}
    logits, loss = lime_torch.logits_and_loss(torch, config, theirs, torch.tensor(ids), torch.tensor(mask == 1))
    run = model.run(*shape, backward=True)
    run.forward(ids, attention_mask=mask)
    close(run.logits[mask == 1], logits.detach().numpy()[mask == 1], TOLERANCE["logits"], "logits")
    if loss is None:
        return
    loss.backward()
    assert run.forward_backward(ids, attention_mask=mask) == pytest.approx(loss.item(), abs=TOLERANCE["loss"])
    for name, tensor in theirs.items():
        if name in model._parameters:
            close_relative(run.grad(name), tensor.grad.numpy(), TOLERANCE["gradient"], name)


@each_config
def test_pieces_read_with_a_cache_are_the_whole(config):
    model = tiny_model(config)
    ids = random_ids(config, 2, LENGTH)
    whole = model(ids)
    for chunk in (1, 5):
        close_but_rounding(stepwise(model, ids, chunk), whole, f"chunks of {chunk}")


@each_config
def test_generation_is_the_same_with_and_without_a_cache_of_llamas_size(config):
    model = tiny_model(config)
    ids = random_ids(config, 3, 5)
    assert_same(*(model.generate(ids, max_new_tokens=12, do_sample=False, use_cache=cached)
                  for cached in (True, False)))  # fmt: skip
    llama = tiny_model(llama_of(config))
    assert model.estimate(3, 17, generate=17)["cache"] == llama.estimate(3, 17, generate=17)["cache"] > 0


@each_config
def test_threads_change_no_bit(config):
    model, ids = tiny_model(config), random_ids(config, 3, 171)
    run, found = model.run(3, 171, backward=True), []
    before = llmc.get_num_threads()
    for threads in (1, 2, 3, 4):
        llmc.set_num_threads(threads)
        run.zero_grad()
        run.forward_backward(ids)
        found.append({name: run.grad(name, copy=True) for name in model._parameters})
        found[-1]["one token"] = model(ids[:1, :1])
    llmc.set_num_threads(before)
    for each in found[1:]:
        assert_same(each, found[0])


# --- identities


def test_a_router_that_reads_its_own_stream_alone_makes_a_llama():
    llama, model = tiny_model(llama_of(STATIC), double=True), tiny_model(STATIC, seed=1, double=True)
    for name, array in model._parameters.items():
        if "router" in name:
            array[...] = -1000.0
            array[:, -1] = 0.0
        else:
            array[...] = llama._parameters[name.replace("_lime", "")]
    ids = random_ids(STATIC, 2, LENGTH)
    close(model(ids), llama(ids), TOLERANCE["double"], "logits")


def test_a_share_of_one_prunes_nothing():
    whole, pruned = tiny_model(STATIC), tiny_model({**STATIC, "router_top_p": 1})
    ids = random_ids(STATIC, 2, LENGTH)
    assert_same(whole(ids), pruned(ids))


def test_pruning_keeps_the_smallest_set_that_exceeds_the_share():
    model, name = tiny_model({**PRUNED, "router_top_p": 0.9}, double=True), own_names(PRUNED, 3)[0]
    theta = model._parameters[name]
    theta[...] = [[2, 1, 0, -1], [-1, 0, 1, 2], [0, 0, 0, 0], [9, 0, 0, 0], [0, 3, 3, 0]]
    run = model.run(1, LENGTH, backward=True, keep=[ROUTER.format(3)])
    run.forward_backward(random_ids(PRUNED, 1, LENGTH))
    both = 1 / 2
    expected = [[0.665241, 0.244728, 0.090031, 0], [0, 0.090031, 0.244728, 0.665241], [0.25] * 4, [1, 0, 0, 0],
                [0, both, both, 0]]  # fmt: skip
    close(run.output(ROUTER.format(3)), expected, 1e-6, "weights")
    gradient = run.grad(name)
    assert np.abs(gradient[3]).max() < 1e-16, "a head that keeps one route has no choice"
    assert np.abs(gradient[0, 3]) < 1e-16 < np.abs(gradient[0, :3]).min(), "what is dropped has no slope"


@pytest.mark.parametrize("left_out", ["self_attn", ""])
@each_config
def test_what_is_left_out_offers_nothing(config, left_out):
    model, ids = tiny_model(config, double=True), random_ids(config, 2, LENGTH)
    skip = f"model.layers.1.{left_out}".rstrip(".")
    run = model.run(2, LENGTH, backward=True)
    names = [*own_names(config, 2), "model.embed_tokens.weight"]
    assert_slopes_of(model, run, lambda: run.forward(ids, labels=ids, skip=[skip]), names)
    run.forward(ids, skip=[skip])
    for output in ("self_attn.o_proj", *["mlp.down_proj"] * (not left_out)):
        model._parameters[f"model.layers.1.{output}.weight"][...] = 0
    given = truth(model, config, ids)
    given["config"] = {**config, "left_out": [1]}
    close(run.logits, reference.model_logits(**given), TOLERANCE["double"], "logits")


# --- the hook points


@each_config
def test_what_heads_read_is_shown(config):
    model, ids, layer, path = tiny_model(config), random_ids(config, 2, LENGTH), 2, "model.layers.2"
    streams = ["model.embed_tokens", "model.layers.0", "model.layers.1"]
    run = model.run(2, LENGTH, keep=[*streams, f"{path}.*"])
    run.forward(ids)
    weights = {name: reference.f64(array) for name, array in model.state_dict().items()}
    normed = [reference.rmsnorm(run.output(name), weights[GAIN.format(layer)]) for name in streams]
    read = reference.retrieval_weights(config, weights, ROUTER.format(layer), normed[-1], [True] * 3)
    shown = run.output(ROUTER.format(layer))
    assert shown.shape == ((2, LENGTH, 9) if config is DYNAMIC else (5, 3))
    close(shown.reshape(read.shape), read, TOLERANCE["piece"], "weights")
    for part in ("k_proj", "v_proj"):
        name = f"{path}.self_attn.{part}"
        heads = reference.mixed_heads(read, normed, weights[f"{name}.weight"]).reshape(run.output(name).shape)
        close_relative(run.output(name), heads, TOLERANCE["piece"], part)
        assert_same(run.input(name), run.output("model.layers.1"))
    assert run.parts()[ROUTER.format(layer)] == ("router", layer)
    if config is DYNAMIC:
        close_relative(run.output(f"{path}.input_layernorm_lime"), normed[-1], TOLERANCE["piece"], "norm")


@pytest.mark.parametrize("part", ["k_proj", "v_proj"])
@pytest.mark.parametrize("config", [PRUNED, DYNAMIC], ids=["pruned", "dynamic"])
def test_gradients_around_written_keys_or_values_are_slopes(config, part):
    model, ids = tiny_model(config, double=True), random_ids(config, 2, LENGTH)
    name, run = f"model.layers.2.self_attn.{part}", model.run(2, LENGTH, backward=True)
    written = np.random.default_rng(0).standard_normal((2, LENGTH, run_width(config)))

    def loss():
        run.forward(ids, labels=ids, until=name)
        run.output(name)[...] = written
        return run.resume()

    other = "model.layers.2.self_attn." + {"k_proj": "v_proj", "v_proj": "k_proj"}[part]
    assert_slopes_of(model, run, loss, [f"{other}.weight", *own_names(config, 2), "model.layers.0.mlp.up_proj.weight"])
    assert not run.grad(f"{name}.weight").any()


def run_width(config):
    return config["num_attention_heads"] * config["head_dim"]


@each_config
def test_trees_tables_and_drawings_show_routers(config):
    model = llmc.Model(llmc.Config(**config))
    text, table, drawn = str(model), str(model.summary()), model.config.drawing()
    assert "(input_layernorm_lime): RMSNorm" in text and "None" not in text and "(attention_router): Router" in text
    assert text.count("self_attn") == (4 if config is DYNAMIC else 2), "equal layers are folded"
    assert all(name.rpartition(".")[0] in table for layer in (1, 2, 3) for name in own_names(config, layer))
    assert f"{model.num_parameters():,} parameters" in table
    assert "block 0 of 4" in drawn and "blocks 1-3 of 4" in drawn and "model.layers" not in drawn
    assert f"self_attn.v_proj              {config['num_attention_heads']} x {config['hidden_size']} → " in drawn
    assert ("each keeps the likeliest, above 0.7 together" in drawn) == (config is PRUNED)


@each_config
def test_every_metric_looks_at_it(config):
    model, ids = tiny_model(config), random_ids(config, 2, LENGTH)
    rows = {row["name"]: row for row in llmc.analysis.lim(model, ids).rows}
    kinds = {name.rpartition(".")[2]: row["kind"] for name, row in rows.items() if ".2." in name}
    assert kinds["k_proj"] == kinds["v_proj"] == kinds["q_proj"] == "linear" and kinds["self_attn"] == "attention"
    assert ("attention_router" in kinds) == (config is DYNAMIC), "no token passes a static one"
    skip = ["model.layers.1.self_attn"]
    assert np.isfinite(model.run(2, LENGTH).forward(ids, labels=ids, skip=skip))


# --- configurations and starting values


@pytest.mark.parametrize("model_type, expected", [("lime1-static", 1_176_770_784), ("lime1-dynamic", 1_185_613_824)])
def test_parameters_of_the_papers_models_are_counted(model_type, expected):
    assert llmc._core.Model(config_of(model_type).spec(), False).parameter_count == expected


@each_config
def test_only_later_layers_have_routers(config):
    shapes, plain = (llmc._core.Model(llmc.Config(**each).spec(), False).shapes()
                     for each in (config, llama_of(config)))  # fmt: skip
    H, C = config["num_attention_heads"], config["hidden_size"]
    expected = {}
    for layer in (1, 2, 3):
        router, gain = own_names(config, layer)
        expected |= {gain: (C,), router: (H * (layer + 1), C) if config is DYNAMIC else (H, layer + 1)}
    assert {name: shape for name, shape in shapes.items() if name not in plain} == expected
    assert {name: shapes[name] for name in plain} == plain


@pytest.mark.parametrize("config", [STATIC, DYNAMIC], ids=["static", "dynamic"])
def test_weights_start_as_the_authors(config):
    config = {**config, "hidden_size": 80, "num_attention_heads": 40, "head_dim": 4, "initializer_range": 0.02}
    weights = llmc.Model(llmc.Config(**config), seed=1).state_dict()
    router = weights[own_names(config, 3)[0]]
    assert router.std() == pytest.approx(0.1 if router.shape[1] == 4 else 0.02, rel=0.2)
    assert np.abs(router).max() > 2 * router.std(), "normal"
    most = 1 / math.sqrt(40 * 4 * 80)
    for part in ("k_proj", "v_proj"):
        first, later = (weights[f"model.layers.{layer}.self_attn.{part}.weight"] for layer in (0, 2))
        assert first.std() == pytest.approx(0.02, rel=0.05) and np.abs(first).max() > 0.05
        assert 0.98 * most < np.abs(later).max() <= most
        assert later.std() == pytest.approx(most / math.sqrt(3), rel=0.05)
    assert all((weights[GAIN.format(layer)] == 1).all() for layer in (1, 2, 3))


def test_keys_and_values_start_as_a_llamas_on_request():
    llama = llmc.Model(llmc.Config(**llama_of(STATIC)), seed=5).state_dict()
    lime = llmc.Model(llmc.Config(**STATIC, kv_init="llama"), seed=5).state_dict()
    assert_same({name: lime[name] for name in llama}, llama)


@pytest.mark.parametrize("field, value", [("num_key_value_heads", 1), ("attention_bias", True), ("router_top_p", 0),
                                          ("router_top_p", 1.5), ("router_top_p", "much"), ("kv_init", 1),
                                          ("router_init", "identity")])  # fmt: skip
def test_what_it_does_not_do_is_refused_by_name(field, value):
    with pytest.raises(ConfigError, match=field):
        llmc.Config(**{**STATIC, field: value})


@pytest.mark.parametrize("model_type", ["lime", "lime1-dynamic", "llama", "gpt2"])
def test_a_share_to_keep_is_a_field_of_static_routers_alone(model_type):
    with pytest.raises(ConfigError, match=f"router_top_p 0.9: {model_type} has no such field, lime1-static has"):
        llmc.Config(model_type, router_top_p=0.9)


@pytest.mark.parametrize("change", [dict(in_out=True), dict(qkv_bias=True), dict(num_key_value_heads=1)])
def test_the_core_refuses_kinds_that_do_not_go_together(change):
    with pytest.raises(ConfigError, match="mixtures of streams"):
        llmc._core.Model(llmc.Config(**STATIC).spec() | change, False)


def test_its_configuration_says_what_it_is():
    fields = llmc.Config(**PRUNED).to_dict()
    assert (fields["kv_init"], fields["router_top_p"], fields["architectures"]) == ("authors", 0.7, ["LIMeForCausalLM"])
    assert llmc.Config(**STATIC).to_dict()["router_top_p"] is None


@each_config
def test_it_trains_and_opens_as_it_was_saved(config, tmp_path):
    model = llmc.Model(llmc.Config(**config), seed=3)
    ids = random_ids(config, 4, LENGTH)
    run, optimizer = model.run(4, LENGTH, backward=True), llmc.AdamW(model, lr=3e-3)
    before = {name: model.state_dict()[name].copy() for name in routers(config)}
    losses = []
    for _ in range(12):
        losses.append(run.forward_backward(ids))
        optimizer.step(run)
    assert losses[-1] < 0.8 * losses[0]
    assert all(not np.array_equal(before[name], model.state_dict()[name]) for name in before)
    model.save_pretrained(tmp_path)
    opened = llmc.Model.from_pretrained(tmp_path)
    assert opened.config == model.config
    assert_same(opened.state_dict(), model.state_dict())
    assert_same(opened(ids), model(ids))


def test_a_training_resumes_to_the_same_bits(tmp_path, config=DYNAMIC):
    rows, found = [{"input_ids": row} for row in random_ids(config, 12, LENGTH).tolist()], []
    for folder, start in (("whole", None), ("half", tmp_path / "whole" / "checkpoint-2")):
        model = llmc.Model(llmc.Config(**config), seed=3)
        arguments = llmc.TrainingArguments(str(tmp_path / folder), max_steps=4, per_device_train_batch_size=3,
                                           save_steps=2, seed=5, disable_tqdm=True)  # fmt: skip
        llmc.Trainer(model, arguments, train_dataset=rows).train(resume_from_checkpoint=start)
        found.append(model.state_dict())
    assert_same(*found)


# --- memory


@pytest.mark.parametrize("model_type", ["lime1-static", "lime1-dynamic"])
def test_mixtures_are_never_kept(model_type):
    fields = dict(vocab_size=100, hidden_size=256, num_hidden_layers=4, num_attention_heads=32, intermediate_size=512)
    llama, model = (llmc.Model(llmc.Config(each, **fields)) for each in ("llama", model_type))
    stream = 4 * 2 * 256 * 256  # bytes
    more = [each.estimate(2, 256, train=True)["activations"] for each in (model, llama)]
    assert more[0] - more[1] < 12 * stream, "a head's mixtures together are 32"


# --- adapters, narrow weights, precision


@pytest.mark.parametrize("targets", [["k_proj"], ["q_proj", "v_proj"], "domain", r".*\.2\.self_attn\.k_proj",
                                     ["dynamic_proj.0"]])  # fmt: skip
def test_adapters_beside_mixtures_are_refused(targets):
    with pytest.raises(ConfigError, match="can carry no adapter"):
        tiny_model(DYNAMIC).add_adapter(llmc.LoraConfig(r=2, target_modules=targets))


@pytest.mark.parametrize("config", [PRUNED, DYNAMIC], ids=["pruned", "dynamic"])
def test_all_linear_means_those_that_can_be_adapted(config):
    model, ids = tiny_model(config, double=True), random_ids(config, 2, LENGTH)
    model.add_adapter(llmc.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False,
                                      modules_to_save=["attention_router"]))  # fmt: skip
    trained = model.trained()
    assert {name.split(".")[-4] for name in trained if "lora_A" in name} == {
        "q_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}  # fmt: skip
    assert sum("router" in name for name in trained) == 3
    run = model.run(2, LENGTH, backward=True)
    run.forward_backward(ids)
    for key in [key for key in trained if ".2." in key or "router" in key]:
        view = trained[key]
        start, direction, values = view.copy(), np.random.default_rng(3).standard_normal(view.shape), []
        for by in (1e-5, -1e-5):
            view[...] = start + by * direction
            values.append(run.forward(ids, labels=ids))
        view[...] = start
        expected = float((run.grad(key) * direction).sum())
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(expected, rel=1e-4, abs=1e-8), key
    logits = model(ids).copy()
    model.merge_and_unload()
    close(model(ids), logits, TOLERANCE["double"], "merged")


def test_peft_adapts_queries_where_nothing_is_said():
    model = tiny_model(STATIC)
    model.add_adapter(llmc.LoraConfig(r=2))
    assert all("q_proj" in name for name in model.trained())


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
@each_config
def test_routers_stay_float32_where_weights_lie_narrower(config, dtype):
    narrow, wide = (llmc.Model(llmc.Config(**config), seed=1, precision="float32", dtype=each)
                    for each in (dtype, "float32"))  # fmt: skip
    for name in routers(config):
        assert narrow.state_dict()[name].dtype == np.float32
        assert_same(narrow.state_dict()[name], wide.state_dict()[name])
    wide.load_state_dict(narrow.state_dict())
    for ids in (random_ids(config, 2, LENGTH), random_ids(config, 2, 99)):
        close_but_rounding(narrow(ids), wide(ids), dtype)


@needs_bfloat16
@each_config
def test_bfloat16_products_train_it(config):
    ids, found = random_ids(config, 2, 99), []
    for precision in ("float32", "bfloat16"):
        model = llmc.Model(llmc.Config(**config), seed=1, precision=precision)
        run = model.run(2, 99, backward=True)
        run.forward_backward(ids)
        found.append({name: run.grad(name, copy=True) for name in model._parameters})
    for name in found[0]:
        close_relative(found[1][name], found[0][name], 0.1, name)


@pytest.mark.parametrize("decay", ["matrices", "all"])
@pytest.mark.parametrize("config", [STATIC, DYNAMIC], ids=["static", "dynamic"])
def test_a_dynamic_router_decays_as_a_linear_and_a_static_one_with_everything(config, decay):
    ids, stepped, name = random_ids(config, 2, LENGTH), [], own_names(config, 2)[0]
    for weight_decay in (0.0, 0.5):
        model = tiny_model(config)
        run = model.run(2, LENGTH, backward=True)
        run.forward_backward(ids)
        llmc.AdamW(model, lr=0.1, weight_decay=weight_decay, decay=decay).step(run)
        stepped.append(model._parameters[name].copy())
    assert (stepped[0] != stepped[1]).any() == (config is DYNAMIC or decay == "all")
