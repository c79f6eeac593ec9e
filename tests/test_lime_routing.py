"""What routers read: their weights, curves, heat maps, pruning and circuits."""

import math
import subprocess
import sys

import numpy as np
import pytest
from conftest import TINY
from tiny import random_ids, tiny_model

import llmc
from llmc import analysis
from llmc.analysis.lime import circuits, pruning, router_weights
from llmc.analysis.lime.retrieval_curves import curves_of
from llmc.analysis.lime.routers import ROUTED, STATIC, logits_of_tokens
from llmc.errors import ConfigError, DataError, ShapeError

LIME = {**TINY["llama"], "model_type": "lime", "num_hidden_layers": 4}
MIXED = {**TINY["llama"], "num_hidden_layers": 4, "num_key_value_heads": 4}
ROUTER = "model.layers.{}.self_attn.lime_router.static_weights"
ENDINGS = (".png", ".pdf", ".svg")


def mixed(family, **fields):
    return tiny_model({**MIXED, "model_type": family, **fields}, scale=0.5)


# --- where they are


def test_analyses_are_imported_when_they_are_asked_for():
    code = ("import sys, llmc; late = lambda: [m for m in sys.modules if 'analysis.lime' in m or 'matplotlib' in m];"
            "print(late()); llmc.analysis.flops; names = llmc.analysis.__all__;"
            "print(bool(late()), set(names) <= set(dir(llmc.analysis)))")  # fmt: skip
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines == ["[]", "True True"]
    assert all(callable(getattr(analysis, name)) for name in analysis.__all__ if name != "METRICS")
    with pytest.raises(AttributeError, match="no attribute 'router_weight'"):
        analysis.router_weight


# --- weights


def test_weights_of_routed_heads_are_shares_of_their_mean_sizes():
    model = tiny_model(LIME)
    found, G = analysis.router_weights(model), 2
    assert found["weights"].shape == (4, G, 4) and found["layers"].shape == (4, 4)
    for r in range(1, 4):
        router = np.abs(model.state_dict()[ROUTER.format(r)].astype(float))
        means = np.array([[np.mean([router[g, j * G + h] for h in range(G)]) for j in range(r + 1)] for g in range(G)])
        np.testing.assert_allclose(found["weights"][r, :, : r + 1], [row / row.sum() for row in means], rtol=1e-14)
        np.testing.assert_allclose(found["layers"][r, : r + 1], means.mean(0) / means.mean(0).sum(), rtol=1e-14)
        assert not found["weights"][r, :, r + 1 :].any() and not found["layers"][r, r + 1 :].any()
    assert np.abs(found["weights"].mean(axis=1) - found["layers"]).max() > 1e-4, "two roads, and they differ"


@pytest.mark.parametrize("family", TINY)
def test_a_layer_without_a_router_reads_its_own(family):
    model = tiny_model(TINY[family])
    found = analysis.router_weights(model)
    heads = model.config.num_key_value_heads
    np.testing.assert_array_equal(found["layers"], np.eye(3))
    np.testing.assert_array_equal(found["weights"], np.repeat(np.eye(3)[:, None], heads, axis=1))
    first = analysis.router_weights(tiny_model(LIME))
    np.testing.assert_array_equal(first["weights"][0], np.eye(4)[:1].repeat(2, axis=0))


def test_identity_routers_read_their_own_alone():
    found = analysis.router_weights(llmc.Model(llmc.Config(**LIME, router_init="identity")))
    np.testing.assert_array_equal(found["layers"], np.eye(4))


def test_signs_of_heads_change_no_weight():
    model = tiny_model(LIME)
    before = analysis.router_weights(model)
    for r in (1, 2, 3):
        model.state_dict()[ROUTER.format(r)][:, 3] *= -1
    np.testing.assert_array_equal(analysis.router_weights(model)["weights"], before["weights"])


