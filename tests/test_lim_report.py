"""Reports of LIM: rows, files, pages, pictures, comparisons, rank correlation, refusals, and the command."""

import csv
import json
import sys
import types

import lim_reference as reference
import matplotlib.image
import numpy as np
import pytest
from conftest import TINY
from html_page import Page
from tiny import random_ids, tiny_model

import llmc
from llmc.analysis import METRICS, lim
from llmc.analysis.lim_grid import scale
from llmc.analysis.ranks import rank_correlation
from llmc.cli import main

CHEAP = METRICS[:5]


@pytest.fixture(scope="module")
def report():
    """Every metric of a small GPT-2 with one dead value projection, over two batches."""
    config = TINY["gpt2"]
    model = tiny_model(config)
    model.state_dict()["transformer.h.1.attn.c_attn.weight"][:, 2 * 39 :] = 0
    model.state_dict()["transformer.h.1.attn.c_attn.bias"][2 * 39 :] = 0
    return lim(model, [random_ids(config, 2, 6), random_ids(config, 1, 6, seed=1)], metrics=METRICS)


def test_rows_have_a_column_for_every_metric():
    row = lim(tiny_model(TINY["llama"]), random_ids(TINY["llama"], 1, 4), metrics=("lim", "block_influence")).rows[0]
    assert list(row) == ["name", "kind", "layer", "shape_case", "input_shape", "output_shape", "lim", "block_influence"]


