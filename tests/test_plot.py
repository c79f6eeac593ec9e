"""Several trainings in one picture: what is drawn, what is printed, and what cannot stand side by side."""

import json

import numpy as np
import pytest

import llmc
from llmc.cli import main
from llmc.show import curves


def run(folder, losses=(), evaluations=None):
    """An output folder with a log of these losses, from step 1, and evaluations {step: loss}."""
    folder.mkdir(parents=True)
    entries = [{"step": step, "loss": loss} for step, loss in enumerate(losses, 1)]
    entries += [{"step": step, "eval_loss": loss, "perplexity": 1.0} for step, loss in (evaluations or {}).items()]
    entries.sort(key=lambda entry: entry["step"])
    (folder / "log.jsonl").write_text("".join(json.dumps(each) + "\n" for each in entries))
    return str(folder)


@pytest.fixture
def two(tmp_path):
    """Two runs, whose folders have names alike."""
    rng = np.random.default_rng(0)
    made = []
    for place, name in enumerate(("a", "b")):
        losses = (6 - place) * np.exp(-np.arange(300) / 80) + 2 + 0.1 * rng.standard_normal(300)
        held = {step: float(losses[max(step - 1, 0)]) + 0.2 for step in (0, 1, 2, 4, 8, 16, 32, 64, 128, 256)}
        made.append(run(tmp_path / name / "out", losses, held))
    return made


@pytest.fixture
def drawn(monkeypatch):
    """The panels that are drawn."""
    seen, draw = [], curves.draw
    monkeypatch.setattr("llmc.train.together.draw", lambda panels, *rest, **named: (
        seen.extend(panels), draw(panels, *rest, **named)))  # fmt: skip
    return seen


@pytest.mark.parametrize("ending, begins", [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")])
def test_a_picture_and_a_row_for_each_run(two, drawn, tmp_path, capsys, ending, begins):
    path = tmp_path / f"loss{ending}"
    assert main(["plot", *two, "--out", str(path)]) == 0
    assert path.read_bytes().startswith(begins)
    assert [panel.title for panel in drawn] == ["training", "held out"]
    assert [[line.name for line in panel.series] for panel in drawn] == [["a/out", "b/out"]] * 2
    assert drawn[1].series[0].x.tolist() == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256]
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert [(row[0], row[1], row[-1]) for row in rows] == [("a/out", "300", "256"), ("b/out", "300", "256")]


def test_over_the_logarithm_an_evaluation_stands_at_its_step_and_one(two, drawn, tmp_path):
    assert main(["plot", *two, "--log", "--out", str(tmp_path / "loss.png")]) == 0
    training, held_out = drawn
    assert training.logarithmic and held_out.logarithmic
    assert held_out.series[1].x.tolist() == [1, 2, 3, 5, 9, 17, 33, 65, 129, 257]
    assert training.series[0].x[0] == 1


def test_runs_without_evaluations_have_one_panel(drawn, tmp_path):
    names = [run(tmp_path / name, [3.0, 2.5, 2.0]) for name in "ab"]
    assert main(["plot", *names, "--out", str(tmp_path / "loss.png")]) == 0
    assert [panel.title for panel in drawn] == ["training"]


def test_what_cannot_be_drawn_is_said(two, tmp_path, capsys):
    def says(words):
        assert main(["plot", *map(str, words), "--out", str(tmp_path / "loss.png")]) == 1
        return capsys.readouterr().err.strip()

    (tmp_path / "empty").mkdir()
    assert "no log.jsonl in it" in says([tmp_path / "empty"])
    assert "no log.jsonl in it" in says([tmp_path / "nowhere"])
    assert "no loss in it yet" in says([run(tmp_path / "begun")])
    assert "is the same folder as" in says([two[0], two[0] + "/"])
    for name, size in zip(two, (300, 310)):
        llmc.Tokenizer.train([llmc.data.builtin_text()[:9000]], vocab_size=size).save_pretrained(name)
    assert "different vocabularies (300 and 310 tokens)" in says(two)
    assert main(["plot", two[0], "--out", "x.jpg"]) == 2
    assert not (tmp_path / "loss.png").exists()
