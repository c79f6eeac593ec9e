"""What a diff and a listing are saved as: the page, JSON and CSV, the way back, pictures, what is printed."""

import base64
import csv
import hashlib
import json
import math
import re

import numpy as np
import pytest
from html_page import Page
from test_diff import UP, copied, llama, numbers, written

import llmc
from llmc.checkpoint import Diff, diff, inspect
from llmc.diff.files import NOT_IN_CSV
from llmc.diff.tensor_row import KEYS

HOSTILE = '</script><script>alert("x")</script>.0."onmouseover=alert(1).weight'


@pytest.fixture(scope="module")
def found():
    """A diff of tensors that changed, came, went, are not finite, and have names that would like to be code."""
    base, tuned = llama() | {HOSTILE: numbers(4, 4)}, copied(llama()) | {HOSTILE: numbers(4, 4, seed=1)}
    tuned[UP] += numbers(36, 24, seed=3)
    tuned["model.layers.0.mlp.up_proj.weight"][0, 0] = np.inf
    del tuned["model.norm.weight"]
    return diff(base, tuned, metrics="all")


@pytest.fixture(scope="module")
def text(found, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "diff.html"
    found.save(path)
    return path.read_text(encoding="utf-8")


class Viewer(Page):
    EMPTY = (*Page.EMPTY, "link")


@pytest.mark.parametrize("ending", [".json", ".html"])
def test_what_is_loaded_equals_what_was_saved(found, tmp_path, ending):
    found.save(tmp_path / f"diff{ending}")
    again = Diff.load(tmp_path / f"diff{ending}")
    assert again == found and again.rows == found.rows and again.summary == found.summary
    assert again[HOSTILE]["status"] == "changed" and str(again) == str(found)
    again.rows[0]["changed"] = 7
    assert again != found


def test_json_has_what_any_parser_reads(found, tmp_path):
    found.save(tmp_path / "diff.json")
    value = json.loads((tmp_path / "diff.json").read_text(), parse_constant=pytest.fail)
    assert list(value) == ["format", "version", "summary", "rows", "by_layer", "by_role", "by_part", "notes", "trace"]
    assert (value["format"], value["version"], value["trace"]) == ("llmc-diff", 1, None)


def test_csv_reads_back_to_the_same_bits(found, tmp_path):
    found.save(tmp_path / "diff.csv")
    with open(tmp_path / "diff.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [key for key in KEYS if key not in NOT_IN_CSV]
    for row, truth in zip(rows, found.rows, strict=True):
        for key, value in row.items():
            expected = truth[key]
            read = None if value == "" else json.loads(value) if isinstance(expected, list) else \
                type(expected)(value) if expected is not None else value
            assert read == expected, (row["name"], key)


# --- the page --------------------------------------------------------------------------------------------------------
def test_the_page_is_whole_and_asks_no_network(text):
    page = Viewer(text)
    ids = {value for name, value in page.attributes if name == "id"}
    assert {"map", "legend", "tensors", "search", "metric", "role", "detail", "save-table", "save-row", "aggregates",
            "data"} <= ids and "trace" not in ids
    policy = next(value for name, value in page.attributes if name == "content" and "default-src" in value)
    assert policy.startswith("default-src 'none'")
    assert not re.findall(r"(?:src|href|action|url)\s*[=(]\s*[\"']?\s*(?:https?:)?//", text.split('id="data"')[0])
    assert not [value for name, value in page.attributes if name in ("src", "href") or name.startswith("on")]


def test_script_and_style_are_those_that_the_policy_names(text):
    policy = re.search(r'content="(default-src[^"]*)"', text)[1]
    for kind, start in (("script", "<script>"), ("style", "<style>")):
        body = text.split(start)[-1].split(f"</{kind}>")[0]
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy


def test_names_from_files_are_text_on_the_page(found, text):
    assert text.count("<script") == text.count("</script>") == 2  # the data and the viewer
    assert "alert(1)" in text and 'alert("x")</script>' not in text
    assert Viewer(text).texts[1].startswith("a mapping") or "→" in text
    assert json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])["rows"] == found.rows


def test_the_title_names_both_sides(tmp_path):
    sides = [written(tmp_path / name, llama(), None) for name in ("<one>", "two & three")]
    diff(*sides, metrics="change").save(tmp_path / "x.html")
    title = re.search("<title>(.*?)</title>", (tmp_path / "x.html").read_text(encoding="utf-8"))[1]
    assert "&lt;one&gt; → " in title and "two &amp; three" in title


def test_the_page_is_small(tmp_path):
    base = {f"layers.{i}.w.weight": numbers(80, 80, seed=i) for i in range(40)}
    tuned = {name: array + numbers(80, 80, seed=99) for name, array in base.items()}
    diff(base, tuned).save(tmp_path / "x.html")
    assert (tmp_path / "x.html").stat().st_size < 200_000 + 6_000 * 40