def test_csv_holds_every_row(report, tmp_path):
    report.save(tmp_path / "lim.csv")
    with open(tmp_path / "lim.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [row["name"] for row in report.rows]
    for read, row in zip(rows, report.rows):
        assert read["input_shape"] == str(list(row["input_shape"]))
        assert (float(read["lim"]) if read["lim"] else None) == row["lim"]


def test_json_holds_everything_and_is_strict(report, tmp_path):
    report.save(tmp_path / "lim.json")
    read = json.loads((tmp_path / "lim.json").read_text(), parse_constant=lambda word: pytest.fail(word))
    assert [row["name"] for row in read["rows"]] == [row["name"] for row in report.rows]
    assert [row["ablation"] for row in read["rows"]] == [row["ablation"] for row in report.rows]
    assert read["mismatches"] == report.mismatches and read["rank_correlation"] == report.rank_correlation
    assert (read["tokens"], read["metrics"]) == (18, list(METRICS))


def test_the_page_is_self_contained_and_whole(report, tmp_path):
    report.save(tmp_path / "lim.html")
    text = (tmp_path / "lim.html").read_text()
    page = Page(text)
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert not {"src", "href"} & {name for name, _ in page.attributes} and "http" not in text
    for row in report.rows:
        assert row["name"] in text
    assert text.count('class="gone"') > 0 and "corner" in text and "is zero and the output is not" in text


def test_a_notebook_shows_the_heat_maps(report):
    text = report._repr_html_()
    assert all(metric in text for metric in METRICS) and "<html" not in text


def test_the_printed_report_says_what_predicts_the_ablation(report):
    text = str(report)
    assert "gpt2" in text and "18 tokens in 2 batches" in text
    table = text[text.index("rank correlation with the ablation") :].splitlines()[3:9]
    assert [line.split()[0] for line in table] == list(METRICS[:6])
    assert all(line.split()[1][0] in "+-n" for line in table)
    assert "layer transformer.h.1.attn.c_proj: the input is zero and the output is not: no lim" in text


def test_rank_correlation_is_spearmans(report):
    blocks = [row for row in report.rows if row["kind"] in ("attention", "feed-forward")]
    for metric in CHEAP:
        truth = reference.spearman([row[metric] for row in blocks], [row["ablation"] for row in blocks])
        assert report.rank_correlation[metric]["branches"] == pytest.approx(truth)


def test_rank_correlation_of_ties_orders_and_too_little():
    assert rank_correlation([1, 2, 3], [10, 20, 90]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [9, 5, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 1, 2, 5], [3, 1, 1, 0]) == pytest.approx(reference.spearman([1, 1, 2, 5], [3, 1, 1, 0]))
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is None
    assert rank_correlation([1, None, 2], [1, 2, 3]) is None


def test_plot_draws_a_picture(report, tmp_path):
    for metric in METRICS:
        report.plot(tmp_path / f"{metric}.png", metric=metric)
        pixels = matplotlib.image.imread(tmp_path / f"{metric}.png")
        assert pixels.shape[0] > 300 and pixels.shape[1] > 800 and pixels.std() > 0.05


@pytest.mark.parametrize("ending, begins", [(".pdf", b"%PDF"), (".svg", b"<?xml")])
def test_plot_draws_what_the_ending_says_to_the_same_bytes(report, tmp_path, ending, begins):
    for name in ("one", "two"):
        report.plot(tmp_path / f"{name}{ending}")
    one, two = ((tmp_path / f"{name}{ending}").read_bytes() for name in ("one", "two"))
    assert one.startswith(begins) and one == two


def test_the_picture_grows_with_the_model(tmp_path):
    heights = []
    for layers in (2, 12):
        config = {**TINY["llama"], "num_hidden_layers": layers}
        lim(tiny_model(config), random_ids(config, 1, 4)).plot(tmp_path / "lim.png")
        heights.append(matplotlib.image.imread(tmp_path / "lim.png").shape[0])
    assert heights[1] > heights[0] + 10 * 30


def test_compare_draws_before_and_after_an_adapter(tmp_path):
    config = TINY["mistral"]
    model, ids = tiny_model(config), random_ids(config, 2, 6)
    before = lim(model, ids)
    model.add_adapter(llmc.LoraConfig(r=2, target_modules="attention", layers_to_transform=[1]))
    for name, array in model.state_dict().items():
        if "lora_B" in name:
            array += 1
    after = lim(model, ids)
    rows = {row["name"]: row for row in before.compare(after, tmp_path / "both.png", names=("base", "tuned"))}
    height, width = matplotlib.image.imread(tmp_path / "both.png").shape[:2]
    assert width < 11 * 170 < height  # one below the other, so that they can be read at the width of a page
    assert list(rows) == [row["name"] for row in before.rows]
    assert rows["model.layers.0"]["difference"] == 0 and rows["model.layers.1"]["difference"] != 0
    row = rows["model.layers.1.self_attn"]
    assert row["difference"] == row["tuned"] - row["base"]
    assert rows["model.embed_tokens"]["difference"] is None


def test_to_dataframe_gives_pandas_the_rows(report, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", types.SimpleNamespace(DataFrame=lambda rows: ("frame", rows)))
    assert report.to_dataframe() == ("frame", report.rows)


def test_without_pandas_to_dataframe_says_what_to_do(report, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        report.to_dataframe()


@pytest.mark.parametrize("metric, values", [
    ("lim", [0, 1e-9, 0.3, 7]), ("ablation", [-2, 0.0, 1e-4, 5]), ("negative_cosine", [-1, 0.2]), ("lim", [0.0]),
    ("lim", []), ("cka", [1.0]),
])  # fmt: skip
def test_colours_rise_with_the_value(metric, values):
    colours = scale(metric, values)
    places = [colours.place(value) for value in values]
    assert places == sorted(places) and all(0 <= place <= 1 for place in places)
    assert all(len(colours.colour(value)) == 7 for value in values)
    ticks = [value for value, _ in colours.ticks()]
    assert ticks == sorted(ticks) and 0 in ticks


# Refusals


def refused(error, match, *args, **kwargs):
    model = tiny_model(TINY["gpt2"])
    before = {name: array.copy() for name, array in model.state_dict().items()}
    with pytest.raises(error, match=match):
        lim(model, *args, **kwargs)
    assert all(np.array_equal(array, before[name]) for name, array in model.state_dict().items())


IDS = random_ids(TINY["gpt2"], 2, 5)


def test_empty_text_is_refused():
    refused(llmc.DataError, "the text is empty", [])
    refused(llmc.DataError, "the text is empty", np.zeros((1, 0), int))
    refused(llmc.DataError, "the text is empty", iter([]))
    refused(llmc.DataError, "batch 1: the text is empty", [IDS, IDS[:, :0]])
    refused(llmc.DataError, "nothing but padding", IDS, attention_mask=np.zeros((2, 5), int))


def test_unknown_metrics_are_refused_with_the_nearest_names():
    metrics = ("lim", "block_influense")
    refused(llmc.UnknownNameError, "'block_influense'.*nearest: block_influence", IDS, metrics=metrics)
    refused(llmc.ConfigError, "metrics is empty", IDS, metrics=())


def test_projections_are_one_of_two_words():
    refused(llmc.ConfigError, "projections='mean': 'truncate' or 'feature-mean'", IDS, projections="mean")


def test_wrong_types_are_refused():
    refused(TypeError, "not a text", "once upon a time")
    refused(TypeError, "must be integers", IDS * 0.5)
    refused(TypeError, "not int", 3)
    with pytest.raises(TypeError, match="llmc.Model"):
        lim("model", IDS)


def test_ids_masks_and_labels_must_belong_together():
    refused(llmc.DataError, "outside", IDS + 1000)
    refused(llmc.ShapeError, "attention_mask has shape", IDS, attention_mask=np.ones((2, 4), int))
    refused(llmc.ShapeError, "one for each batch", [IDS, IDS], attention_mask=np.ones((2, 5), int))
    refused(llmc.ShapeError, "batch 1: labels has no entry", [IDS, IDS], labels=[IDS], metrics=("ablation",))
    refused(llmc.DataError, "no label of a batch counts", IDS[:, :1], metrics=("ablation",))


def test_reports_refuse_what_they_cannot_do(report, tmp_path):
    with pytest.raises(llmc.ConfigError, match=r"\.csv, \.json or \.html"):
        report.save(tmp_path / "lim.xlsx")
    with pytest.raises(llmc.UnknownNameError, match="nearest: block_influence"):
        report.plot(tmp_path / "x.png", metric="block_influenc")
    with pytest.raises(llmc.ConfigError, match=r"x.gif: a picture is drawn as .png, .pdf or .svg"):
        report.plot(tmp_path / "x.gif")
    with pytest.raises(TypeError, match="with a report"):
        report.compare(report.rows)
    other = lim(tiny_model(TINY["llama"]), random_ids(TINY["llama"], 1, 4))
    with pytest.raises(llmc.ConfigError, match="no block of"):
        report.compare(other)
    assert list(tmp_path.iterdir()) == []


# The command


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder with a model and its tokenizer, and a text."""
    folder = tmp_path_factory.mktemp("model")
    text = "the quick brown fox jumps over the lazy dog. " * 30
    tokenizer = llmc.Tokenizer.train([text], vocab_size=290)
    config = {**TINY["llama"], "vocab_size": tokenizer.vocab_size}
    tiny_model(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "text.txt").write_text(text)
    return folder


def test_the_command_prints_and_writes(checkpoint, tmp_path, capsys):
    out = [str(tmp_path / f"lim{ending}") for ending in (".png", ".svg", ".html", ".csv", ".json")]
    words = ["lim", str(checkpoint), "--text", str(checkpoint / "text.txt"), "--metrics", "all", "--block-size", "16"]
    assert main([*words, "--max-tokens", "64", "--batch-size", "2", "--out", *out]) == 0
    said = capsys.readouterr().out
    assert f"{checkpoint.name} (" in said and "64 tokens of text.txt in 2 batches" in said
    assert "rank correlation with the ablation" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "lim.csv", "lim.html", "lim.json", "lim.png", "lim.svg"]
    assert json.loads((tmp_path / "lim.json").read_text())["metrics"] == list(METRICS)


def test_the_command_compares_with_an_adapter(checkpoint, tmp_path, capsys):
    model = llmc.Model.from_pretrained(checkpoint)
    model.add_adapter(llmc.LoraConfig(r=2, target_modules="mlp"))
    model.save_adapter(tmp_path / "adapter")
    words = ["lim", str(checkpoint), "--text", str(checkpoint / "text.txt"), "--compare", str(tmp_path / "adapter")]
    assert main([*words, "--max-tokens", "32", "--out", str(tmp_path / "both.png")]) == 0
    assert (tmp_path / "both.png").stat().st_size > 10000


def test_the_command_refuses_in_one_line(checkpoint, tmp_path, capsys):
    words = ["lim", str(checkpoint), "--text", str(checkpoint / "text.txt")]
    assert main([*words, "--metrics", "limm"]) == 1
    assert "there is no metric 'limm'; nearest: lim" in capsys.readouterr().err
    assert main([*words, "--out", "lim.gif"]) == 2
    assert main([*words, "--compare", str(checkpoint), "--out", "lim.csv"]) == 2
    (tmp_path / "empty.txt").write_text("")
    assert main(["lim", str(checkpoint), "--text", str(tmp_path / "empty.txt")]) == 1
    assert capsys.readouterr().err.count("\n") == 3
