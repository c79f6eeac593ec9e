"""LIMe: heads that read keys and values routed from all layers up to their own."""

import math

import numpy as np
import pytest
import reference
from conftest import TINY, TOLERANCE, needs_bfloat16
from test_identities import assert_same, close_but_rounding, stepwise
from test_truth import assert_gradients_are_slopes, left_mask, right_mask, slope, truth
from tiny import close, close_relative, random_ids, tiny_model

import llmc
from llmc.analysis.lim_grid import grid_of
from llmc.errors import ConfigError

LENGTH = 17
SHARED = {**TINY["llama"], "model_type": "lime", "num_hidden_layers": 4}  # fewer key/value heads than query heads
EVERY = {**SHARED, "hidden_size": 45, "num_attention_heads": 5, "num_key_value_heads": 5, "head_dim": 18,
         "tie_word_embeddings": True}  # fmt: skip
each_config = pytest.mark.parametrize("config", [SHARED, EVERY], ids=["G < H", "G = H"])
ROUTER = "model.layers.{}.self_attn.lime_router.static_weights"


def routers(config):
    return [ROUTER.format(layer) for layer in range(1, config["num_hidden_layers"])]


def full_size(**fields):
    return llmc.Config("lime", vocab_size=50257, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
                       num_attention_heads=32, tie_word_embeddings=True, **fields)  # fmt: skip


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
    assert_gradients_are_slopes(model, run, lambda: run.forward(ids, labels=ids))
    assert all(np.abs(run.grad(name)).max() > 1e-6 for name in routers(config))


def test_gradients_over_more_rows_than_a_task_takes_are_slopes():
    config = {**SHARED, "num_hidden_layers": 3}
    model = tiny_model(config, double=True)
    ids = random_ids(config, 11, 199)
    run = model.run(11, 199, backward=True)
    run.forward_backward(ids)
    start, found = model._parameters[ROUTER.format(2)], run.grad(ROUTER.format(2), copy=True)
    before, direction = start.copy(), np.random.default_rng(1).standard_normal(found.shape)
    values = []
    for by in (3e-5, -3e-5):
        start[...] = before + by * direction
        values.append(run.forward(ids, labels=ids))
    assert (values[0] - values[1]) / 6e-5 == pytest.approx(float((found * direction).sum()), rel=1e-5)


def test_gradients_add_up_over_passes():
    model = tiny_model(SHARED, double=True)
    run = model.run(1, LENGTH, backward=True)
    ids = random_ids(SHARED, 2, LENGTH)
    sums = {name: 0 for name in routers(SHARED)}
    for row in ids:
        run.zero_grad()
        run.forward_backward(row[None])
        sums = {name: sums[name] + run.grad(name, copy=True) for name in sums}
    run.zero_grad()
    for row in ids:
        run.forward_backward(row[None])
    for name, total in sums.items():
        close_relative(run.grad(name), total, 1e-12, name)


@pytest.mark.parametrize("mask_of", [left_mask, right_mask])
def test_padding_is_the_references(mask_of):
    model = tiny_model(SHARED, double=True)
    ids, mask = random_ids(SHARED, 4, LENGTH), mask_of(4, LENGTH)
    logits = reference.model_logits(**truth(model, SHARED, ids, attention_mask=mask))
    close(model(ids, attention_mask=mask)[mask == 1], logits[mask == 1], TOLERANCE["double"], "logits")


@each_config
def test_pieces_read_with_a_cache_are_the_whole(config):
    model = tiny_model(config)
    ids = random_ids(config, 2, LENGTH)
    whole = model(ids)
    for chunk in (1, 5):
        close_but_rounding(stepwise(model, ids, chunk), whole, f"chunks of {chunk}")


def test_generation_is_the_same_with_and_without_a_cache():
    model = tiny_model(SHARED)
    ids = random_ids(SHARED, 3, 5)
    assert_same(*(model.generate(ids, max_new_tokens=12, do_sample=False, use_cache=cached)
                  for cached in (True, False)))  # fmt: skip


def test_threads_change_no_bit():
    model = tiny_model(SHARED)
    ids = random_ids(SHARED, 3, 71)
    run, found = model.run(3, 71, backward=True), []
    before = llmc.get_num_threads()
    for threads in (1, 2, 3, 4):
        llmc.set_num_threads(threads)
        run.zero_grad()
        run.forward_backward(ids)
        found.append({name: run.grad(name, copy=True) for name in model._parameters})
    llmc.set_num_threads(before)
    for other in found[1:]:
        assert_same(found[0], other)


# --- identities


