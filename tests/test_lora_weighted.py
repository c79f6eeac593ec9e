"""Weighted combinations of adapters: each type is what its name promises, in double, and peft's where peft is right."""

import math
import warnings

import numpy as np
import pytest
from conftest import TINY, TOLERANCE
from lora_peers import require_peft
from tiny import close, random_ids, tiny_model

import llmc
from llmc.errors import ConfigError, UnknownNameError
from llmc.lora import weighted

RNG = np.random.default_rng(5)
PAIRS = [(RNG.standard_normal((r, 13)), RNG.standard_normal((11, r)), s) for r, s in ((3, 2.0), (3, 0.5), (3, 1.25))]
WEIGHTS = [0.7, -0.4, 1.1]
DELTAS = [s * B @ A for A, B, s in PAIRS]
TOTAL = sum(w * delta for w, delta in zip(WEIGHTS, DELTAS))


def combined(kind, rank=11, **options):
    A, B, kept = weighted.combine(kind, PAIRS, WEIGHTS, rank, **options)
    return B @ A, kept


def largest(delta, density):
    """The definition: all but the int(density n) largest numbers become zero."""
    order = sorted(np.ndindex(delta.shape), key=lambda i: -abs(delta[i]))[: int(density * delta.size)]
    out = np.zeros_like(delta)
    for i in order:
        out[i] = delta[i]
    return out


def ties(deltas, weights, method):
    """The definition, number by number."""
    out = np.zeros_like(deltas[0])
    for i in np.ndindex(out.shape):
        values = [delta[i] for delta in deltas]
        votes = sum(values) if method == "total" else sum(np.sign(values))
        sign = 1 if votes >= 0 else -1
        agreeing = [w * v for w, v in zip(weights, values) if np.sign(v) == sign]
        out[i] = sum(agreeing) / max(len(agreeing), 1)
    return out


@pytest.mark.parametrize("kind", ["linear", "cat"])
def test_linear_and_cat_are_the_exact_sum_at_the_sum_of_ranks(kind):
    A, B, kept = weighted.combine(kind, PAIRS, WEIGHTS)
    assert A.shape == (9, 13) and B.shape == (11, 9) and kept == 1
    close(B @ A, TOTAL, TOLERANCE["double"])


@pytest.mark.parametrize("rank", [1, 4, 9, 20])
def test_svd_is_the_best_approximation_of_its_rank(rank):
    A, B, kept = weighted.combine("svd", PAIRS, WEIGHTS, rank)
    assert A.shape == (rank, 13) and B.shape == (11, rank)
    U, S, Vh = np.linalg.svd(TOTAL)
    close(B @ A, U[:, :rank] * S[:rank] @ Vh[: min(rank, 11)], TOLERANCE["double"])
    assert math.isclose(kept, (S[:rank] ** 2).sum() / (S**2).sum())


@pytest.mark.parametrize("method", ["total", "frequency"])
@pytest.mark.parametrize("density", [0.3, 1])
def test_ties_trims_elects_and_averages(method, density):
    found, kept = combined("ties", density=density, majority_sign_method=method)
    expected = ties([largest(delta, density) for delta in DELTAS], WEIGHTS, method)
    close(found, expected, TOLERANCE["double"])
    assert math.isclose(kept, 1)


def test_magnitude_prune_is_the_sum_of_the_largest():
    expected = sum(w * largest(delta, 0.4) for w, delta in zip(WEIGHTS, DELTAS))
    close(combined("magnitude_prune", density=0.4)[0], expected, TOLERANCE["double"])


@pytest.mark.parametrize("kind", ["dare_linear", "dare_ties"])
def test_dare_drops_at_random_and_scales_up_the_rest(kind):
    random = np.random.default_rng(3)
    dropped = [np.where(random.random(delta.shape) < 0.6, delta / 0.6, 0) for delta in DELTAS]
    expected = ties(dropped, WEIGHTS, "total") if kind == "dare_ties" else \
        sum(w * delta for w, delta in zip(WEIGHTS, dropped))
    close(combined(kind, density=0.6, random=np.random.default_rng(3))[0], expected, TOLERANCE["double"])


def test_dare_keeps_the_mean():
    pairs = [(np.ones((1, 300)), np.ones((300, 1)), 1.0)]
    A, B, _ = weighted.combine("dare_linear", pairs, [1.0], 300, density=0.25, random=np.random.default_rng(0))
    delta = B @ A
    assert abs(delta.mean() - 1) < TOLERANCE["initialisation"] * math.sqrt(3 / delta.size)
    assert set(np.unique(delta.round(6))) == {0.0, 4.0}


def test_what_is_cut_off_is_the_best_that_rank_can_hold():
    expected = ties([largest(delta, 0.5) for delta in DELTAS], WEIGHTS, "total")
    U, S, Vh = np.linalg.svd(expected)
    found, kept = combined("ties", rank=3, density=0.5)
    close(found, U[:, :3] * S[:3] @ Vh[:3], TOLERANCE["double"])
    assert math.isclose(kept, (S[:3] ** 2).sum() / (S**2).sum()) and kept < 0.99


