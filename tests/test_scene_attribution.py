"""Which field a response comes from: a planted truth is found, and every number is what its words say."""

import csv
import gc
import itertools
import json
import weakref

import numpy as np
import pytest
from html_page import Page

import llmc
from llmc.analysis import scene_attribution
from llmc.data import Scene, SceneDataset
from llmc.errors import ConfigError, DataError, UnknownNameError

pytest.importorskip("yaml", reason="scenes are rendered with llmc's extra `scenes`")

FEARS, PLACES, TENSIONS = ("hope", "fear", "calm", "rage"), ("door", "hill", "lake", "room"), (0.1, 0.4, 0.6, 0.9)
WORDS = ("opens wide", "waits here", "leans back", "breaks now")
FIELDS = ["intent_vector", "scene_architecture", "arch_tension"]


def scenes(plant):
    """All 64 scenes; the words of a response are those of the field `plant` alone."""
    found = []
    for number, places in enumerate(itertools.product(range(4), repeat=3)):
        values = (FEARS[places[0]], {"place": PLACES[places[1]]}, TENSIONS[places[2]])
        found.append(Scene(f"s{number}", dict(zip(FIELDS, values)), f"It {WORDS[places[FIELDS.index(plant)]]}."))
    return found


@pytest.fixture(scope="module")
def tok():
    texts = [f"### {field}\n" for field in FIELDS] + [f"### response\nIt {word}." for word in WORDS]
    return llmc.Tokenizer.train(texts * 20, vocab_size=400, special_tokens=["<|endoftext|>"])


def trained(model, data, steps=60, lr=5e-3):
    """The model after some steps on all scenes."""
    batch = llmc.data.collate(list(data))
    run = model.run(*batch["input_ids"].shape, backward=True)
    optimizer = llmc.AdamW(model, lr=lr, betas=(0.9, 0.98), weight_decay=0.0)
    for _ in range(steps):
        run.forward_backward(batch["input_ids"], labels=batch["labels"], attention_mask=batch["attention_mask"])
        optimizer.step(run)
    return model


def new_model(tok, seed=0):
    return llmc.Model(llmc.Config(
        model_type="llama", vocab_size=len(tok), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=128, initializer_range=0.1), seed=seed)  # fmt: skip


