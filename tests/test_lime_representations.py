"""Representations of tokens in every layer, and what is measured of them: entropy, separability, t-SNE."""

import math
import sys

import numpy as np
import pytest
from conftest import TINY, TOLERANCE
from tiny import close, random_ids, tiny_model

import llmc
from llmc import analysis
from llmc.analysis.lime import passes
from llmc.analysis.lime.separability import cut
from llmc.analysis.lime.token_rows import token_rows
from llmc.analysis.lime.given import texts
from llmc.errors import ConfigError, DataError, ShapeError, UnknownNameError

LIME = {**TINY["llama"], "model_type": "lime", "num_hidden_layers": 4}
OF = ("values", "own_values", "hiddens")
ALL = {**TINY, "lime": LIME}
ALL |= {family: {**TINY["llama"], "model_type": family, "num_key_value_heads": 4}
        for family in ("lime1-static", "lime1-dynamic", "hc", "hc-paper")}  # fmt: skip


def right_mask(rows, length):
    """Rows of different lengths, padded on the right."""
    return (np.arange(length) < np.array([length - 3 * (row % 3) for row in range(rows)])[:, None]).astype(int)


def left_mask(rows, length):
    return right_mask(rows, length)[:, ::-1]


def hook_points(config, of):
    """Where the representations of a family stand, by name."""
    root = "transformer.h.{}" if config["model_type"] in ("gpt2", "openai-gpt") else "model.layers.{}"
    layers = range(config.get("num_hidden_layers") or config["n_layer"])
    if of == "hiddens":
        return [root.format(layer) for layer in layers]
    if config["model_type"] in ("gpt2", "openai-gpt"):
        return [f"{root.format(layer)}.attn.c_attn" for layer in layers]
    own = [f"{root.format(layer)}.self_attn.v_proj" for layer in layers]
    if config["model_type"] == "lime" and of == "values":
        own[1:] = [name.replace("v_proj", "lime_router.values") for name in own[1:]]
    return own