def test_peft_linear_has_the_cross_terms():
    A, B, _ = weighted.combine("peft_linear", PAIRS, WEIGHTS)
    factors = [w * s for w, (_, _, s) in zip(WEIGHTS, PAIRS)]
    expected = sum(math.sqrt(abs(f)) * b for f, (_, b, _) in zip(factors, PAIRS)) @ sum(
        math.copysign(math.sqrt(abs(f)), f) * a for f, (a, _, _) in zip(factors, PAIRS))
    close(B @ A, expected, TOLERANCE["double"])
    assert np.abs(B @ A - TOTAL).max() > 1


def test_an_svd_of_any_shape_is_the_svd():
    for shape in ((4, 9), (9, 4), (5, 5)):
        delta = RNG.standard_normal(shape)
        U, S, Vh, squared = weighted.svd(delta, 3)
        left, values, right = np.linalg.svd(delta)
        close(S, values[:3], TOLERANCE["double"])
        close((U * S) @ Vh, left[:, :3] * values[:3] @ right[:3], TOLERANCE["double"])
        assert math.isclose(squared, (values**2).sum())


def test_nothing_combined_is_nothing():
    zero = [(np.zeros((2, 4)), np.zeros((3, 2)), 1.0)]
    for kind in ("svd", "ties", "magnitude_prune"):
        A, B, kept = weighted.combine(kind, zero, [1.0], 2, density=0.5)
        assert np.abs(B @ A).max() == 0 and np.isfinite(A).all() and kept == 1


def test_a_clamp_cuts_both_factors():
    A, B, _ = weighted.combine("svd", PAIRS, WEIGHTS, 4, clamp=0.8)
    free_A, free_B, _ = weighted.combine("svd", PAIRS, WEIGHTS, 4)
    high = np.quantile(np.concatenate([free_A.ravel(), free_B.ravel()]), 0.8)
    assert math.isclose(max(A.max(), B.max()), high) and math.isclose(min(A.min(), B.min()), -high)


# --- beside peft -----------------------------------------------------------------------------------------------------
def two_adapters(family="llama", **b):
    model, common = tiny_model(TINY[family]), dict(r=4, target_modules="attention", init_lora_weights=False)
    model.add_adapter(llmc.LoraConfig(**common, lora_alpha=6), "a")
    model.add_adapter(llmc.LoraConfig(**common | b), "b", seed=1)
    return model


def delta_of(model, name):
    """{path: s B A}, in double."""
    tensors = model._model.adapter_parameters(name)
    return {path: branch.scale * tensors[f"{path}.lora_B.{name}.weight"].astype(np.float64)
            @ tensors[f"{path}.lora_A.{name}.weight"] for path, branch in model.adapters[name].branches.items()}