@pytest.fixture(scope="module")
def planted(tok, tmp_path_factory):
    """(data, folder of a base whose responses come from the place, that of an adapter that moved it to the tension)."""
    folder = tmp_path_factory.mktemp("planted")
    base = trained(new_model(tok), SceneDataset(scenes("scene_architecture"), tok), steps=90)
    base.save_pretrained(folder / "base")
    tok.save_pretrained(folder / "base")
    data = SceneDataset(scenes("arch_tension"), tok)
    model = llmc.Model.from_pretrained(folder / "base")
    model.add_adapter(llmc.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
    trained(model, data, steps=90).save_adapter(folder / "adapter")
    return data, folder / "base", folder / "adapter"


@pytest.fixture(scope="module")
def report(planted):
    data, base, adapter = planted
    return scene_attribution(adapter, data, base=base)


def test_the_field_that_the_response_was_made_of_is_on_top_by_far(report, planted):
    first, *rest = report.by_field
    assert first["field"] == "arch_tension" and first["effect"] > 0.3
    assert all(abs(row["effect"]) < first["effect"] / 3 for row in rest)
    assert first["learnt"] == first["effect"] - first["base_effect"] and first["learnt"] > first["effect"] / 2
    before = scene_attribution(planted[1], SceneDataset(scenes("scene_architecture"), planted[0].tokenizer))
    assert before.by_field[0]["field"] == "scene_architecture" and before.by_field[0]["effect"] > 0.3
    assert all(abs(row["effect"]) < before.by_field[0]["effect"] / 3 for row in before.by_field[1:])


def test_the_effect_stands_at_the_tokens_that_differ(report):
    """A response is "It", the words, a full stop and the end; only the words depend on anything."""
    sums = {}
    for token in report.tokens:
        sums.setdefault(token["text"], []).append(token["effects"]["arch_tension"])
    means = {text: np.mean(values) for text, values in sums.items()}
    assert means["<|endoftext|>"] < 0.1 * max(means.values())


def test_a_loss_is_the_models_and_without_a_field_that_of_the_scene_rendered_so(report, planted):
    data, base, adapter = planted
    model, before = llmc.Model.from_pretrained(base), llmc.Model.from_pretrained(base)
    model.load_adapter(adapter)
    rows = {(row["scene"], row["field"]): row for row in report.rows}
    assert [(row["scene"], row["field"]) for row in report.rows] == [
        (scene.id, field) for scene in data.scenes for field in FIELDS]  # fmt: skip
    for index in (0, 17, 63):
        for field in FIELDS:
            row, item = rows[data.scenes[index].id, field], data[index]
            kept = [name for name in FIELDS if name != field]
            other = SceneDataset([data.scenes[index]], data.tokenizer, fields=kept)[0]
            assert row["tokens"] == int((item["labels"] != -100).sum())
            for prefix, each in (("", model), ("base_", before)):
                loss, without = (each.loss(x["input_ids"], labels=x["labels"]) for x in (item, other))
                assert abs(row[f"{prefix}loss"] - loss) < 1e-5 and abs(row[f"{prefix}loss_without"] - without) < 1e-5
                assert row[f"{prefix}effect"] == row[f"{prefix}loss_without"] - row[f"{prefix}loss"]
            assert row["learnt"] == row["effect"] - row["base_effect"]


def test_tokens_are_the_responses_and_their_means_the_rows(report, planted):
    data = planted[0]
    for index in (0, 40):
        scene, item = data.scenes[index], data[index]
        tokens = [token for token in report.tokens if token["scene"] == scene.id]
        assert [token["id"] for token in tokens] == item["labels"][item["labels"] != -100].tolist()
        assert [token["position"] for token in tokens] == list(range(len(tokens)))
        assert "".join(token["text"] for token in tokens) == scene.response + "<|endoftext|>"
        for row in (row for row in report.rows if row["scene"] == scene.id):
            assert abs(np.mean([token["loss"] for token in tokens]) - row["loss"]) < 1e-12
            assert abs(np.mean([token["effects"][row["field"]] for token in tokens]) - row["effect"]) < 1e-12


def test_over_scenes_the_numbers_are_weighted_by_tokens(tok):
    model = new_model(tok)
    two = [Scene("a", {"prompt": "x", "system": "y"}, "one"), Scene("b", {"prompt": "z"}, "much more " * 5)]
    data = SceneDataset(two, tok, required=())
    report = scene_attribution(model, data, batch_size=1)
    rows = {(row["scene"], row["field"]): row for row in report.rows}
    assert list(rows) == [("a", "system"), ("a", "prompt"), ("b", "prompt")]
    a, b = rows["a", "prompt"], rows["b", "prompt"]
    total = next(row for row in report.by_field if row["field"] == "prompt")
    assert total["scenes"] == 2 and total["tokens"] == a["tokens"] + b["tokens"] and a["tokens"] != b["tokens"]
    weighted = (a["tokens"] * a["effect"] + b["tokens"] * b["effect"]) / total["tokens"]
    assert abs(total["effect"] - weighted) < 1e-12 and total["learnt"] is None and a["base_loss"] is None
    assert list(total) == ["field", "scenes", "tokens", "loss", "loss_without", "effect", "base_loss",
                           "base_loss_without", "base_effect", "learnt"]  # fmt: skip
    assert list(a) == ["scene", "field", *list(total)[2:]]
    together = scene_attribution(model, data, batch_size=8)
    for one, other in zip(report.rows, together.rows, strict=True):
        assert abs(one["loss"] - other["loss"]) < 1e-5 and abs(one["loss_without"] - other["loss_without"]) < 1e-5


def test_a_model_beside_itself_has_learnt_nothing(tok):
    model, data = new_model(tok), SceneDataset(scenes("arch_tension")[:5], tok)
    assert all(row["learnt"] == 0 and row["base_loss"] == row["loss"] for row in
               scene_attribution(model, data, base=model).rows)  # fmt: skip


def test_a_response_that_nothing_stands_before_counts_from_its_second_token(tok):
    data = SceneDataset([Scene("a", {"prompt": "x"}, "one two")], tok, required=(), template={"response": ""})
    (row,) = scene_attribution(new_model(tok), data).rows
    ids = data[0]["input_ids"][data.response_start(0) :]
    assert row["tokens"] == len(ids) - 1
    assert abs(row["loss_without"] - new_model(tok).loss(ids)) < 1e-5


def test_models_and_folders_are_the_same_and_a_base_is_left_as_it_was(report, planted):
    data, base, adapter = planted
    before = llmc.Model.from_pretrained(base)
    assert scene_attribution(adapter, data, base=before).rows == report.rows
    assert not before.adapters
    model = llmc.Model.from_pretrained(adapter)  # it names its base
    assert scene_attribution(model, data, base=before).rows == report.rows
    alone = scene_attribution(adapter, data)
    assert [row["effect"] for row in alone.rows] == [row["effect"] for row in report.rows]
    with pytest.raises(ConfigError, match="base has adapters"):
        scene_attribution(adapter, data, base=model)


def test_one_model_is_in_memory_at_a_time(planted, monkeypatch):
    data, base, _ = planted
    opened, real = [], llmc.Model.from_pretrained

    def open_one(source):
        gc.collect()
        assert all(each() is None for each in opened)
        model = real(source)
        opened.append(weakref.ref(model))
        return model

    monkeypatch.setattr(llmc.Model, "from_pretrained", open_one)
    scene_attribution(str(base), data, base=base, fields=["arch_tension"])
    assert len(opened) == 2


def test_what_cannot_be_is_refused_in_words(tok, planted):
    data, base, _ = planted
    model = new_model(tok)
    for arguments, words, error, message in (
        ((model, [1]), {}, TypeError, "data is list, not a llmc.data.SceneDataset"),
        ((3, data), {}, TypeError, "model is int"), ((model, data), dict(base=3), TypeError, "base is int"),
        ((model, data), dict(fields=["tension"]), UnknownNameError, "no scene renders 'tension'; nearest: ar"),
        ((model, data), dict(fields="prompt"), TypeError, "not a list of names"),
        ((model, data), dict(batch_size=0), ConfigError, "batch_size is 0"),
        ((base / "no", data), {}, (FileNotFoundError, OSError), "no"),
        ((llmc.Model(model.config.replace(vocab_size=9)), data), {}, DataError, "vocabulary of this model"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            scene_attribution(*arguments, **words)


# Reports


def test_files_hold_everything(report, tmp_path):
    report.save(tmp_path / "fields.json")
    read = json.loads((tmp_path / "fields.json").read_text(), parse_constant=lambda word: pytest.fail(word))
    assert (read["rows"], read["by_field"], read["tokens"]) == (report.rows, report.by_field, report.tokens)
    report.save(tmp_path / "fields.csv")
    with open(tmp_path / "fields.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["effect"]) for row in rows] == [row["effect"] for row in report.rows]
    with pytest.raises(ConfigError, match="fields.txt: a report is saved as"):
        report.save(tmp_path / "fields.txt")
    with pytest.raises(ConfigError, match="a picture is drawn as"):
        report.plot(tmp_path / "fields.html")


def test_the_page_is_whole_and_shows_text_as_text(tok, report, tmp_path):
    report.save(tmp_path / "fields.html")
    page = Page((tmp_path / "fields.html").read_text())
    assert not {"script", "link", "iframe"} & set(page.tags) and {"h1", "table", "img", "span"} <= set(page.tags)
    assert all(field in page.texts for field in FIELDS)
    hostile = SceneDataset([Scene("<b>x", {"prompt": "y"}, "<script>alert(1)</script>")], tok, required=())
    scene_attribution(new_model(tok), hostile).save(tmp_path / "hostile.html")
    text = (tmp_path / "hostile.html").read_text()
    assert "script" not in Page(text).tags and "&lt;b&gt;x" in text


def test_pictures_are_drawn_and_the_report_prints_itself(report, tmp_path):
    for ending in ("png", "pdf", "svg"):
        report.plot(tmp_path / f"fields.{ending}")
        assert (tmp_path / f"fields.{ending}").stat().st_size > 1000
    text = str(report)
    assert text.index("arch_tension") < text.index("intent_vector") and "learnt" in text and "64 scenes" in text
    assert "<html" not in report._repr_html_() and "arch_tension" in report._repr_html_()