# --- bad files, other endings ----------------------------------------------------------------------------------------
def test_another_ending_is_refused_and_nothing_is_written(found, tmp_path):
    for call in (lambda: found.save(tmp_path / "x.txt"), lambda: found.plot(tmp_path / "x.html"),
                 lambda: found.save(tmp_path / "x")):
        with pytest.raises(llmc.ConfigError):
            call()
    with pytest.raises(llmc.UnknownNameError, match="relative_change"):
        found.plot(tmp_path / "x.png", by="relativ_change")
    with pytest.raises(llmc.UnknownNameError):
        found.top(by="name")
    with pytest.raises(llmc.UnknownNameError, match="up_proj"):
        found["model.layers.1.mlp.up_prj.weight"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content, words", [
    ("", "neither the JSON"), ("{", "neither the JSON"), ("[]", "not 'llmc-diff'"),
    ('{"format": "llmc-listing"}', "format"),
    ('{"format": "llmc-diff", "version": 2}', "version 2"), ('{"format": "llmc-diff", "version": 1}', "no 'summary'"),
    ("<html></html>", "neither the JSON"),
])  # fmt: skip
def test_what_is_no_diff_is_not_loaded(tmp_path, content, words):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(llmc.DataError, match=words):
        Diff.load(tmp_path / "x.json")
    with pytest.raises(FileNotFoundError):
        Diff.load(tmp_path / "nowhere.json")


@pytest.mark.parametrize("ending", [".png", ".pdf", ".svg"])
def test_it_draws_layers_by_parts(found, tmp_path, ending):
    for i, by in enumerate(("relative_change", "signal_rank")):
        found.plot(tmp_path / f"{i}{ending}", by=by)
        assert (tmp_path / f"{i}{ending}").stat().st_size > 5000
    one = diff({"x": numbers(3)}, {"x": numbers(3)})
    one.plot(tmp_path / f"one{ending}")


def test_it_prints_itself(found):
    out = str(found)
    assert "full" in out and UP in out and "missing" in out and "not finite" in out and "relative_change" in out
    assert found.text(0).count(UP) == 0


# --- a listing -------------------------------------------------------------------------------------------------------
def test_a_listing_says_what_is_inside_without_reading_it(tmp_path, monkeypatch):
    folder = written(tmp_path / "base", llama(), None, max_shard_size=9000)
    with monkeypatch.context() as patched:
        patched.setattr("llmc.checkpoint.formats.entry.Entry.read_into", lambda *_: pytest.fail("a number was read"))
        listing = inspect(folder)
    row = next(row for row in listing.rows if row["name"] == UP)
    assert list(row) == ["name", "role", "layer", "part", "shape", "dtype", "numbers", "bytes", "file"]
    assert (row["role"], row["layer"], row["part"], row["shape"], row["dtype"], row["numbers"], row["bytes"]) == (
        "feed-forward", 1, "mlp.up_proj", [36, 24], "float32", 36 * 24, 4 * 36 * 24)
    assert row["file"].startswith("model-0000")
    assert [row["name"] for row in listing.rows] == llmc.checkpoint.open(folder).names()
    assert sum(total["tensors"] for total in listing.totals) == len(llama())
    assert {"role": "feed-forward", "dtype": "float32", "tensors": 6, "numbers": 6 * 864,
            "bytes": 24 * 864} in listing.totals


def test_statistics_are_over_the_finite_numbers(tmp_path):
    tensors = llama()
    tensors[UP][0, :4] = [np.nan, np.inf, 0, 0]
    tensors["odd"] = np.full(3, np.nan, np.float32)
    listing = inspect(written(tmp_path / "base", tensors, None), stats=True, spectrum=True)
    rows = {row["name"]: row for row in listing.rows}
    finite = tensors[UP][np.isfinite(tensors[UP])].astype(np.float64)
    truth = dict(minimum=finite.min(), maximum=finite.max(), mean=finite.mean(), std=finite.std(),
                 norm=np.linalg.norm(finite), zeros=2, nonfinite=2)
    assert {key: rows[UP][key] for key in truth} == pytest.approx(truth, rel=1e-12)
    assert rows["odd"]["mean"] is rows["odd"]["norm"] is None and rows["odd"]["nonfinite"] == 3
    other = "model.layers.0.mlp.up_proj.weight"
    sigma = np.linalg.svd(tensors[other].astype(np.float64), compute_uv=False)
    assert rows[other]["singular_values"] == pytest.approx(sigma, rel=1e-6)
    assert rows[UP]["spectral_norm"] is rows["model.norm.weight"]["spectral_norm"] is None
    assert any(UP in line for line in listing.notes)


def test_a_listing_is_saved_and_sorted(tmp_path):
    tensors = {f"h.{i}.{HOSTILE}": numbers(i, 2) for i in (10, 9, 1)}
    listing = inspect(written(tmp_path / "base", tensors, None), stats=True)
    for ending in (".json", ".csv", ".html"):
        listing.save(tmp_path / f"x{ending}")
    value = json.loads((tmp_path / "x.json").read_text())
    assert (value["format"], value["rows"], value["totals"]) == ("llmc-listing", listing.rows, listing.totals)
    page = (tmp_path / "x.html").read_text(encoding="utf-8")
    assert page.count("<script") == 2 and json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1]) == value
    Viewer(page)
    order = [int(line.split(".")[1]) for line in str(listing.table()).splitlines() if line.startswith("h.")]
    assert order == [1, 9, 10]
    with pytest.raises(llmc.ConfigError, match="saved as"):
        listing.save(tmp_path / "x.png")


def test_the_folder_of_an_adapter_is_listed(tmp_path):
    from conftest import TINY

    model = llmc.Model(llmc.Config(**TINY["llama"]))
    model.add_adapter(llmc.LoraConfig(r=2, target_modules=["q_proj"]))
    model.save_adapter(tmp_path)
    assert {total["role"] for total in inspect(tmp_path).totals} == {"adapter"}
    assert math.prod(inspect(tmp_path, match="*lora_A*").rows[0]["shape"]) == 2 * 44
    with pytest.raises(llmc.UnknownNameError, match="nearest"):
        inspect(tmp_path, match="base_model.model.model.layers.0.self_attn.q_proj.lora_C.weight")
