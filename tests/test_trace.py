"""trace: every number against float64 NumPy, planted changes, adapters, files, padding, batches, refusals."""

import csv
import json
import warnings

import numpy as np
import pytest
import trace_reference as reference
from conftest import TINY
from html_page import Page
from tiny import random_ids, tiny_model

import llmc
from llmc.analysis import Trace, trace
from llmc.analysis.trace_page import in_page

FAMILIES = {**TINY, "lime": {**TINY["llama"], "model_type": "lime"},
            "hc-paper": {**TINY["llama"], "model_type": "hc-paper", "hyper_rate": 3}}
SINGLE = 2e-6  # relative: activations are the same float32 numbers on both sides; x dW^T is a product in float32
MODULE = ["name", "kind", "layer", "part", "input_change", "output_change", "cosine", "own_change"]
TOKEN = ["batch", "position", "id", "text", "kl", "base_top", "tuned_top", "base_top_text", "tuned_top_text", "next",
         "base_logprob", "tuned_logprob"]  # fmt: skip


def tuned_of(config, size=0.01, seed=5, only=""):
    """The base of a config and a copy with noise on the parameters whose names contain `only`."""
    base, tuned = tiny_model(config), tiny_model(config)
    rng = np.random.default_rng(seed)
    for name, array in tuned._parameters.items():
        if only in name:
            array += size * rng.standard_normal(array.shape)
    return base, tuned


def by_name(found):
    return {row["name"]: row for row in found.modules}


def real_tokens(kept, real):
    """{module: (input or None, output)} without padding."""
    return {name: (None if x is None else x[real], y[real]) for name, (x, y) in kept.items()}


def check_modules(found, base, tuned, ids, mask=None):
    real = np.ones(ids.shape, bool) if mask is None else mask.astype(bool)
    before, after = (real_tokens(reference.kept(model, ids, mask)[0], real) for model in (base, tuned))
    positions = np.tile(np.arange(ids.shape[1]), (len(ids), 1)) if mask is None else mask.cumsum(axis=1) - 1
    assert list(by_name(found)) == base.run(1, 2).names()
    for row in found.modules:
        name, (x, y), (x_new, y_new) = row["name"], before[row["name"]], after[row["name"]]
        expected = {"output_change": reference.change(y, y_new), "cosine": reference.cosine(y, y_new)}
        if x is not None:
            expected["input_change"] = reference.change(x, x_new)
        if row["own_change"] is not None:
            expected["own_change"] = reference.own_change(row["kind"], base, tuned, name, x, ids[real], positions[real])
        for key in ("input_change", "output_change", "cosine", "own_change"):
            truth = expected.get(key)
            assert row[key] == (truth if truth is None else pytest.approx(truth, rel=SINGLE)), (name, key)
        weighs = row["kind"] in ("linear", "norm", "embedding", "head")
        assert (row["own_change"] is not None) == weighs, name


@pytest.fixture(params=FAMILIES)
def config(request):
    return FAMILIES[request.param]


def test_every_module_equals_the_reference(config):
    base, tuned = tuned_of(config)
    ids = random_ids(config, 3, 11)
    found = trace(base, tuned, ids)
    check_modules(found, base, tuned, ids)
    assert all(list(row) == MODULE for row in found.modules)