@pytest.mark.parametrize("here, there, options", [
    ("peft_linear", "linear", {}), ("cat", "cat", {}), ("linear", "cat", {}), ("svd", "svd", {}),
    ("svd", "svd", dict(svd_rank=2)), ("svd", "svd", dict(svd_rank=11)),
    ("ties", "ties_svd", dict(density=0.4)), ("ties_svd", "ties_svd", dict(density=0.4, svd_rank=6)),
    ("ties_svd", "ties_svd", dict(density=0.6, majority_sign_method="frequency")),
    ("magnitude_prune", "magnitude_prune_svd", dict(density=0.3, svd_rank=5)),
    ("dare_linear", "dare_linear_svd", dict(density=1)), ("dare_ties", "dare_ties_svd", dict(density=1)),
])  # fmt: skip
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_combination_is_that_of_peft_where_peft_combines_deltas(peers, tmp_path, family, here, there, options):
    peft = require_peft()
    from tiny import hf_model

    model = two_adapters(family)
    for name in "ab":
        model.save_adapter(tmp_path, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.PeftModel.from_pretrained(hf_model(peers, TINY[family]), tmp_path / "a", adapter_name="a")
        theirs.load_adapter(tmp_path / "b", "b")
        theirs.add_weighted_adapter(["a", "b"], [0.7, -0.4], "mix", combination_type=there, **options)
        model.add_weighted_adapter(["a", "b"], [0.7, -0.4], "mix", combination_type=here, **options)
    layers = {path.removeprefix("base_model.model."): layer for path, layer in theirs.named_modules()
              if hasattr(layer, "lora_A")}
    deltas = delta_of(model, "mix")
    assert deltas.keys() == layers.keys()
    for path, delta in deltas.items():
        expected = layers[path].get_delta_weight("mix").detach().numpy()
        close(delta.T if family == "gpt2" else delta, expected, 1e-4, path)


# --- as an adapter ---------------------------------------------------------------------------------------------------
def test_adapters_of_other_ranks_targets_and_scales_are_summed_exactly():
    model = two_adapters(r=2, target_modules=["q_proj", "up_proj"], layers_to_transform=[1], use_rslora=True)
    model.add_weighted_adapter(["a", "b"], [0.7, -0.4], "mix", combination_type="linear")
    a, b, mix = (delta_of(model, name) for name in ("a", "b", "mix"))
    assert set(mix) == {*a, *b} and set(b) - set(a) == {"model.layers.1.mlp.up_proj"}
    for path, delta in mix.items():
        close(delta, 0.7 * a.get(path, 0) - 0.4 * b.get(path, 0), 1e-6, path)
    assert {branch.rank for branch in model.adapters["mix"].branches.values()} == {6}


def test_a_combination_of_both_at_once_is_both_adapters_active():
    model = two_adapters()
    ids = random_ids(TINY["llama"], 2, 9)
    model.set_adapter(["a", "b"])
    both = model(ids)
    model.add_weighted_adapter(["a", "b"], [1, 1], "mix", combination_type="cat")
    assert model.active_adapters() == ["a", "b"]
    model.set_adapter("mix")
    close(model(ids), both, TOLERANCE["logits"])


def test_a_combination_is_saved_as_what_it_is(tmp_path):
    model = two_adapters(target_modules=["up_proj"], layers_to_transform=[1], r=2)
    model.add_weighted_adapter(["a", "b"], [1, 2], "mix", combination_type="cat")
    model.set_adapter("mix")
    model.save_adapter(tmp_path, "mix")
    config = llmc.LoraConfig.from_pretrained(tmp_path / "mix")
    assert config.r == config.lora_alpha == 4 and config.layers_to_transform is None and not config.use_rslora
    again = tiny_model(TINY["llama"])
    again.load_adapter(tmp_path / "mix")
    ids = random_ids(TINY["llama"], 2, 9)
    assert (again(ids) == model(ids)).all()


def test_what_a_rank_leaves_out_is_said():
    model = two_adapters()
    with pytest.warns(UserWarning, match=r"ties: rank 4 keeps \d+% of a delta's squared norm"):
        model.add_weighted_adapter(["a", "b"], [1, 1], "mix", combination_type="ties", density=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.add_weighted_adapter(["a", "b"], [1, 1], "whole", combination_type="ties", density=0.5, svd_rank=44)


def test_what_is_dropped_at_random_depends_on_the_seed():
    model = two_adapters()
    for name, seed in (("x", 0), ("y", 0), ("z", 1)):
        model.add_weighted_adapter(["a", "b"], [1, 1], name, combination_type="dare_linear", density=0.5, svd_rank=44,
                                   seed=seed)
    x, y, z = (delta_of(model, name) for name in "xyz")
    assert all((x[path] == y[path]).all() for path in x) and not all((x[path] == z[path]).all() for path in x)


@pytest.mark.parametrize("arguments, error, words", [
    (dict(adapters=["a", "c"]), UnknownNameError, "no adapter 'c'"), (dict(adapter_name="b"), ConfigError, "already"),
    (dict(adapters="ab"), TypeError, "list of names"), (dict(adapters=[], weights=[]), ConfigError, "0 adapters"),
    (dict(adapters=["a", "a"]), ConfigError, "stands twice"), (dict(weights=[1]), ConfigError, "2 adapters and 1 wei"),
    (dict(weights=[1, math.nan]), ConfigError, "finite"), (dict(weights=[1, "2"]), ConfigError, "finite"),
    (dict(combination_type="mean"), ConfigError, "is one of"), (dict(combination_type="ties"), ConfigError, "density"),
    (dict(combination_type="ties", density=0), ConfigError, "above 0"),
    (dict(combination_type="dare_ties", density=1.5), ConfigError, "at most 1"),
    (dict(combination_type="ties", density=0.5, majority_sign_method="x"), ConfigError, "'total' or 'frequency'"),
    (dict(svd_rank=0), ConfigError, "svd_rank is 0"), (dict(svd_clamp=2), ConfigError, "quantile"),
    (dict(adapters=["a", "r2"], combination_type="peft_linear"), ConfigError, "one rank, not of 4, 2"),
    (dict(adapters=["a", "saves"]), ConfigError, "its own model.norm.weight"),
])  # fmt: skip
def test_an_impossible_combination_is_refused_and_changes_nothing(arguments, error, words):
    model = two_adapters()
    model.add_adapter(llmc.LoraConfig(r=2, target_modules="mlp"), "r2")
    model.add_adapter(llmc.LoraConfig(r=2, target_modules="mlp", modules_to_save=["model.norm"]), "saves")
    before = list(model.state_dict())
    with pytest.raises(error, match=words):
        model.add_weighted_adapter(**dict(adapters=["a", "b"], weights=[1, 1], adapter_name="mix") | arguments)
    assert list(model.state_dict()) == before