def expected(model, config, ids, mask, of):
    """Everything kept, read off by hand: (L, N, width)."""
    run = model.run(*ids.shape, keep="all")
    run.forward(ids, attention_mask=mask)
    width = model.config.hidden_size if of == "hiddens" else model.config.num_key_value_heads * model.config.head_dim
    found = []
    for name in hook_points(config, of):
        array = run.output(name)
        if of == "hiddens":
            array = sum(np.split(array, array.shape[-1] // width, axis=-1))
        found.append(array[..., -width:][np.ones(ids.shape, bool) if mask is None else mask == 1])
    return np.array(found)


# --- representations


@pytest.mark.parametrize("of", OF)
@pytest.mark.parametrize("family", ALL)
def test_representations_are_what_the_hook_points_show(family, of):
    model, ids = tiny_model(ALL[family]), random_ids(ALL[family], 3, 11)
    for mask in (None, right_mask(3, 11)):
        found = analysis.representations(model, ids, mask, of=of)
        assert found.dtype == np.float32
        close(found, expected(model, ALL[family], ids, mask, of), TOLERANCE["hidden"], of)


@pytest.mark.parametrize("mask_of", [left_mask, right_mask])
def test_padding_changes_no_token(mask_of):
    model, ids, mask = tiny_model(LIME), random_ids(LIME, 4, 11), mask_of(4, 11)
    found = analysis.representations(model, ids, mask, of="hiddens")
    each = [analysis.representations(model, row[m == 1], of="hiddens") for row, m in zip(ids, mask)]
    close(found, np.concatenate(each, axis=1), TOLERANCE["hidden"])


def test_batches_follow_each_other():
    model, ids, mask = tiny_model(LIME), random_ids(LIME, 6, 9), right_mask(6, 9)
    whole = analysis.representations(model, ids, mask)
    parts = [slice(0, 1), slice(1, 4), slice(4, 6)]
    given = (analysis.representations(model, (ids[part] for part in parts), [mask[part] for part in parts]),
             analysis.representations(model, [dict(input_ids=ids[p], attention_mask=mask[p]) for p in parts]))
    for found in given:
        close(found, whole, TOLERANCE["company"])


@pytest.mark.parametrize("tokens", [1, 4, 20])
def test_a_text_that_is_read_in_pieces_is_the_same(tokens, monkeypatch):
    model, ids, mask = tiny_model(LIME), random_ids(LIME, 5, 9), left_mask(5, 9)
    whole = {of: analysis.representations(model, ids, mask, of=of) for of in OF}
    entropy = analysis.matrix_entropy(model, ids, mask)["mean"]
    monkeypatch.setattr(passes, "TOKENS", tokens)
    for of in OF:
        close(analysis.representations(model, ids, mask, of=of), whole[of], TOLERANCE["hidden"])
    close(analysis.matrix_entropy(model, ids, mask)["mean"], entropy, 1e-4)


def test_a_selection_is_those_tokens_alone():
    model, ids, mask = tiny_model(LIME), random_ids(LIME, 4, 9), right_mask(4, 9)
    select = random_ids({"vocab_size": 2}, 4, 9, seed=3).astype(bool)
    select[2] = False
    whole = analysis.representations(model, ids, mask)
    chosen = analysis.representations(model, ids, mask, select=select)
    close(chosen, whole[:, select[mask == 1]], TOLERANCE["company"])
    batched = analysis.representations(model, [ids[:2], ids[2:]], [mask[:2], mask[2:]], select=[select[:2], select[2:]])
    close(batched, chosen, TOLERANCE["company"])


def test_an_adapted_value_is_the_merged_one():
    model, ids = tiny_model(LIME), random_ids(LIME, 2, 7)
    plain = analysis.representations(model, ids)
    model.add_adapter(llmc.LoraConfig(r=2, target_modules=["v_proj"], init_lora_weights=False))
    attached = analysis.representations(model, ids)
    model.merge_and_unload()
    close(attached, analysis.representations(model, ids), TOLERANCE["hidden"])
    assert np.abs(attached - plain).max() > 1e-2


def test_the_same_call_gives_the_same_bits_and_leaves_the_model():
    model, ids = tiny_model(LIME), random_ids(LIME, 4, 9)
    before, tokens = {name: array.copy() for name, array in model.state_dict().items()}, ids[0, :1].tolist()
    ids[:, ::3] = tokens[0]
    ids[:, 1::3] = (tokens[0] + 1) % LIME["vocab_size"]
    tokens.append((tokens[0] + 1) % LIME["vocab_size"])

    def everything():
        return [analysis.representations(model, ids), analysis.matrix_entropy(model, ids)["mean"],
                analysis.token_separability(model, ids, tokens)["folds"]]  # fmt: skip

    for first, again in zip(everything(), everything()):
        assert first.tobytes() == again.tobytes()
    assert all(np.array_equal(before[name], array) for name, array in model.state_dict().items())


@pytest.mark.parametrize("arguments, error, words", [
    (dict(of="value"), UnknownNameError, "nearest: values"),
    (dict(of=None), TypeError, "of"),
    (dict(attention_mask=np.ones((2, 3))), ShapeError, "attention_mask"),
    (dict(attention_mask=np.zeros((2, 5))), DataError, "padding"),
    (dict(select=np.ones((2, 3), bool)), ShapeError, "select"),
    (dict(select=np.ones((2, 5))), TypeError, "booleans"),
    (dict(select=np.zeros((2, 5), bool)), DataError, "chooses no token"),
    (dict(ids=[[1, 107]]), DataError, "107"),
    (dict(ids=[]), DataError, "empty"),
])  # fmt: skip
def test_what_does_not_belong_together_is_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        analysis.representations(**dict(model=tiny_model(LIME), ids=random_ids(LIME, 2, 5)) | arguments)


def test_selections_are_as_many_as_batches():
    ids = random_ids(LIME, 2, 5)
    with pytest.raises(ShapeError, match="1 entries for 2 batches"):
        analysis.representations(tiny_model(LIME), [ids, ids], select=[np.ones((2, 5), bool)])


# --- entropy


def entropy_by_hand(z, alpha):
    values = np.linalg.eigvalsh(z @ z.T)
    shares = values[values > 0] / np.trace(z @ z.T)
    shares = shares[shares >= 1e-15]
    return -sum(q * math.log(q) for q in shares) if alpha == 1 else math.log(sum(shares**alpha)) / (1 - alpha)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.999, 1, 1.0005, 2, 30])
def test_entropies_that_are_known(alpha):
    orthonormal = np.linalg.qr(np.random.default_rng(0).standard_normal((9, 9)))[0]
    assert analysis.renyi_entropy(orthonormal[:5], alpha) == pytest.approx(math.log(5))
    assert analysis.renyi_entropy(orthonormal[:, :4], alpha) == pytest.approx(math.log(4))
    assert analysis.renyi_entropy([[1, 0, 0], [0, 1, 0], [0, 0, 0]], alpha) == pytest.approx(math.log(2))
    assert analysis.renyi_entropy(np.outer([1.0, 2, 3], [4.0, 5]), alpha) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (1, 3), (7, 7)])