def test_a_small_change_is_measured_as_exactly_as_a_large_one():
    """Of f'(x) - f(x) in float32 nothing but rounding would be left."""
    config = TINY["llama"]
    base, tuned = tuned_of(config, size=3e-7, only="q_proj")
    ids = random_ids(config, 2, 9)
    found, kept = by_name(trace(base, tuned, ids)), reference.kept(base, ids)[0]
    for layer in range(3):
        name = f"model.layers.{layer}.self_attn.q_proj"
        x = kept[name][0].reshape(18, -1)
        truth = reference.own_change("linear", base, tuned, name, x, None, None)
        assert found[name]["own_change"] == pytest.approx(truth, rel=SINGLE)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_counts_nowhere(config, side):
    base, tuned = tuned_of(config)
    ids, mask = random_ids(config, 2, 10), np.ones((2, 10), int)
    mask[1, :4] = 0
    if side == "right":
        mask = mask[:, ::-1].copy()
    found = trace(base, tuned, ids, attention_mask=mask)
    check_modules(found, base, tuned, ids, mask)
    assert np.array_equal(np.isnan(found.stream), np.tile(mask == 0, (4, 1, 1)))
    assert [(row["batch"], row["position"]) for row in found.tokens] == [tuple(at) for at in np.argwhere(mask).tolist()]
    assert found.summary["tokens"] == len(found.tokens) == 16
    other = trace(base, tuned, np.where(mask == 1, ids, (ids + 1) % config["vocab_size"]), attention_mask=mask)
    assert other.tokens == found.tokens and other.modules == found.modules


def test_predictions_equal_the_reference(config):
    base, tuned = tuned_of(config)
    ids = random_ids(config, 2, 9)
    found = trace(base, tuned, ids, top=5)
    before, after = (reference.kept(model, ids)[1].reshape(18, -1) for model in (base, tuned))
    p, q = reference.log_softmax(after), reference.log_softmax(before)
    truth = reference.kl(before, after)
    following = np.append(ids[:, 1:], [[-1], [-1]], axis=1).ravel()
    for index, row in enumerate(found.tokens):
        assert list(row) == TOKEN
        assert row["id"] == ids.ravel()[index] and row["kl"] == pytest.approx(truth[index], rel=1e-9)
        assert (row["base_top"], row["tuned_top"]) == (q[index].argmax(), p[index].argmax())
        if following[index] < 0:
            assert row["next"] is row["base_logprob"] is row["tuned_logprob"] is None
        else:
            assert row["next"] == following[index]
            assert row["base_logprob"] == pytest.approx(q[index, following[index]])
            assert row["tuned_logprob"] == pytest.approx(p[index, following[index]])
    summary = found.summary
    assert list(summary) == ["tokens", "kl_mean", "kl_max", "agreement", "base_loss", "tuned_loss"]
    assert summary["kl_mean"] == pytest.approx(truth.mean()) and summary["kl_max"] == pytest.approx(truth.max())
    assert summary["agreement"] == pytest.approx((p.argmax(axis=1) == q.argmax(axis=1)).mean())
    assert summary["base_loss"] == pytest.approx(base.loss(ids), abs=1e-5)
    assert summary["tuned_loss"] == pytest.approx(tuned.loss(ids), abs=1e-5)
    risen = (np.exp(p) - np.exp(q)).mean(axis=0)
    assert [row["id"] for row in found.gained] == np.argsort(-risen)[:5].tolist()
    assert [row["id"] for row in found.lost] == np.argsort(risen)[:5].tolist()
    for row in found.gained + found.lost:
        assert list(row) == ["id", "text", "change"] and row["change"] == pytest.approx(risen[row["id"]])