def test_a_head_that_reads_nothing_has_zeros():
    model = tiny_model(LIME)
    model.state_dict()[ROUTER.format(2)][1] = 0
    found = analysis.router_weights(model)
    assert not found["weights"][2, 1].any() and np.isfinite(found["weights"]).all()
    assert found["layers"][2].sum() == pytest.approx(1)


def test_softmax_routers_are_placed_with_their_means_over_heads():
    theta = {r: np.random.default_rng(r).standard_normal((3, r + 1)) for r in (1, 2)}
    shares = {r: router_weights.pruned_softmax(logits, None) for r, logits in theta.items()}
    found = router_weights.placed(STATIC, shares, 3, 3)
    for r, logits in theta.items():
        expected = [[math.exp(v) / sum(map(math.exp, row)) for v in row] for row in logits.tolist()]
        np.testing.assert_allclose(found["weights"][r, :, : r + 1], expected, rtol=1e-14)
    np.testing.assert_allclose(found["weights"].mean(axis=1), found["layers"], atol=1e-16)
    np.testing.assert_allclose(found["weights"].sum(axis=-1), 1, rtol=1e-14)
    pruned = router_weights.pruned_softmax(theta[2], 0.5)
    assert (pruned == 0).any() and pruned.sum(axis=1) == pytest.approx(np.ones(3))


@pytest.mark.parametrize("top_p", [None, 0.6])
def test_static_routers_are_read_from_the_model(top_p):
    model = mixed("lime1-static", router_top_p=top_p)
    found = analysis.router_weights(model)
    assert found["weights"].shape == (4, 4, 4)
    for r in (1, 2, 3):
        theta = model.state_dict()[f"model.layers.{r}.attention_router.static_weights"].astype(float)
        np.testing.assert_allclose(found["weights"][r, :, : r + 1], router_weights.pruned_softmax(theta, top_p))


def test_dynamic_routers_are_means_over_the_tokens_that_are_no_padding():
    model = mixed("lime1-dynamic")
    ids = random_ids(MIXED, 3, 9)
    mask = np.ones_like(ids)
    mask[0, :4] = mask[2, 6:] = 0
    found = analysis.router_weights(model, ids, mask)["weights"]
    streams = analysis.representations(model, ids, mask, of="hiddens").astype(float)
    weights, eps = model.state_dict(), model.config.rms_norm_eps
    for r in (1, 2, 3):
        total = np.zeros((4, r + 1))
        for x in streams[r - 1]:
            z = x / math.sqrt(np.mean(x**2) + eps) * weights[f"model.layers.{r}.input_layernorm_lime.weight"]
            logits = (weights[f"model.layers.{r}.attention_router.dynamic_proj.0.weight"] @ z).reshape(4, r + 1)
            total += np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(found[r, :, : r + 1], total / mask.sum(), atol=1e-6)
    pieces = analysis.router_weights(model, [row[None] for row in ids], [row[None] for row in mask])["weights"]
    np.testing.assert_allclose(pieces, found, atol=1e-6)
    with pytest.raises(ConfigError, match="give ids"):
        analysis.router_weights(model)


# --- curves


def test_curves_are_their_definitions():
    found = analysis.router_weights(tiny_model(LIME))
    p, curves = found["layers"], curves_of(found)
    mean = [np.mean([p[r, m] for r in range(m + 1, 4)]) for m in range(3)]
    np.testing.assert_allclose(curves["mean_retrieval"], [*mean, np.nan])
    np.testing.assert_array_equal(curves["self_retrieval"], [p[r, r] for r in range(4)])
    np.testing.assert_array_equal(curves["self_retrieval_heads"],
                                  [[found["weights"][r, h, r] for h in range(2)] for r in range(4)])  # fmt: skip
    expected = [sum(m * p[r, m] for m in range(4)) for r in range(4)]
    np.testing.assert_allclose(curves["expected_representation"], expected)


