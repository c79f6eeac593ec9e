"""LIM where tokens are not alike: by token, without the first of a row, and where one position holds most of it."""

import importlib
import json

import numpy as np
import pytest
from conftest import TINY

import llmc
from llmc.analysis import METRICS, lim
from llmc.analysis.report import most_changed
from llmc.analysis.sinks import spans
from llmc.cli import main

IDS = np.random.default_rng(3).integers(5, 100, (3, 9))
MASK = np.ones_like(IDS)
MASK[1, :4] = MASK[2, 6:] = 0


def model(family="llama"):
    return llmc.Model(llmc.Config(**TINY[family]), seed=4)


def kept(of, ids=IDS, mask=MASK):
    run = of.run(*ids.shape, keep="all")
    run.forward(ids, attention_mask=mask)
    return run


@pytest.mark.parametrize("skip", (0, 2))
def test_lim_per_token_is_the_mean_of_each_tokens_ratio(family, skip):
    of = model(family)
    run, report = kept(of), lim(of, IDS, MASK, metrics=("lim", "lim_per_token"), skip_first=skip)
    counted = MASK.astype(bool) & (np.cumsum(MASK, axis=1) > skip)
    assert report.tokens == counted.sum()
    for row in report.rows:
        if row["shape_case"] != "same":
            continue
        x, y = (array[counted].astype(np.float64) for array in (run.input(row["name"]), run.output(row["name"])))
        apart, whole = np.linalg.norm(y - x, axis=1), np.linalg.norm(x, axis=1)
        assert row["lim_per_token"] == pytest.approx((apart / whole).mean(), rel=1e-5)
        assert row["lim"] == pytest.approx(np.sqrt((apart**2).sum() / (whole**2).sum()), rel=1e-5)


def test_skipping_leaves_the_first_real_tokens_out_of_every_metric_and_their_labels_out_of_the_loss():
    of = model()
    report = lim(of, IDS, MASK, metrics="all", skip_first=2)
    labels = np.where((np.cumsum(MASK, axis=1) > 2) & (MASK == 1), IDS, -100)
    plain = lim(of, IDS, MASK, metrics="all", labels=labels)
    assert report.metrics == METRICS
    for row, other in zip(report.rows, plain.rows):
        assert row["ablation"] == other["ablation"]
    run, counted = kept(of), MASK.astype(bool) & (np.cumsum(MASK, axis=1) > 2)
    name = "model.layers.1.mlp"
    x, y = (array[counted].astype(np.float64) for array in (run.input(name), run.output(name)))
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    aligned = np.linalg.norm(x.T @ y) ** 2 / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)
    assert next(row for row in report.rows if row["name"] == name)["cka"] == pytest.approx(aligned, rel=1e-5)


def test_a_report_says_what_was_left_out(tmp_path):
    report = lim(model(), IDS, skip_first=2)
    assert report.text == "21 tokens, without the first 2 of each row" and report.text in str(report)
    report.save(tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["skip_first"] == 2


@pytest.mark.parametrize("skip,kind,words", (
    (-1, llmc.ConfigError, "skip_first"),
    ("two", TypeError, "skip_first"),
    (9, llmc.DataError, "ids: no row has more than skip_first=9 tokens"),
))  # fmt: skip
def test_what_cannot_be_skipped_is_refused(skip, kind, words):
    with pytest.raises(kind, match=words):
        lim(model(), IDS, skip_first=skip)


def with_sink():
    """A model in which token 7 is far longer than all others."""
    of = model()
    weights = of.state_dict()
    weights["model.embed_tokens.weight"][...] *= 0.01
    weights["model.embed_tokens.weight"][7] *= 5000
    return of


def test_a_position_that_holds_most_of_the_norm_is_named_in_report_page_and_file(tmp_path):
    ids = np.concatenate([np.full((3, 1), 7), np.where(IDS == 7, 8, IDS)], axis=1)
    of = with_sink()
    report = lim(of, ids)
    blocks = {sink["layer"]: sink for sink in report.sinks if sink["name"] in ("model.layers.0", "model.layers.1")}
    x = kept(of, ids, np.ones_like(ids)).input("model.layers.1").astype(np.float64)
    share = (x[:, 0] ** 2).sum() / (x**2).sum()
    assert blocks[1]["position"] == 0 and blocks[1]["share"] == pytest.approx(share, rel=1e-6)
    assert report.notes[0].startswith("position 0 holds ") and "% of the squared norm in layers 0" in report.notes[0]
    assert report.notes[0] in str(report) and report.notes[0] in report._repr_html_()
    assert report.to_dict()["notes"] == report.notes
    assert not lim(of, ids, skip_first=1).notes
    report.plot(str(tmp_path / "r.png"))


def test_positions_are_counted_without_padding_and_pieces_see_the_same(monkeypatch):
    ids = np.concatenate([np.full((3, 1), 7), np.where(IDS == 7, 8, IDS)], axis=1)
    padded, mask = np.pad(ids, ((0, 0), (3, 0))), np.pad(np.ones_like(ids), ((0, 0), (3, 0)))
    of = with_sink()
    sinks = lim(of, padded, mask).sinks
    assert {sink["position"] for sink in sinks} == {0}
    monkeypatch.setattr(importlib.import_module("llmc.analysis.lim"), "LOGITS_AT_ONCE", 4 * of.config.vocab_size * 3)
    pieces = lim(of, padded, mask).sinks
    assert [(sink["name"], sink["position"]) for sink in pieces] == [(sink["name"], sink["position"]) for sink in sinks]


def test_layers_are_told_as_spans():
    assert spans([3]) == "layer 3" and spans([5, 3, 4, 9]) == "layers 3-5, 9"


def test_a_comparison_has_the_relative_change_and_says_what_changed_most(tmp_path, capsys):
    one, two = model(), model()
    two.state_dict()["model.layers.2.mlp.down_proj.weight"][...] *= 3
    rows = lim(one, IDS).compare(lim(two, IDS), str(tmp_path / "c.png"), names=("base", "tuned"))
    for row in rows:
        if row["relative_change"] is not None:
            assert row["relative_change"] == pytest.approx((row["tuned"] - row["base"]) / abs(row["base"]), abs=1e-12)
    assert str(most_changed(rows, ("base", "tuned"), 1)).splitlines()[2].split()[0] == "model.layers.2.mlp.down_proj"


def test_adapters_are_no_mismatches():
    of = model()
    before = lim(of, IDS).mismatches
    of.add_adapter(llmc.LoraConfig(r=2, target_modules=["q_proj"]))
    report = lim(of, IDS)
    assert report.mismatches == before and any(row["kind"] == "adapter" for row in report.rows)


def test_the_command_skips_and_compares(tmp_path, capsys):
    (tmp_path / "t.txt").write_text("Beautiful is better than ugly. " * 20)
    tok = llmc.Tokenizer.train(["Beautiful is better than ugly."], vocab_size=270)
    config = llmc.Config(**{**TINY["llama"], "vocab_size": 270})
    for name, seed in (("a", 1), ("b", 2)):
        llmc.Model(config, seed=seed).save_pretrained(tmp_path / name)
        tok.save_pretrained(tmp_path / name)
    command = ["lim", str(tmp_path / "a"), "--text", str(tmp_path / "t.txt"), "--metrics", "lim_per_token",
               "--skip-first", "1", "--compare", str(tmp_path / "b"), "--out", str(tmp_path / "c.png")]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "without the first of each row" in out and "what changed most" in out and (tmp_path / "c.png").stat().st_size