def test_the_stream_equals_the_reference(config):
    base, tuned = tuned_of(config)
    ids = random_ids(config, 2, 9)
    found = trace(base, tuned, ids, top=7)
    before, after = (reference.kept(model, ids)[0] for model in (base, tuned))
    blocks = [row["name"] for row in found.modules if row["kind"] == "block"]
    places = [(blocks[0], 0), *((name, 1) for name in blocks)]
    head = "lm_head.weight"
    final = next((row["name"] for row in found.modules if row["kind"] == "norm" and row["layer"] is None), None)
    assert found.stream.dtype == np.float32 and found.stream.shape == (4, 2, 9)
    for place, (name, side) in enumerate(places):
        h, h_new = (each[name][side] for each in (before, after))
        if h.shape[-1] > config.get("hidden_size", h.shape[-1]):  # several streams: the final norm reads their sum
            h, h_new = (each.reshape(2, 9, -1, config["hidden_size"]).sum(axis=2) for each in (h, h_new))
        truth = np.linalg.norm(h_new - h, axis=-1) / np.linalg.norm(h, axis=-1)
        assert found.stream[place] == pytest.approx(truth, rel=SINGLE)
        row = found.layers[place]
        assert list(row) == ["layer", "change", "cosine", "says"] and row["layer"] == place
        assert row["change"] == pytest.approx(reference.change(h, h_new), rel=1e-6)
        assert row["cosine"] == pytest.approx(reference.cosine(h, h_new), rel=1e-6)
        mean, state = (h_new - h).mean(axis=(0, 1))[None], reference.weights(tuned)
        x = mean if final is None else reference.function("norm", tuned, state, final, mean, None, None)
        scores = (x @ state[head].T)[0]
        assert [token["id"] for token in row["says"]] == np.argsort(-scores)[:7].tolist()
        for token in row["says"]:
            assert list(token) == ["id", "text", "score"]
            assert token["score"] == pytest.approx(scores[token["id"]], rel=1e-4)


@pytest.mark.parametrize("layer", range(3))
def test_a_planted_change_is_its_own_in_its_layer_and_arrives_behind_it(config, layer):
    where = f".{layer}."
    base, tuned = tuned_of(config, only=where)
    found = trace(base, tuned, random_ids(config, 2, 7))
    for row in found.modules:
        if row["own_change"] is not None:
            assert (row["own_change"] > 0) == (row["layer"] == layer), row
        if row["kind"] == "block":
            assert (row["output_change"] > 0) == (row["layer"] >= layer), row
        elif row["layer"] is not None and row["layer"] < layer or row["kind"] == "embedding":
            assert row["output_change"] == 0.0 and row["cosine"] == 1.0, row
    changes = [row["change"] for row in found.layers]
    assert [change > 0 for change in changes] == [place > layer for place in range(4)]
    assert [row["says"] is not None for row in found.layers] == [place > layer for place in range(4)]


def test_one_model_beside_itself_has_not_moved(config):
    model, ids = tiny_model(config), random_ids(config, 2, 7)
    found = trace(model, model, ids)
    for row in found.modules:
        assert row["own_change"] in (None, 0.0) and row["output_change"] == 0.0 and row["cosine"] == 1.0
        assert row["input_change"] == (None if row["kind"] in ("embedding", "model") else 0.0)
    assert found.layers == [{"layer": l, "change": 0.0, "cosine": 1.0, "says": None} for l in range(4)]
    assert not found.stream.any() and found.gained == found.lost == []
    assert all(row["kl"] == 0.0 and row["base_top"] == row["tuned_top"] for row in found.tokens)
    assert found.summary["agreement"] == 1.0 and found.summary["base_loss"] == found.summary["tuned_loss"]
    assert found.fields is None


def adapted(config, folder, **options):
    """(base, base with a random adapter, the adapter's folder)"""
    base, tuned = tiny_model(config), tiny_model(config)
    options = {"r": 3, "target_modules": "all-linear", "init_lora_weights": False, **options}
    tuned.add_adapter(llmc.LoraConfig(**options))
    rng = np.random.default_rng(1)
    for name, array in tuned.trained().items():
        array += 0.05 * rng.standard_normal(array.shape)
    tuned.save_adapter(folder)
    return base, tuned, folder


def test_an_adapter_is_traced_through_its_factors_as_the_merged_weights_are(config, tmp_path):
    base, tuned, folder = adapted(config, tmp_path / "adapter", modules_to_save=["lm_head"])
    ids = random_ids(config, 2, 9)
    found, beside = trace(base, tuned, ids), trace(base, folder, ids)
    assert beside.modules == found.modules and beside.tokens == found.tokens and beside.layers == found.layers
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a tied head no longer is
        merged = by_name(trace(base, tuned.merge_and_unload(), ids))
    for name, row in by_name(found).items():
        for key in ("own_change", "output_change", "cosine"):
            other = merged[name][key]
            assert row[key] == (other if other is None else pytest.approx(other, rel=1e-3, abs=1e-6)), (name, key)