def test_identity_routers_start_as_the_llama_of_the_same_seed():
    llama = llmc.Model(llmc.Config(**{**SHARED, "model_type": "llama"}), seed=5)
    lime = llmc.Model(llmc.Config(**SHARED, kv_init="llama", router_init="identity"), seed=5)
    ids = random_ids(SHARED, 2, LENGTH)
    assert_same(lime(ids), llama(ids))
    assert_same({name: lime.state_dict()[name] for name in llama.state_dict()}, llama.state_dict())
    runs = [model.run(2, LENGTH, backward=True) for model in (llama, lime)]
    for run in runs:
        run.forward_backward(ids)
    for name in llama.state_dict():
        close_relative(runs[1].grad(name), runs[0].grad(name), TOLERANCE["gradient"], name)


def test_heads_of_a_layer_may_change_places_with_their_columns():
    model = tiny_model(EVERY, double=True)
    ids = random_ids(EVERY, 2, LENGTH)
    before, order, D = model(ids), [2, 0, 1, 4, 3], EVERY["head_dim"]
    for part in ("k_proj", "v_proj"):
        weight = model._parameters[f"model.layers.1.self_attn.{part}.weight"]
        weight[...] = weight.reshape(5, D, -1)[order].reshape(weight.shape)
    for name in routers(EVERY):
        columns = model._parameters[name][:, 5:10]
        columns[...] = columns[:, order]
    close(model(ids), before, TOLERANCE["double"], "logits")


@pytest.mark.parametrize("left_out", ["self_attn", ""])
def test_what_is_left_out_offers_nothing(left_out):
    model = tiny_model(SHARED, double=True)
    ids, G, layer = random_ids(SHARED, 2, LENGTH), SHARED["num_key_value_heads"], "model.layers.1"
    skip = f"{layer}.{left_out}".rstrip(".")
    run = model.run(2, LENGTH, backward=True)
    assert_gradients_are_slopes(model, run, lambda: run.forward(ids, labels=ids, skip=[skip]), directions=1)
    assert not any(run.grad(ROUTER.format(later))[:, G : 2 * G].any() for later in (2, 3))
    run.forward(ids, skip=[skip])
    logits = run.logits.copy()
    for later in (2, 3):
        model._parameters[ROUTER.format(later)][:, G : 2 * G] = 0
    for output in ("self_attn.o_proj", *["mlp.down_proj"] * (not left_out)):
        model._parameters[f"{layer}.{output}.weight"][...] = 0
    close(logits, reference.model_logits(**truth(model, SHARED, ids)), TOLERANCE["double"], "logits")


# --- the hook points


def test_routers_show_own_and_routed_keys_and_values():
    model = tiny_model(SHARED)
    ids, path = random_ids(SHARED, 2, LENGTH), "model.layers.2.self_attn"
    run = model.run(2, LENGTH, keep=["*k_proj", "*v_proj", f"{path}.lime_router.*"])
    run.forward(ids)
    for name, part in (("keys", "k_proj"), ("values", "v_proj")):
        offers = [run.output(f"model.layers.{layer}.self_attn.{part}").reshape(2, LENGTH, 2, 10) for layer in range(3)]
        routed = reference.lime_routed(model._parameters[ROUTER.format(2)], offers).reshape(2, LENGTH, 20)
        close(run.output(f"{path}.lime_router.{name}"), routed, TOLERANCE["piece"] * np.abs(routed).max(), name)
        assert_same(run.input(f"{path}.lime_router.{name}"), run.output(f"{path}.{part}"))
    found = run.parts()
    assert found[f"{path}.lime_router.keys"] == ("router", 2)
    assert not any(name.startswith("model.layers.0.self_attn.lime_router") for name in found)


def test_gradients_at_modules_are_slopes_of_what_is_written_there():
    model = tiny_model(SHARED, double=True)
    ids = random_ids(SHARED, 2, LENGTH)
    run = model.run(2, LENGTH, backward=True, keep="all")
    run.forward(ids, labels=ids)
    run.backward()
    rng = np.random.default_rng(3)
    for name in [name for name in run.names() if name.split(".")[-1] in ("k_proj", "v_proj", "keys", "values")]:
        gradient, at = run.grad(name, copy=True), model.run(2, LENGTH, keep=[name])
        direction = rng.standard_normal(gradient.shape)

        def loss(by):
            at.forward(ids, labels=ids, until=name)
            at.output(name)[...] += by * direction
            return at.resume()

        difference = slope(loss) - float((gradient * direction).sum())
        assert abs(difference) <= TOLERANCE["slope"] * float(np.linalg.norm(gradient)), name