@pytest.mark.parametrize("alpha", [0.5, 0.9995, 1, 1.0001, 3])
def test_entropy_is_its_definition(shape, alpha):
    z = np.random.default_rng(1).standard_normal(shape)
    assert analysis.renyi_entropy(z, alpha) == pytest.approx(entropy_by_hand(z, alpha), abs=1e-6)
    assert analysis.renyi_entropy(3 * z, alpha) == pytest.approx(analysis.renyi_entropy(z, alpha), abs=1e-12)


def test_shannons_entropy_is_the_limit():
    z = np.random.default_rng(1).standard_normal((6, 9))
    around = [analysis.renyi_entropy(z, 1 + by) for by in (-1e-9, 0, 1e-9)]
    assert max(around) - min(around) < 1e-8
    assert analysis.renyi_entropy(z, 1 - 2e-3) > around[1] > analysis.renyi_entropy(z, 1 + 2e-3)


@pytest.mark.parametrize("z, alpha, error", [
    (np.zeros((2, 3)), 0.5, DataError), ([[math.nan]], 0.5, DataError), ([1.0, 2.0], 0.5, ShapeError),
    (np.ones((0, 3)), 0.5, ShapeError), ([["a"]], 0.5, TypeError), ([[1.0]], 0, ConfigError),
    ([[1.0]], -1, ConfigError), ([[1.0]], math.inf, ConfigError), ([[1.0]], "1", TypeError),
])  # fmt: skip
def test_what_has_no_entropy_is_refused(z, alpha, error):
    with pytest.raises(error):
        analysis.renyi_entropy(z, alpha)


@pytest.mark.parametrize("of", OF)
def test_matrix_entropy_is_its_definition(of):
    model, ids, mask = tiny_model(LIME), random_ids(LIME, 5, 23), right_mask(5, 23)
    found = analysis.matrix_entropy(model, ids, mask, of=of)
    per_layer = []
    for layer in analysis.representations(model, ids, mask, of=of).astype(float):
        z = (layer - layer.mean(axis=0)) / (layer.std(axis=0, ddof=1) + 1e-5)
        ends = np.cumsum(mask.sum(axis=1))[:-1]
        per_layer.append([entropy_by_hand(each, 0.5) for each in np.split(z, ends)])
    np.testing.assert_allclose(found["mean"], np.mean(per_layer, axis=1), atol=1e-5)
    np.testing.assert_allclose(found["std"], np.std(per_layer, axis=1), atol=1e-5)
    assert found["sequences"] == 5
    streamed = analysis.matrix_entropy(model, (row[None] for row in ids), [row[None] for row in mask], of=of)
    np.testing.assert_allclose(streamed["mean"], found["mean"], atol=1e-4)


def test_a_row_of_padding_is_no_sequence():
    model, ids, mask = tiny_model(LIME), random_ids(LIME, 3, 9), np.ones((3, 9), int)
    mask[1] = 0
    found, without = analysis.matrix_entropy(model, ids, mask), analysis.matrix_entropy(model, ids[[0, 2]])
    assert found["sequences"] == without["sequences"] == 2
    np.testing.assert_allclose(found["mean"], without["mean"], atol=1e-6)


@pytest.mark.parametrize("arguments, error, words", [
    (dict(ids=[[3]]), DataError, "one token"), (dict(ids=[[3, 3]], of="values"), DataError, "zeros"),
    (dict(alpha=0), ConfigError, "alpha"), (dict(of="hidden"), UnknownNameError, "hiddens"),
])  # fmt: skip
def test_a_text_without_an_entropy_is_refused(arguments, error, words):
    config = {**TINY["llama"], "num_hidden_layers": 1}
    with pytest.raises(error, match=words):
        analysis.matrix_entropy(**dict(model=tiny_model(config), ids=random_ids(LIME, 2, 5)) | arguments)


# --- separability