def test_an_adapters_folder_leaves_the_base_as_it_was(tmp_path):
    config = TINY["llama"]
    base, tuned, folder = adapted(config, tmp_path / "adapter", target_modules="domain")
    ids = random_ids(config, 1, 8)
    before = base(ids)
    trace(base, folder, ids)
    assert not base.adapters and np.array_equal(base(ids), before)
    base.add_adapter(llmc.LoraConfig(r=2, target_modules="mlp", init_lora_weights=False))
    own = base(ids)
    found = by_name(trace(base, folder, ids))
    assert base.active_adapters() == ["default"] and np.array_equal(base(ids), own)
    assert found["model.layers.1.mlp.up_proj"]["own_change"] == 0.0
    assert found["model.layers.1.self_attn.q_proj"]["own_change"] > 0
    base.disable_adapters()
    plain = trace(base, folder, ids)
    assert np.array_equal(base(ids), before)
    assert plain.tokens == trace(tiny_model(config), folder, ids).tokens


def test_an_adapter_that_is_refused_leaves_the_base_as_it_was(tmp_path):
    base, _, folder = adapted(TINY["llama"], tmp_path / "adapter")
    other = tiny_model(TINY["mistral"])
    with pytest.raises((llmc.ShapeError, llmc.CheckpointError, llmc.ConfigError)):
        trace(other, folder, random_ids(TINY["mistral"], 1, 5))
    assert not other.adapters


def test_folders_are_opened_one_after_the_other_and_give_the_same(config, tmp_path):
    base, tuned = tuned_of(config)
    for name, model in (("base", base), ("tuned", tuned)):
        model.save_pretrained(tmp_path / name)
    ids = [random_ids(config, 2, 9), random_ids(config, 1, 5, seed=3)]
    found, opened = trace(base, tuned, ids), trace(tmp_path / "base", tmp_path / "tuned", ids)
    assert opened.title == "base → tuned"
    for part in ("modules", "layers", "tokens", "summary", "gained", "lost"):
        assert getattr(opened, part) == getattr(found, part)
    assert all(map(np.array_equal, opened.stream, found.stream))


def test_a_pair_of_a_folder_and_an_adapter_is_a_side(tmp_path):
    config = TINY["gpt2"]
    base, tuned, folder = adapted(config, tmp_path / "adapter")
    base.save_pretrained(tmp_path / "base")
    ids = random_ids(config, 2, 6)
    truth = trace(base, tuned, ids).modules
    assert trace(tmp_path / "base", (tmp_path / "base", folder), ids).modules == truth
    assert trace(tmp_path / "base", folder, ids).modules == truth
    back = by_name(trace((tmp_path / "base", folder), base, ids))
    assert all(row["own_change"] > 0 for row in back.values() if row["kind"] == "linear")
    assert all(row["own_change"] == 0 for row in trace((base, folder), (base, folder), ids).modules
               if row["own_change"] is not None)


def test_several_batches_count_as_one(config):
    base, tuned = tuned_of(config)
    ids = random_ids(config, 4, 8)
    whole, pieces = trace(base, tuned, ids), trace(base, tuned, list(ids))
    assert [row | {"kl": None, "base_logprob": None, "tuned_logprob": None} for row in pieces.tokens] == [
        row | {"kl": None, "base_logprob": None, "tuned_logprob": None} for row in whole.tokens]
    assert isinstance(pieces.stream, list) and [each.shape for each in pieces.stream] == [(4, 1, 8)] * 4
    assert np.concatenate(pieces.stream, axis=1) == pytest.approx(whole.stream, rel=1e-4, abs=1e-6)
    for row, other in zip(pieces.modules, whole.modules):
        for key in MODULE[4:]:
            assert row[key] == (other[key] if other[key] is None else pytest.approx(other[key], rel=1e-4, abs=1e-6))
    assert pieces.summary == pytest.approx(whole.summary, rel=1e-4)