def test_ordinary_attention_expects_its_own_representation():
    curves = analysis.retrieval_curves(tiny_model(TINY["llama"]))
    np.testing.assert_array_equal(curves["expected_representation"], [0, 1, 2])
    np.testing.assert_array_equal(curves["self_retrieval"], 1)
    np.testing.assert_array_equal(curves["mean_retrieval"], [0, 0, np.nan])


def test_the_same_call_gives_the_same_bits_and_leaves_the_model():
    model = tiny_model(LIME)
    before = {name: array.copy() for name, array in model.state_dict().items()}
    first, again = analysis.router_weights(model), analysis.router_weights(model)
    assert all(first[key].tobytes() == again[key].tobytes() for key in first)
    assert all(np.array_equal(before[name], array) for name, array in model.state_dict().items())


@pytest.mark.parametrize("ending", ENDINGS)
def test_curves_are_drawn(tmp_path, ending):
    model, path = tiny_model(LIME), tmp_path / f"curves{ending}"
    found = analysis.retrieval_curves(model, plot=path)
    np.testing.assert_array_equal(found["self_retrieval"], analysis.retrieval_curves(model)["self_retrieval"])
    assert path.stat().st_size > 4000


def test_maps_are_drawn(tmp_path):
    model = tiny_model(LIME)
    found = analysis.router_heatmap(model, plot=str(tmp_path / "maps.png"))
    np.testing.assert_array_equal(found["weights"], analysis.router_weights(model)["weights"])
    assert (tmp_path / "maps.png").stat().st_size > 4000


def test_deep_models_have_a_map_of_each_head(tmp_path):
    config = {**LIME, "num_hidden_layers": 26}
    analysis.router_heatmap(tiny_model(config), plot=tmp_path / "deep.png")
    assert (tmp_path / "deep.png").stat().st_size > 4000


def test_another_ending_is_refused_before_anything_is_done():
    with pytest.raises(ConfigError, match="a picture is drawn as"):
        analysis.retrieval_curves(tiny_model(LIME), plot="curves.bmp")


@pytest.mark.parametrize("call", ["router_weights", "retrieval_curves", "router_heatmap", "circuits"])
def test_what_is_no_model_is_refused(call):
    with pytest.raises(TypeError, match="llmc.Model, not"):
        getattr(analysis, call)(llmc.Config(**LIME))


# --- pruning


def test_top_p_keeps_the_smallest_set_that_exceeds_it():
    weights, kept = analysis.top_p_weights([[2.0, 1.0, 0.0, -1.0]], 0.9)
    np.testing.assert_array_equal(kept, [[True, True, True, False]])
    np.testing.assert_allclose(weights, [[0.665241, 0.244728, 0.090031, 0]], atol=5e-7)
    assert weights.dtype == np.float64 and kept.dtype == bool


def test_top_p_is_the_straightforward_loop():
    rng = np.random.default_rng(0)
    for top_p in (0.05, 0.5, 0.9, 0.99):
        theta = rng.standard_normal((5, 7)) * 2
        weights, kept = analysis.top_p_weights(theta, top_p)
        for row, found, flags in zip(theta, weights, kept):
            p = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
            chosen, total = [], 0.0
            for place in sorted(range(7), key=lambda at: -p[at]):
                chosen.append(place)
                total += p[place]
                if total > top_p:
                    break
            assert set(np.flatnonzero(flags)) == set(chosen)
            np.testing.assert_allclose(found[chosen], p[chosen] / total)


@pytest.mark.parametrize("theta", [np.zeros((2, 128)), np.linspace(-40, 40, 99)[None], [[700.0, -700.0]]])
def test_a_sum_of_one_prunes_nothing(theta):
    assert analysis.top_p_weights(theta, 1)[1].all()


def test_of_equal_logits_the_first_goes_before():
    np.testing.assert_array_equal(analysis.top_p_weights(np.zeros((1, 4)), 0.3)[1], [[True, True, False, False]])