@pytest.mark.parametrize("layer", [0, 1])
def test_gradients_around_a_written_pattern_are_slopes(layer):
    model = tiny_model(SHARED, double=True)
    ids, name = random_ids(SHARED, 2, LENGTH), f"model.layers.{layer}.self_attn"
    run = model.run(2, LENGTH, backward=True)
    run.forward(ids, labels=ids, until=f"{name}.pattern")
    written = run.output(f"{name}.pattern")[:, :, ::-1].copy()

    def loss():
        run.forward(ids, labels=ids, until=f"{name}.pattern")
        run.output(f"{name}.pattern")[...] = written
        return run.resume()

    loss()
    run.backward()
    rng = np.random.default_rng(2)
    for weight in (f"{name}.k_proj.weight", f"{name}.v_proj.weight", ROUTER.format(2)):
        array, gradient = model._parameters[weight], run.grad(weight, copy=True)
        start, direction = array.copy(), rng.standard_normal(array.shape)

        def moved(by):
            array[...] = start + by * direction
            return loss()

        difference = slope(moved) - float((gradient * direction).sum())
        array[...] = start
        assert abs(difference) <= TOLERANCE["slope"] * float(np.linalg.norm(gradient)), weight


def test_trees_and_tables_show_routers():
    model = llmc.Model(llmc.Config(**SHARED))
    assert "(lime_router): Router(" in str(model)
    text = str(model.summary())
    assert "self_attn.lime_router" in text and "None" not in str(model)
    drawn = llmc.Config(**SHARED).drawing()
    assert "block 0 of 4" in drawn and "blocks 1-3 of 4" in drawn
    assert "self_attn.lime_router.values  2 heads routed from this layer and those before it" in drawn


# --- configurations and starting values


@pytest.mark.parametrize("groups, expected", [(32, 1_176_873_984), (8, 1_076_081_088)])
def test_parameters_of_the_papers_models_are_counted(groups, expected):
    assert llmc._core.Model(full_size(num_key_value_heads=groups).spec(), False).parameter_count == expected


def test_only_later_layers_have_routers():
    shapes = llmc._core.Model(llmc.Config(**SHARED).spec(), False).shapes()
    found = {name: shape for name, shape in shapes.items() if "router" in name}
    assert found == {ROUTER.format(layer): (2, 2 * (layer + 1)) for layer in (1, 2, 3)}


def test_routers_start_as_the_authors():
    config = {**EVERY, "hidden_size": 80, "num_attention_heads": 40, "num_key_value_heads": 40, "head_dim": 2}
    weights = llmc.Model(llmc.Config(**config), seed=1).state_dict()
    for layer in (1, 2, 3):
        weight, most = weights[ROUTER.format(layer)], math.sqrt(3 / ((layer + 1) * 40))
        earlier = weight[:, : layer * 40]
        assert_same(weight[:, layer * 40 :], np.eye(40, dtype=np.float32))
        assert np.abs(earlier).max() <= most and np.abs(earlier).max() > 0.98 * most
        assert earlier.std() == pytest.approx(most / math.sqrt(3), rel=0.05)
        assert abs(earlier.mean()) < 5 * earlier.std() / math.sqrt(earlier.size)


def test_keys_and_values_start_as_the_authors_in_both_families():
    lime = llmc.Model(llmc.Config(**SHARED), seed=2).state_dict()
    llama = llmc.Model(llmc.Config(**{**SHARED, "model_type": "llama"}, kv_init="authors"), seed=2).state_dict()
    most = 1 / math.sqrt(SHARED["hidden_size"])
    for part in ("k_proj", "v_proj"):
        weight = lime[f"model.layers.1.self_attn.{part}.weight"]
        assert 0.98 * most < np.abs(weight).max() <= most
        assert weight.std() == pytest.approx(most / math.sqrt(3), rel=0.1)
    assert_same({name: lime[name] for name in llama}, llama)


def test_kv_init_of_a_llama_is_written_when_it_was_given():
    plain = llmc.Config(**TINY["llama"])
    assert "kv_init" not in plain.to_dict()
    assert plain.kv_init == "llama"
    assert plain.replace(kv_init="authors").to_dict()["kv_init"] == "authors"
    lime = llmc.Config(**SHARED).to_dict()
    assert (lime["kv_init"], lime["router_init"], lime["architectures"]) == ("authors", "authors", ["LIMeForCausalLM"])


@pytest.mark.parametrize("field, value", [("kv_init", "normal"), ("router_init", 1), ("attention_bias", True)])
def test_what_lime_does_not_do_is_refused_by_name(field, value):
    with pytest.raises(ConfigError, match=field):
        llmc.Config(**{**SHARED, field: value})