@pytest.mark.parametrize("tied", [True, False])
def test_vocabularies_that_differ_are_compared_where_they_agree(tied):
    config = {**TINY["llama"], "tie_word_embeddings": tied}
    base, tuned = tuned_of(config)
    ids = random_ids({"vocab_size": 90}, 2, 9)
    plain = trace(base, tuned, ids)
    larger = tiny_model({**config, "vocab_size": 113})
    for name, array in tuned._parameters.items():
        larger._parameters[name][: len(array)] = array
    for found in (trace(base, larger, ids), trace(tuned, base, ids)):
        assert all(row["base_top"] < 107 and row["tuned_top"] < 107 for row in found.tokens)
    found = trace(base, larger, ids)
    for part in ("modules", "layers", "tokens", "gained", "lost"):
        for row, other in zip(getattr(found, part), getattr(plain, part)):
            assert row.keys() == other.keys()
            for key in row:
                if isinstance(row[key], float):
                    assert row[key] == pytest.approx(other[key], rel=1e-4, abs=1e-7), (part, key)
                elif key != "says":
                    assert row[key] == other[key], (part, key)
    with pytest.raises(llmc.DataError, match="110"):
        trace(base, larger, [[1, 110]])


def test_labels_say_what_is_learnt():
    config = TINY["gpt2"]
    base, tuned = tuned_of(config)
    ids = random_ids(config, 2, 9)
    labels = ids.copy()
    labels[:, :5] = -100
    found = trace(base, tuned, ids, labels=labels)
    assert [row["next"] for row in found.tokens[:9]] == [None] * 4 + ids[0, 5:].tolist() + [None]
    assert found.summary["base_loss"] == pytest.approx(base.loss(ids, labels), abs=1e-5)
    nothing = trace(base, tuned, ids, labels=np.full_like(ids, -100))
    assert nothing.summary["base_loss"] is None and nothing.tokens[0]["next"] is None


def test_narrow_weights_are_traced(tmp_path):
    config = TINY["llama"]
    base, tuned = tuned_of(config, size=0.05)
    for name, model in (("base", base), ("tuned", tuned)):
        model.save_pretrained(tmp_path / name)
    ids = random_ids(config, 2, 9)
    plain = by_name(trace(base, tuned, ids))
    for dtype in ("bfloat16", "int8"):
        sides = [llmc.Model.from_pretrained(tmp_path / name, dtype=dtype) for name in ("base", "tuned")]
        for row in trace(*sides, ids).modules:
            if row["own_change"] is not None:
                assert row["own_change"] == pytest.approx(plain[row["name"]]["own_change"], rel=0.15)


def test_numbers_that_are_not_finite_are_none():
    base, tuned = tuned_of(TINY["gpt2"])
    tuned._parameters["transformer.h.1.mlp.c_fc.weight"][0, 0] = np.inf
    found = trace(base, tuned, random_ids(TINY["gpt2"], 1, 6))
    row = by_name(found)["transformer.h.1.mlp.c_fc"]
    assert row["output_change"] is row["own_change"] is None and row["input_change"] > 0
    assert found.tokens[0]["kl"] is None and found.summary["kl_mean"] is None
    json.dumps(found.to_dict(), allow_nan=False)


class Scenes:
    """What a trace asks of a SceneDataset."""

    def __init__(self, items, spans):
        self.items, self._spans, self.scenes = items, spans, [None] * len(items)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]

    def spans(self, index):
        return self._spans[index]