@pytest.mark.parametrize("layers, weights, table", [(32, 4216, 7936), (64, 16632, 32256), (128, 66040, 130048)])
def test_the_papers_totals(layers, weights, table):
    assert pruning.route_totals(layers, 8) == {"weights": weights, "table_total": table}


def test_pruned_routes_are_counted_by_layer():
    thetas = {r: np.random.default_rng(r).standard_normal((3, r + 1)) for r in (1, 2, 3)}
    found = pruning.count_pruned(thetas, 4, 3, 0.8)
    expected = [0] + [int((~analysis.top_p_weights(thetas[r], 0.8)[1]).sum()) for r in (1, 2, 3)]
    assert found["pruned_by_layer"].tolist() == expected and found["pruned"] == sum(expected) > 0
    assert [each.shape for each in found["kept"]] == [(3, 2), (3, 3), (3, 4)]
    assert (found["weights"], found["table_total"]) == (27, 36)
    assert (found["share"], found["table_share"]) == (sum(expected) / 27, sum(expected) / 36)


def test_families_without_softmax_routers_are_refused():
    for given in (tiny_model(LIME), llmc.Config(**TINY["llama"])):
        with pytest.raises(ConfigError, match="lime1-static"):
            analysis.pruning(given)
    with pytest.raises(ConfigError, match="lime1-dynamic"):
        analysis.circuits(tiny_model(LIME))


def test_pruning_of_models_and_of_configurations():
    model = mixed("lime1-static")
    found = analysis.pruning(model)
    thetas = {r: model.state_dict()[f"model.layers.{r}.attention_router.static_weights"] for r in (1, 2, 3)}
    expected = pruning.count_pruned(thetas, 4, 4, 0.9)
    assert found["pruned"] == expected["pruned"] and list(found) == list(expected)
    assert analysis.pruning(model, 1)["pruned"] == 0
    other = analysis.pruning(mixed("lime1-static", router_top_p=0.5))
    assert other["pruned"] == analysis.pruning(model, top_p=0.5)["pruned"] > found["pruned"]
    alone = analysis.pruning(model.config)
    assert list(alone) == list(found)
    assert {key for key, value in alone.items() if value is not None} == {"weights", "table_total"}


@pytest.mark.parametrize("theta, top_p, error", [
    ([[1.0, 2.0]], 0, ConfigError), ([[1.0, 2.0]], 1.5, ConfigError), ([[1.0, 2.0]], "0.5", TypeError),
    ([[1.0, 2.0]], math.nan, ConfigError), ([1.0, 2.0], 0.5, ShapeError), ([[]], 0.5, ShapeError),
    ([["a"]], 0.5, TypeError), ([[1.0, math.inf]], 0.5, DataError),
])  # fmt: skip
def test_what_is_no_router_or_no_share_is_refused(theta, top_p, error):
    with pytest.raises(error):
        analysis.top_p_weights(theta, top_p)


def test_pruning_takes_a_model_or_a_configuration():
    with pytest.raises(TypeError, match="dict"):
        analysis.pruning({})


# --- circuits


def test_logits_of_tokens_are_the_definition():
    rng = np.random.default_rng(1)
    E, g, gain, P = rng.standard_normal((11, 6)), rng.random(6) + 0.5, rng.random(6) + 0.5, rng.standard_normal((9, 6))
    found = circuits.token_logits(E.astype(np.float32), g, gain, P, 1e-5)
    for token, row in enumerate(E.astype(np.float32).astype(float)):
        e = row / g
        z = [value / math.sqrt(sum(e**2) / 6 + 1e-5) * weight for value, weight in zip(e, gain)]
        np.testing.assert_allclose(found[token], [sum(p * v for p, v in zip(line, z)) for line in P])
    np.testing.assert_array_equal(logits_of_tokens(E / g, gain, P, 1e-5).shape, (11, 9))


def test_a_gain_of_zero_is_refused():
    with pytest.raises(DataError, match="gain of 0"):
        circuits.token_logits(np.ones((3, 2)), np.array([1.0, 0.0]), np.ones(2), np.ones((2, 2)), 1e-6)