def by_hand(x, y, folds, seed, epochs, lr, batch_size):
    """One fold after the other, one row after the other."""
    order = np.arange(len(x))
    np.random.RandomState(seed).shuffle(order)
    sizes = [len(x) // folds + (fold < len(x) % folds) for fold in range(folds)]
    held = np.split(order, np.cumsum(sizes)[:-1])
    kept = [[row for row in range(len(x)) if row not in set(rows)] for rows in held]
    rng, C, K = np.random.default_rng(seed), x.shape[1], y.max() + 1
    start = rng.uniform(-1 / math.sqrt(C), 1 / math.sqrt(C), (folds, C + 1, K))
    orders = [[rng.permutation(rows) for rows in kept] for _ in range(epochs)]
    shares = []
    for fold in range(folds):
        w, m, v, t = start[fold].copy(), 0.0, 0.0, 0
        for epoch in range(epochs):
            rows = orders[epoch][fold]
            for first in range(0, len(rows), batch_size):
                gradient, batch = np.zeros_like(w), rows[first : first + batch_size]
                for row in batch:
                    logits = x[row] @ w[:-1] + w[-1]
                    error = np.exp(logits) / np.exp(logits).sum() - (np.arange(K) == y[row])
                    gradient += np.outer([*x[row], 1], error) / len(batch)
                t, m, v = t + 1, 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
                w -= lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        shares.append(np.mean([np.argmax(x[row] @ w[:-1] + w[-1]) == y[row] for row in held[fold]]))
    return shares


@pytest.mark.parametrize("n, batch_size, epochs", [(40, 8, 2), (37, 5, 1), (41, 33, 3), (42, 11, 1)])
def test_folds_trained_together_are_folds_trained_one_by_one(n, batch_size, epochs):
    rng = np.random.default_rng(n)
    y = rng.permutation(np.arange(n) % 3)
    x = rng.standard_normal((n, 6)) + 0.8 * np.eye(6)[y]
    found = analysis.separability(x, y + 7, folds=4, seed=3, epochs=epochs, lr=0.05, batch_size=batch_size)
    shares = by_hand(x, y, 4, 3, epochs, 0.05, batch_size)
    np.testing.assert_allclose(found["folds"], shares)
    assert (found["accuracy"], found["std"]) == (pytest.approx(np.mean(shares)), pytest.approx(np.std(shares)))


def test_what_a_line_divides_is_told_apart_and_noise_is_not():
    rng, y = np.random.default_rng(0), np.repeat(np.arange(4), 100)
    apart = analysis.separability(4 * np.eye(8)[y] + 0.1 * rng.standard_normal((400, 8)), y, epochs=5, lr=0.1)
    assert apart["accuracy"] == 1 and apart["std"] == 0
    assert abs(analysis.separability(rng.standard_normal((400, 8)), y)["accuracy"] - 0.25) < 0.12


@pytest.mark.parametrize("n, folds", [(10, 3), (11, 5), (24, 4), (7, 7)])
def test_folds_are_cut_as_scikit_learn_cuts_them(n, folds):
    selection = pytest.importorskip("sklearn.model_selection")
    kept, held = cut(n, folds, 42)
    theirs = list(selection.KFold(folds, shuffle=True, random_state=42).split(np.zeros((n, 1))))
    for ours, other, (train, test) in zip(kept, held, theirs):
        np.testing.assert_array_equal(ours, train)
        np.testing.assert_array_equal(other, test)


@pytest.mark.parametrize("change, error, words", [
    (dict(y=np.zeros(20, int)), DataError, "one class"), (dict(y=np.arange(20) // 18), DataError, "class 1 has 2 rows"),
    (dict(y=np.arange(19) % 2), ShapeError, "shape"), (dict(y=np.arange(20) / 2), TypeError, "whole numbers"),
    (dict(x=np.full((20, 2), math.nan)), DataError, "finite"), (dict(x=np.zeros((20, 0))), ShapeError, "features"),
    (dict(folds=1), ConfigError, "folds"), (dict(lr=0), ConfigError, "lr"), (dict(lr=-1e-3), ConfigError, "lr"),
    (dict(batch_size=0), ConfigError, "batch_size"), (dict(epochs=-1), ConfigError, "epochs"),
    (dict(seed=-1), ConfigError, "seed"), (dict(folds=2.5), TypeError, "folds"),
])  # fmt: skip
def test_what_cannot_be_told_apart_is_refused(change, error, words):
    good = dict(x=np.random.default_rng(0).standard_normal((20, 2)), y=np.arange(20) % 2)
    with pytest.raises(error, match=words):
        analysis.separability(**good | change)


# --- tokens


def text_of(tokens, rows, length, seed=0):
    """Ids of which half are of some tokens."""
    ids, rng = random_ids(LIME, rows, length, seed=seed), np.random.default_rng(seed)
    for token in tokens:
        ids[ids == token] = max(tokens) + 1
    here = rng.random(ids.shape) < 0.5
    ids[here] = rng.choice(tokens, here.sum())
    return ids


@pytest.mark.parametrize("count", [None, 4])
def test_rows_of_tokens_are_their_first_occurrences_one_token_after_the_other(count):
    model, tokens = tiny_model(LIME), [9, 3, 5]
    ids, mask = text_of(tokens, 5, 13), right_mask(5, 13)
    rows, n = token_rows(model, texts(model, [ids[:2], ids[2:]], [mask[:2], mask[2:]]), tokens, "values", count, 1)
    real, whole = ids[mask == 1], analysis.representations(model, ids, mask)
    assert n == (count or min(int((real == token).sum()) for token in tokens))
    expected = np.concatenate([whole[:, np.flatnonzero(real == token)[:n]] for token in tokens], axis=1)
    close(rows, expected, TOLERANCE["company"])


@pytest.mark.parametrize("of", OF)
def test_token_separability_is_that_of_the_rows(of):
    model, tokens = tiny_model(LIME), [9, 3]
    ids = text_of(tokens, 5, 13)
    found = analysis.token_separability(model, ids, tokens, of=of, folds=3, seed=1, epochs=2)
    rows, n = token_rows(model, texts(model, ids, None), tokens, of, None, 3)
    assert found["count"] == n and found["folds"].shape == (4, 3)
    for layer, each in enumerate(rows):
        one = analysis.separability(each, np.repeat([0, 1], n), folds=3, seed=1, epochs=2)
        np.testing.assert_array_equal(found["folds"][layer], one["folds"])
        assert (found["accuracy"][layer], found["std"][layer]) == (one["accuracy"], one["std"])


@pytest.mark.parametrize("change, error, words", [
    (dict(tokens=[9, 50]), DataError, "token 50 does not occur"),
    (dict(tokens=[9, 3], folds=30), DataError, "and 30 folds need"),
    (dict(tokens=[9, 3], count=4), DataError, "has 4 rows"),
    (dict(tokens=[9]), ConfigError, "at least 2"), (dict(tokens=[9, 9]), ConfigError, "different"),
    (dict(tokens=[9, 107]), DataError, "106"), (dict(tokens="is"), TypeError, "tokens"),
    (dict(tokens=[9, 3.5]), TypeError, "tokens"), (dict(tokens=[9, 3], of="keys"), UnknownNameError, "keys"),
    (dict(tokens=[9, 3], count=0), ConfigError, "count"),
])  # fmt: skip
def test_tokens_that_a_text_lacks_are_refused(change, error, words):
    ids = text_of([9, 3], 3, 13)
    ids[ids == 50] = 51
    with pytest.raises(error, match=words):
        analysis.token_separability(tiny_model(LIME), ids, **change)


def test_pictures_of_representations_appear(tmp_path):
    model, ids = tiny_model(LIME), text_of([9, 3], 4, 13)
    analysis.matrix_entropy(model, ids, plot=tmp_path / "entropy.svg")
    analysis.token_separability(model, ids, [9, 3], plot=tmp_path / "separability.png")
    assert all(file.stat().st_size > 4000 for file in tmp_path.iterdir()) and len(list(tmp_path.iterdir())) == 2


# --- t-SNE


def test_tsne_is_scikit_learns_of_rows_of_length_one(tmp_path):
    manifold = pytest.importorskip("sklearn.manifold")
    model, tokens = tiny_model(LIME), [9, 3]
    ids = text_of(tokens, 4, 13)
    found = analysis.tsne(model, ids, tokens, layers=[3], count=6, perplexity=4, seed=5, plot=tmp_path / "tsne.png")
    rows = token_rows(model, texts(model, ids, None), tokens, "values", 6, 1)[0][3].astype(float)
    theirs = manifold.TSNE(2, perplexity=4, random_state=5)
    np.testing.assert_array_equal(found["points"][0], theirs.fit_transform(
        rows / np.linalg.norm(rows, axis=1, keepdims=True)))  # fmt: skip
    assert found["points"].dtype == np.float64 and found["layers"] == [3]
    assert found["labels"].tolist() == [9] * 6 + [3] * 6
    assert (tmp_path / "tsne.png").stat().st_size > 4000
    with pytest.raises(ConfigError, match="perplexity is 12, not below 12"):
        analysis.tsne(model, ids, tokens, count=6, perplexity=12)


def test_without_scikit_learn_tsne_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(ImportError, match=r"llmc\[lime\].*scikit-learn"):
        analysis.tsne(tiny_model(LIME), text_of([9, 3], 3, 9), [9, 3])


@pytest.mark.parametrize("layers, error", [([4], ConfigError), ([], ConfigError), ([1.5], TypeError), (3, TypeError)])
def test_layers_that_are_not_there_are_refused(layers, error):
    with pytest.raises(error, match="layers"):
        analysis.tsne(tiny_model(LIME), text_of([9, 3], 3, 9), [9, 3], layers=layers)
