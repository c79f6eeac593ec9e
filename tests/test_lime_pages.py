"""The figures, tables and page of LIMe's paper, from numbers."""

import csv
import json
import re
from html import escape

import numpy as np
import pytest

import llmc
from llmc.lime import printed
from llmc.lime.drawings import DRAWINGS, write_pictures
from llmc.lime.pages import write_page
from llmc.lime.sheets import SHEETS, arithmetic_rows, write_tables

L, HEADS = 4, 2
NAMES = ["llama", "lime", "lime1-static", "lime1-dynamic", "hc"]
FILES = """fig01_loss_per_flops fig02_mean_retrieval fig03_self_retrieval_heads fig04_expected_representation
fig05_entropy_values fig06_tsne_values fig07_separability_values fig08_deep_losses fig09_pruned_retrieval
fig10_self_retrieval fig11_entropy_hiddens fig12_separability_hiddens fig13_router_heatmaps fig14_deep_heatmap
fig15_tsne_hiddens aet aet_curves""".split()


def numbers_of(L=L, heads=HEADS, names=NAMES, steps=60):
    """Everything that numbers.json may hold, made up; as JSON gives it back."""
    rng, routed = np.random.default_rng(0), names[1:3]
    weights = np.tril(rng.random((L, heads, L)).transpose(1, 0, 2)).transpose(1, 0, 2)
    weights /= weights.sum(axis=-1, keepdims=True)

    def curve(key):
        return {key: (1e15 * np.arange(1, steps + 1)).tolist(),
                "loss": (3 + 4 * np.exp(-np.arange(steps) / 12) + rng.normal(0, 0.1, steps)).tolist()}  # fmt: skip

    def by_layer(*keys):
        return {name: {key: (0.1 + 0.2 * rng.random(L)).tolist() for key in keys} for name in names}

    def cloud():
        return {"points": rng.normal(0, 1, (2, 60, 2)).tolist(), "labels": [7] * 30 + [9] * 30, "layers": [0, L - 1]}

    def series():
        return {name: rng.random(L).tolist() for name in routed}

    rows = [dict(layer=2, representation=1, head=h, tokens=[3, 5], logits=[2.5, 1.25], words=[" a", "<b>"], prior=0.3,
                 bin=1) for h in range(30)]  # fmt: skip
    table6 = [dict(name=name, parameters=10**9 + i, parameters_change=1e-9 * i, flops=3 * 10**12 + i, flops_change=0.01,
                   train_memory=7, inference_memory=0) for i, name in enumerate(names)]  # fmt: skip
    numbers = {
        "fig01": {name: curve("flops") for name in names},
        "fig02": {name: [*rng.random(L - 1), None] for name in routed},
        "fig03": {name: rng.random((L, heads)).tolist() for name in routed}, "fig04": series(),
        "fig05": by_layer("mean", "std"), "fig06": {name: cloud() for name in names[:2]},
        "fig07": by_layer("accuracy", "std"), "fig08": {f"{name}-{depth}": curve("tokens") for name in names[:2]
                                                        for depth in (4, 8)},
        "fig09": {"mean_retrieval": [*rng.random(L - 1), None], "self_retrieval": rng.random(L).tolist()},
        "fig10": series(), "fig11": by_layer("mean", "std"), "fig12": by_layer("accuracy", "std"),
        "fig13": {name: weights.tolist() for name in routed}, "fig14": weights.tolist(),
        "fig15": {name: cloud() for name in names[:2]}, "table2": rows,
        "table3": [dict(setting="learning_rate", value=1e-3)], "table4": [dict(field="hidden_size", value=2048)],
        "table5": [dict(layers=32, weights=4216, table_total=7936), dict(layers=4, weights=18, table_total=24, pruned=3,
                                                                         share=1 / 6, table_share=1 / 8)],
        "table6": table6,
        "aet": {"llama": {"3": [0.5, 0.6], "4": [0.1, 0.2]}, "lime": {"3": [0.9, 0.8], "4": [0.4]}},
        "aet_curves": {name: {"3": {"steps": [0, 5], "losses": [[3.0, 1.0], [3.0, 1.5]]}} for name in names[:2]},
    }  # fmt: skip
    return json.loads(json.dumps(numbers, allow_nan=False))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(folder, numbers) of a page with everything."""
    out, numbers = tmp_path_factory.mktemp("lime"), numbers_of()
    write_pictures(numbers, out, words={7: " is", 9: " was"})
    write_tables(numbers, out)
    write_page(numbers, out, left_out=["table1_benchmarks.csv: lm-eval is not installed"])
    return out, numbers


def test_every_figure_and_table_has_its_file(written):
    out, _ = written
    expected = {f"{name}.png" for name in FILES} | {f"{file}.csv" for key, (file, _) in SHEETS.items()
                                                   if key != "table1"}  # fmt: skip
    assert {path.name for path in out.iterdir()} == expected | {"index.html"}
    assert all(path.stat().st_size > 8000 for path in out.glob("*.png"))
    assert [drawing.file for drawing in DRAWINGS.values()] == FILES


def test_the_page_holds_everything_and_asks_for_nothing(written):
    out, _ = written
    text = (out / "index.html").read_text()
    assert len(re.findall(r'src="data:image/png;base64,', text)) == len(FILES)
    assert not re.search(r'(?:src|href)="(?!data:|#)', text) and "<script" not in text and "http" not in text
    for key, drawing in DRAWINGS.items():
        assert f'id="{key}"' in text and drawing.title in text
    assert "lm-eval is not installed" in text and "6 more" in text and "&lt;b&gt;" in text and "<b>" not in text
    for why in (*printed.TABLE6_WHY.values(), printed.TABLE5_WHY, printed.AET_WHY):
        assert escape(why) in text
    assert "55.0 ± 5.0 % of 2 seeds" in text


def test_tables_read_back(written):
    out, numbers = written
    with open(out / "table2_circuits.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 30 and json.loads(rows[3]["words"]) == [" a", "<b>"] and json.loads(rows[3]["tokens"]) == [3, 5]
    with open(out / "table5_pruning.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["pruned"] == "" and float(rows[1]["share"]) == numbers["table5"][1]["share"]
    with open(out / "aet.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7 and [rows[-1][key] for key in ("model", "operands", "seed", "accuracy")] == [
        "lime", "4", "0", "0.4"]  # fmt: skip


def test_arithmetic_is_compared_seed_by_seed():
    entry = {"llama": {"3": [0.5, 0.6]}, "lime": {"3": [0.9, 0.5], "4": [0.4]}}
    rows = arithmetic_rows(entry)
    lime = [row for row in rows if row["model"] == "lime" and row["operands"] == 3]
    assert [row["over_llama"] for row in lime] == pytest.approx([0.4, -0.1])
    assert {key: lime[0][key] for key in ("mean", "std", "over_llama_mean", "over_llama_std", "better")} \
        == pytest.approx(dict(mean=0.7, std=0.2, over_llama_mean=0.15, over_llama_std=0.25, better=1))  # fmt: skip
    assert all(row["over_llama"] is None and row["better"] is None for row in rows
               if row["model"] == "llama" or row["operands"] == 4)  # fmt: skip


def test_some_figures_leave_the_others_as_they_are(tmp_path):
    numbers = numbers_of()
    assert [path.rpartition("/")[2] for path in write_pictures(numbers, tmp_path, ["fig02", "aet"])] == [
        "fig02_mean_retrieval.png", "aet.png"]  # fmt: skip
    before = (tmp_path / "aet.png").stat().st_mtime_ns
    write_pictures(numbers, tmp_path, ["fig04"])
    assert (tmp_path / "aet.png").stat().st_mtime_ns == before
    write_tables(numbers, tmp_path, ["table6"])
    write_page({key: numbers[key] for key in ("fig02", "fig05", "table6")}, tmp_path)
    text = (tmp_path / "index.html").read_text()
    assert text.count("data:image/png") == 1, "figure 5 has numbers and no picture yet"
    assert {path.name for path in tmp_path.glob("*.csv")} == {"table6_efficiency.csv"}


def test_the_same_numbers_draw_the_same_bytes(tmp_path):
    found = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (path,) = write_pictures(numbers_of(), tmp_path / name, ["fig05"])
        found.append(open(path, "rb").read())
    assert found[0] == found[1]


@pytest.mark.parametrize("layers, share", [(32, 23.2), (64, 21.1), (128, 18.9)])
def test_the_papers_shares_are_of_its_own_totals(layers, share):
    pruned, total = printed.TABLE5[layers]
    assert total == 8 * layers * (layers - 1) and round(100 * pruned / total, 1) == share
    weights = 8 * (layers * (layers + 1) // 2 - 1)
    assert f"{weights:,}" in printed.TABLE5_WHY and f"{100 * pruned / weights:.1f}" in printed.TABLE5_WHY


def test_what_the_paper_prints_of_a_llama_is_what_is_counted():
    config = llmc.Config("llama", vocab_size=50257, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
                         num_attention_heads=32, tie_word_embeddings=True)  # fmt: skip
    row = llmc.analysis.flops_table({"llama": config})[0]
    assert printed.TABLE6["llama"] == (f"{row['parameters'] / 1e9:.4f}", "", f"{row['flops'] / 1e12:.2f}", "")