def test_the_largest_come_first_and_of_equal_ones_the_first():
    assert circuits.largest(np.array([1.0, 5, 3, 5, 3, 3]), 4).tolist() == [1, 3, 2, 4]
    values = np.random.default_rng(0).standard_normal(500)
    assert circuits.largest(values, 20).tolist() == sorted(range(500), key=lambda at: -values[at])[:20]


@pytest.mark.parametrize("prior, place", [(1e-3, 0), (0.2, 0), (0.2001, 1), (0.4, 1), (0.6, 2), (0.61, 3), (0.8, 3),
                                          (0.81, 4), (1.0, 4)])  # fmt: skip
def test_upper_ends_belong_to_their_fifth(prior, place):
    assert circuits.bin_of(prior) == place


def test_routes_to_look_at_come_bin_by_bin_the_largest_first():
    priors = np.zeros((3, 2, 3))
    priors[1, 0, :2], priors[1, 1, :2] = (0.7, 0.3), (0.1, 0.9)
    priors[2, 0], priors[2, 1] = (0.15, 0.0005, 0.8495), (0.19, 0.81, 0.0)
    assert circuits.likely_routes(priors, [1, 2], 9) == [
        (2, 0, 1), (2, 0, 0), (1, 0, 1), (1, 0, 0), (2, 1, 1)]  # fmt: skip
    assert circuits.likely_routes(priors, [1, 2], 1) == [(2, 0, 1), (1, 0, 0), (2, 1, 1)]
    assert circuits.likely_routes(priors, [2], 9) == [(2, 0, 1), (2, 0, 0), (2, 1, 1)]


def test_circuits_of_a_model():
    model = mixed("lime1-dynamic")
    found = analysis.circuits(model, top_k=3, first_layer=2)
    assert [(row["layer"], row["representation"], row["head"]) for row in found] == circuits.every_route([2, 3], 4)
    weights = model.state_dict()
    e = weights["model.embed_tokens.weight"].astype(float) / weights["model.norm.weight"]
    z = e / np.sqrt((e**2).mean(axis=1, keepdims=True) + model.config.rms_norm_eps)
    logits = z * weights["model.layers.2.input_layernorm_lime.weight"] \
        @ weights["model.layers.2.attention_router.dynamic_proj.0.weight"].T.astype(float)
    row = next(row for row in found if (row["layer"], row["representation"], row["head"]) == (2, 1, 3))
    column = logits[:, 3 * 3 + 1]
    assert row["tokens"] == sorted(range(len(column)), key=lambda at: -column[at])[:3]
    assert row["logits"] == pytest.approx(sorted(column, reverse=True)[:3])
    assert row["words"] is row["prior"] is row["bin"] is None

    class Words:
        def decode(self, ids):
            return f"<{ids[0]}>"

    ids = random_ids(MIXED, 2, 9)
    found = analysis.circuits(model, Words(), ids, per_bin=4)
    priors = analysis.router_weights(model, ids)["weights"]
    assert found and all(row["prior"] == priors[row["layer"], row["head"], row["representation"]] for row in found)
    assert [row["bin"] for row in found] == sorted(row["bin"] for row in found)
    assert all(row["words"] == [f"<{token}>" for token in row["tokens"]] for row in found)
    assert all(row["representation"] != row["layer"] for row in found)
    for fields in (dict(top_k=0), dict(first_layer=4), dict(per_bin=0)):
        with pytest.raises(ConfigError, match=next(iter(fields))):
            analysis.circuits(model, **fields)
    with pytest.raises(TypeError, match="decode"):
        analysis.circuits(model, tokenizer=3)


def test_routed_heads_are_told_apart_from_other_models_by_their_parameters():
    assert router_weights.routers_of(tiny_model(LIME))[0] == ROUTED
    assert router_weights.routers_of(tiny_model(TINY["gpt2"])) == (None, {})