def test_it_trains_and_opens_as_it_was_saved(tmp_path):
    model = llmc.Model(llmc.Config(**SHARED), seed=3)
    ids = random_ids(SHARED, 4, LENGTH)
    run, optimizer = model.run(4, LENGTH, backward=True), llmc.AdamW(model, lr=3e-3)
    before = model.state_dict()[ROUTER.format(1)].copy()
    losses = []
    for _ in range(12):
        losses.append(run.forward_backward(ids))
        optimizer.step(run)
    assert losses[-1] < 0.8 * losses[0]
    assert not np.array_equal(before, model.state_dict()[ROUTER.format(1)])
    model.save_pretrained(tmp_path)
    opened = llmc.Model.from_pretrained(tmp_path)
    assert opened.config == model.config
    assert_same(opened.state_dict(), model.state_dict())
    assert_same(opened(ids), model(ids))


# --- adapters, narrow weights, precision


def test_an_adapted_key_is_what_is_offered():
    model = tiny_model(SHARED, double=True)
    ids, name = random_ids(SHARED, 2, LENGTH), "model.layers.0.self_attn.k_proj"
    model.add_adapter(llmc.LoraConfig(r=2, target_modules=[name], init_lora_weights=False))
    run = model.run(2, LENGTH, backward=True)
    run.forward_backward(ids)
    rng = np.random.default_rng(3)
    for key, view in model.trained().items():
        start, direction, values = view.copy(), rng.standard_normal(view.shape), []
        for by in (1e-5, -1e-5):
            view[...] = start + by * direction
            values.append(run.forward(ids, labels=ids))
        view[...] = start
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(float((run.grad(key) * direction).sum()), rel=1e-4)
    logits = model(ids).copy()
    model.merge_and_unload()
    close(model(ids), logits, TOLERANCE["double"], "merged")


def test_all_linear_means_no_router():
    model = tiny_model(SHARED)
    model.add_adapter(llmc.LoraConfig(r=2, target_modules="all-linear"))
    assert not any("router" in name for name in model.trained())


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_routers_stay_float32_where_weights_lie_narrower(dtype):
    config = llmc.Config(**SHARED)
    narrow, wide = (llmc.Model(config, seed=1, precision="float32", dtype=each) for each in (dtype, "float32"))
    for name in routers(SHARED):
        assert narrow.state_dict()[name].dtype == np.float32
        assert_same(narrow.state_dict()[name], wide.state_dict()[name])
    ids = random_ids(SHARED, 2, LENGTH)
    wide.load_state_dict(narrow.state_dict())
    close_but_rounding(narrow(ids), wide(ids), dtype)


@needs_bfloat16
def test_bfloat16_products_train_it():
    config = llmc.Config(**SHARED)
    ids, found = random_ids(SHARED, 2, LENGTH), []
    for precision in ("float32", "bfloat16"):
        run = llmc.Model(config, seed=1, precision=precision).run(2, LENGTH, backward=True)
        run.forward_backward(ids)
        found.append({name: run.grad(name, copy=True) for name in routers(SHARED)})
    for name in routers(SHARED):
        close_relative(found[1][name], found[0][name], 0.1, name)


@pytest.mark.parametrize("decay, decayed", [("matrices", False), ("all", True)])
def test_static_weights_decay_only_with_everything(decay, decayed):
    ids, stepped = random_ids(SHARED, 2, LENGTH), []
    for weight_decay in (0.0, 0.5):
        model = tiny_model(SHARED)
        run = model.run(2, LENGTH, backward=True)
        run.forward(ids, labels=ids)
        run.backward()
        llmc.AdamW(model, lr=0.1, weight_decay=weight_decay, decay=decay).step(run)
        stepped.append({name: array.copy() for name, array in model._parameters.items()})
    plain, other = stepped
    assert (plain[ROUTER.format(2)] != other[ROUTER.format(2)]).any() == decayed
    query = "model.layers.2.self_attn.q_proj.weight"
    assert (plain[query] != other[query]).any()


def test_a_heat_map_shows_routers_where_they_stand():
    model = llmc.Model(llmc.Config(**SHARED))
    grid = grid_of(llmc.analysis.lim(model, random_ids(SHARED, 1, LENGTH)).rows, "lim")
    places = [grid.parts.index(f"self_attn.{part}") for part in ("v_proj", "lime_router.keys", "lime_router.values",
                                                                  "o_proj")]  # fmt: skip
    assert places == list(range(places[0], places[0] + 4)), "though the first layer has none"