def test_fields_of_scenes_are_means_over_their_tokens():
    config = TINY["llama"]
    base, tuned = tuned_of(config)
    items, spans = [], []
    for index, length in enumerate((9, 12)):
        ids = random_ids(config, length, seed=index)
        items.append({"input_ids": ids, "labels": np.where(np.arange(length) < 6, -100, ids),
                      "attention_mask": np.ones_like(ids)})
        named = "fear" if index else "trust"
        borders = [("template", 0, 1), (named, 1, 4), ("template", 4, 6), ("response", 6, length)]
        spans.append([{"field": field, "role": "user", "start": start, "stop": stop} for field, start, stop in borders])
    found = trace(base, tuned, Scenes(items, spans))
    assert [row["field"] for row in found.fields] == ["template", "trust", "response", "fear"]
    assert [row["tokens"] for row in found.fields] == [6, 3, 9, 3]
    rows = {row["field"]: row for row in found.fields}
    of_response = [token for token in found.tokens if token["position"] >= 6]
    assert rows["response"]["kl"] == pytest.approx(np.mean([token["kl"] for token in of_response]))
    truth = np.concatenate([found.stream[0][:, 0, 6:], found.stream[1][:, 0, 6:]], axis=1).mean(axis=1)
    assert rows["response"]["change"] == pytest.approx(truth.tolist(), rel=1e-6)
    assert list(rows["response"]) == ["field", "tokens", "kl", "change"] and len(rows["fear"]["change"]) == 4


@pytest.fixture(scope="module")
def found():
    config = TINY["llama"]
    mask = np.ones((2, 8), int)
    mask[1, 5:] = 0
    return trace(*tuned_of(config), random_ids(config, 2, 8), attention_mask=mask)


def test_top_is_the_largest_first(found):
    rows = found.top(4)
    values = sorted((row["own_change"] for row in found.modules if row["own_change"] is not None), reverse=True)
    assert [row["own_change"] for row in rows] == values[:4]
    assert len(found.top(500, by="output_change")) == len(found.modules)
    with pytest.raises(llmc.UnknownNameError, match="own_change"):
        found.top(3, by="own_chang")
    with pytest.raises(llmc.ConfigError):
        found.top(0)


def test_json_holds_everything_and_reads_back_equal(found, tmp_path):
    found.save(tmp_path / "trace.json")
    read = json.loads((tmp_path / "trace.json").read_text(), parse_constant=pytest.fail)
    assert (read["format"], read["version"]) == ("llmc-trace", 1)
    assert {"modules", "layers", "tokens", "stream", "summary", "gained", "lost", "fields"} <= set(read)
    assert read["stream"][0][1][5:] == [None] * 3
    again = Trace.from_dict(read)
    assert again == found and again.stream.dtype == np.float32
    assert np.array_equal(again.stream, found.stream, equal_nan=True)
    with pytest.raises(llmc.DataError, match="llmc-trace"):
        Trace.from_dict({**read, "version": 2})


def test_several_batches_read_back_equal():
    base, tuned = tuned_of(TINY["gpt2"])
    found = trace(base, tuned, [random_ids(TINY["gpt2"], 2, 5), random_ids(TINY["gpt2"], 1, 7)])
    assert Trace.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_csv_holds_the_modules(found, tmp_path):
    found.save(tmp_path / "trace.csv")
    with open(tmp_path / "trace.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == MODULE
    for read, row in zip(rows, found.modules, strict=True):
        assert (float(read["own_change"]) if read["own_change"] else None) == row["own_change"]
        assert read["layer"] == ("" if row["layer"] is None else str(row["layer"]))


@pytest.mark.parametrize("ending", [".png", ".pdf", ".svg"])
def test_plot_draws_what_the_ending_says_to_the_same_bytes(found, tmp_path, ending):
    for name in ("one", "two"):
        found.plot(tmp_path / f"{name}{ending}", by="output_change")
    assert (tmp_path / f"one{ending}").read_bytes() == (tmp_path / f"two{ending}").read_bytes()


def test_other_endings_are_refused(found, tmp_path):
    with pytest.raises(llmc.ConfigError, match=".html"):
        found.save(tmp_path / "trace.png")
    with pytest.raises(llmc.ConfigError, match=".svg"):
        found.plot(tmp_path / "trace.csv")
    with pytest.raises(llmc.UnknownNameError):
        found.plot(tmp_path / "trace.png", by="kl")
    assert not list(tmp_path.iterdir())


def test_the_page_shows_every_token_and_needs_nothing_else(found, tmp_path):
    found.save(tmp_path / "trace.html")
    text = (tmp_path / "trace.html").read_text()
    page = Page(text)
    assert not {"script", "link", "img", "iframe"} & set(page.tags) and "http" not in text
    assert ("id", "trace") in page.attributes and "prefers-color-scheme: dark" in text
    assert [int(value) for name, value in page.attributes if name == "data-token"] == list(range(13))
    assert page.tags.count("tr") > 4 and text.count('title="layer 3, ') == 13
    for row in found.top(12):
        assert row["name"] in page.texts
    tips = [value for name, value in page.attributes if name == "title" and "base: " in value]
    token = found.tokens[3]
    assert tips[3].splitlines()[2:4] == [f"base: {token['base_top']}", f"tuned: {token['tuned_top']}"]


def test_the_page_shows_texts_as_texts(tmp_path):
    config = {**TINY["gpt2"], "vocab_size": 300}
    tokenizer = llmc.Tokenizer.train(["<b>&\"quoted\"</b>\n" * 40], vocab_size=300, min_frequency=10**6)
    base, tuned = tuned_of(config)
    found = trace(base, tuned, tokenizer.encode('<b onclick="x">\n</b>'), tokenizer=tokenizer)
    found.title = "<script>alert(1)</script>"
    found.save(tmp_path / "trace.html")
    page = Page((tmp_path / "trace.html").read_text())
    assert not {"b", "script"} & set(page.tags) and "<" in page.texts and "⏎\n" in page.texts
    assert Page(found._repr_html_()).texts


def test_the_page_of_scenes_and_of_batches_has_all_their_tokens():
    config = TINY["llama"]
    base, tuned = tuned_of(config)
    items = [{"input_ids": random_ids(config, n, seed=n)} for n in (3, 5)]
    spans = [[{"field": "response", "role": "assistant", "start": 0, "stop": n}] for n in (3, 5)]
    text = in_page(trace(base, tuned, Scenes(items, spans)))
    assert "By scene field" in text and text.count("data-token=") == 8 and text.count('<p class="text">') == 2
    assert Page(text).attributes.count(("id", "trace")) == 1


def test_it_prints_what_moved_most(found):
    text = str(found)
    assert "llama → llama" in text and found.top(1)[0]["name"] in text and "gained: " in text and "kl_mean" in text


def test_a_tokenizer_gives_the_texts(tmp_path):
    config = {**TINY["llama"], "vocab_size": 300}
    tokenizer = llmc.Tokenizer.train([llmc.data.builtin_text()[:20000]], vocab_size=300)
    base, tuned = tuned_of(config)
    ids = tokenizer.encode("a door is listening")
    found = trace(base, tuned, ids, tokenizer=tokenizer, top=3)
    assert "".join(row["text"] for row in found.tokens) == "a door is listening"
    for row in (*found.gained, *found.layers[2]["says"]):
        assert row["text"] == tokenizer.decode([row["id"]])
    assert len(found.gained) == len(found.lost) == len(found.layers[1]["says"]) == 3
    tuned.save_pretrained(tmp_path / "tuned")
    tokenizer.save_pretrained(tmp_path / "tuned")
    assert trace(base, tmp_path / "tuned", ids).tokens[0]["text"] == found.tokens[0]["text"]
    assert trace(base, tuned, ids).tokens[0]["text"] is None


def test_the_same_call_gives_the_same_bits(config):
    base, tuned = tuned_of(config)
    ids = random_ids(config, 2, 9)
    assert trace(base, tuned, ids) == trace(base, tuned, ids)


def test_what_cannot_be_traced_is_refused_in_words(tmp_path):
    llama, gpt2, ids = tiny_model(TINY["llama"]), tiny_model(TINY["gpt2"]), random_ids(TINY["llama"], 1, 5)
    with pytest.raises(llmc.ConfigError, match="tuned has no module model"):
        trace(llama, gpt2, ids)
    with pytest.raises(llmc.ConfigError, match="tuned has no module model.layers.2"):
        trace(llama, tiny_model({**TINY["llama"], "num_hidden_layers": 2}), ids)
    with pytest.raises(llmc.ConfigError, match=r"has shape \[37, 44\] in base and \[41, 44\] in tuned"):
        trace(llama, tiny_model({**TINY["llama"], "intermediate_size": 41}), ids)
    with pytest.raises(TypeError, match="folder with another, not dict"):
        trace(llama, {}, ids)
    with pytest.raises(TypeError, match="not a text"):
        trace(llama, llama, "a text")
    with pytest.raises(llmc.DataError):
        trace(llama, llama, [])
    with pytest.raises(llmc.ConfigError, match="top is 0"):
        trace(llama, llama, ids, top=0)
    with pytest.raises(FileNotFoundError):
        trace(llama, tmp_path / "nowhere", ids)
    adapted(TINY["llama"], tmp_path / "adapter")
    with pytest.raises(llmc.ConfigError, match="adapter"):
        trace(tmp_path / "adapter", llama, ids)


def test_a_diff_traces_a_text_and_reads_it_back(tmp_path):
    config = {**TINY["llama"], "vocab_size": 300}
    tokenizer = llmc.Tokenizer.train([llmc.data.builtin_text()[:20000]], vocab_size=300)
    base, tuned = tuned_of(config, only=".1.")
    tuned.save_pretrained(tmp_path / "tuned")
    tokenizer.save_pretrained(tmp_path / "tuned")
    diff = llmc.checkpoint.diff(base, tmp_path / "tuned", text=["a door is", "listening"], max_tokens=4)
    assert isinstance(diff.trace, Trace) and diff.trace.summary["tokens"] == 4
    ids = tokenizer.encode("a door is")
    assert diff.trace.tokens[0]["text"] == tokenizer.decode([ids[0]])
    assert [row["id"] for row in diff.trace.tokens[: min(4, len(ids))]] == ids[:4]
    for ending in ("json", "html"):
        diff.save(tmp_path / f"diff.{ending}")
        again = llmc.checkpoint.Diff.load(tmp_path / f"diff.{ending}")
        assert again == diff and again.trace == diff.trace
    text = (tmp_path / "diff.html").read_text()
    assert text.count('id="trace"') == 1 and text.count("data-token=") == 4
    ids = np.arange(20).reshape(2, 10)
    assert llmc.checkpoint.diff(base, tuned, text=ids, max_tokens=13).trace.summary["tokens"] == 13


def test_a_text_longer_than_the_context_becomes_several_rows():
    config = {**TINY["gpt2"], "n_positions": 8}
    base, tuned = tuned_of(config)
    found = llmc.checkpoint.diff(base, tuned, text=random_ids(config, 21)).trace
    assert [each.shape[2] for each in found.stream] == [8, 8, 5]


def test_a_scene_of_a_text_is_whole_or_left_out():
    config = TINY["llama"]
    base, tuned = tuned_of(config)
    items = [{"input_ids": random_ids(config, n, seed=n), "labels": random_ids(config, n, seed=n)} for n in (6, 9, 4)]
    spans = [[{"field": f"f{n}", "role": "user", "start": 0, "stop": n}] for n in (6, 9, 4)]
    found = llmc.checkpoint.diff(base, tuned, text=Scenes(items, spans), max_tokens=12).trace
    assert [row["field"] for row in found.fields] == ["f6", "f4"] and found.summary["tokens"] == 10
    with pytest.raises(llmc.DataError, match="max_tokens=3"):
        llmc.checkpoint.diff(base, tuned, text=Scenes(items, spans), max_tokens=3)
