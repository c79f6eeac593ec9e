"""llmc scenes, and scenes as data of llmc lora, train and eval: from faults to which field a response comes from."""

import json
import os

import pytest

import llmc
from llmc.cli import main
from llmc.data import JsonlDataset, SceneDataset

pytest.importorskip("yaml", reason="scenes are read with llmc's extra `scenes`")

SCENE = """\
id: s{0}
intent_vector: {{fear: 0.{0}}}
scene_architecture: {{place: door}}
arch_tension: 0.{0}
prompt: What happens?
response: The door {1}.
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Scenes, faulty ones, and a base with its tokenizer."""
    folder = tmp_path_factory.mktemp("scenes")
    (folder / "scenes").mkdir()
    for number in range(1, 9):
        text = SCENE.format(number, "opens" if number % 2 else "waits")
        (folder / "scenes" / f"{number}.yaml").write_text(text)
    (folder / "bad.yaml").write_text("intent_vector: a\nprompt: yes\nresponse: r\n---\nscene_architecture: [.inf]\n")
    texts = [path.read_text() for path in (folder / "scenes").iterdir()] * 20
    tok = llmc.Tokenizer.train(texts, vocab_size=350, special_tokens=["<|endoftext|>"])
    llmc.Model(llmc.Config(model_type="llama", vocab_size=len(tok), hidden_size=32, num_hidden_layers=2,
                           num_attention_heads=2, intermediate_size=48, max_position_embeddings=256)
               ).save_pretrained(folder / "base")  # fmt: skip
    tok.save_pretrained(folder / "base")
    return folder


def run(folder, *words):
    """`llmc` with words, of which "@name" is a file of the folder."""
    return main([str(folder / word[1:]) if word.startswith("@") else word for word in words])


def test_every_fault_is_a_line_and_the_status_is_1(folder, capsys):
    assert run(folder, "scenes", "@scenes", "@bad.yaml") == 1
    out, err = capsys.readouterr()
    where = folder / "bad.yaml"
    assert out == "" and err.splitlines() == [
        f"{where}:1: scene_architecture: missing", f"{where}:1: arch_tension: missing",
        f"{where}:2: prompt: true to YAML, not text; quote it", f"{where}:5: intent_vector: missing",
        f"{where}:5: arch_tension: missing", f"{where}:5: response: missing",
        f"{where}:5: scene_architecture[0]: inf is not finite"]  # fmt: skip


def test_statistics_are_printed_with_tokens_where_there_is_a_tokenizer(folder, capsys):
    assert run(folder, "scenes", "@scenes/*.yaml") == 0
    out = capsys.readouterr().out
    assert "scenes" in out and "tokens" not in out and "intent_vector" in out and "duplicates" in out
    assert run(folder, "scenes", "@scenes", "--tokenizer", "@base") == 0
    data = SceneDataset(folder / "scenes", llmc.Tokenizer.from_pretrained(folder / "base"))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["tokens", f"{data.statistics()['tokens']:,}"] in lines


def test_a_scene_is_shown_with_its_learnt_part_marked(folder, capsys):
    assert run(folder, "scenes", "@scenes", "--show", "s3", "--fields", "prompt") == 0
    assert capsys.readouterr().out == "### prompt\nWhat happens?\n\n### response\n⟦The door opens.⟧\n"
    assert run(folder, "scenes", "@scenes", "--show", "s3", "--template", "chatml") == 0
    assert "<|im_start|>assistant\n⟦The door opens.<|im_end|>\n⟧" in capsys.readouterr().out
    assert run(folder, "scenes", "@scenes", "--show", "s99") == 1
    assert "no scene has the id 's99'; nearest: s" in capsys.readouterr().err


def test_json_lines_are_written_those_held_out_apart(folder, tmp_path, capsys):
    assert main(["scenes", str(folder / "scenes"), "--to-jsonl", str(tmp_path / "all.jsonl")]) == 0
    assert main(["scenes", str(folder / "scenes"), "--to-jsonl", str(tmp_path / "a.jsonl"), "--held-out", "0.25"]) == 0
    assert "a.held-out.jsonl: 2 scenes" in capsys.readouterr().err
    rows = {name: [json.loads(line)["prompt"] for line in (tmp_path / name).read_text().splitlines()]
            for name in ("all.jsonl", "a.jsonl", "a.held-out.jsonl")}  # fmt: skip
    assert sorted(rows["a.jsonl"] + rows["a.held-out.jsonl"]) == sorted(rows["all.jsonl"]) and len(rows["a.jsonl"]) == 6
    tok = llmc.Tokenizer.from_pretrained(folder / "base")
    _, held = SceneDataset(folder / "scenes", tok).split(0.25)
    assert rows["a.held-out.jsonl"] == [held.render(index).prompt for index in range(2)]
    assert len(JsonlDataset(tmp_path / "a.jsonl", tok, 256)) == 6


@pytest.mark.parametrize("words, message", [
    (("--base", "@base"), "--base goes with --model"), (("--out", "x.png"), "--out goes with --model"),
    (("--held-out", "0.1"), "--held-out goes with --to-jsonl"), (("--to-jsonl", "x.txt"), "are written as .jsonl"),
    (("--model", "@base", "--out", "x.txt"), "x.txt ends in .txt; --out takes .png"),
    (("--fields", "id"), "fields: 'id' is a word of scene files"),
    (("--required", "mood"), "required: 'mood' is no field"),
])  # fmt: skip
def test_words_that_cannot_be_are_wrong_usage(folder, capsys, words, message):
    assert run(folder, "scenes", "@scenes", *words) == 2
    assert message in capsys.readouterr().err


def test_a_missing_tokenizer_or_file_is_said(folder, tmp_path, capsys):
    assert run(folder, "scenes", "@no.yaml") == 1 and "no.yaml: there is no such file" in capsys.readouterr().err
    assert run(folder, "scenes", "@scenes", "--tokenizer", str(tmp_path)) == 1
    assert "no tokenizer in it; name one with --tokenizer DIR" in capsys.readouterr().err


def test_the_flow_from_scenes_to_an_adapter_and_what_it_learnt(folder, tmp_path, capsys):
    adapter = tmp_path / "adapter"
    flags = ["--max-steps", "20", "--learning-rate", "0.01", "--r", "4", "--disable-tqdm", "--save-steps", "10"]
    assert run(folder, "lora", "@base", "@scenes", "--held-out", "0.25", "--output-dir", str(adapter), *flags) == 0
    assert "6 items of up to 256 tokens, 2 held out" in capsys.readouterr().err
    assert main(["lora", "--resume", "--output-dir", str(adapter), "--max-steps", "22"]) == 0
    capsys.readouterr()
    losses = []
    for model in (folder / "base", adapter):
        assert main(["eval", str(model), "--text", str(folder / "scenes")]) == 0
        losses.append(float(capsys.readouterr().out.splitlines()[2].split()[-3]))
    assert losses[1] < losses[0] - 0.5
    files = [str(tmp_path / f"fields.{ending}") for ending in ("json", "csv", "html", "png", "svg", "pdf")]
    assert run(folder, "scenes", "@scenes", "--model", str(adapter), "--base", "@base", "--out", *files) == 0
    out = capsys.readouterr().out
    assert "learnt" in out and "arch_tension" in out and all(map(os.path.getsize, files))
    with open(files[0]) as file:
        report = json.load(file)
    assert {row["field"] for row in report["rows"]} == {"intent_vector", "scene_architecture", "arch_tension", "prompt"}


def test_a_model_is_trained_on_scenes_from_scratch(folder, tmp_path, capsys):
    sizes = "--hidden-size 32 --num-hidden-layers 1 --vocab-size 300 --max-steps 3 --disable-tqdm".split()
    assert run(folder, "train", "@scenes", "--output-dir", str(tmp_path / "new"), *sizes) == 0
    capsys.readouterr()
    assert run(folder, "train", "@scenes/1.yaml", "@scenes/2.yaml", "--eval-data", "@scenes", "--model", "@base",
               "--output-dir", str(tmp_path / "on"), "--max-steps", "2", "--disable-tqdm") == 0  # fmt: skip
    assert "2 blocks of up to 256 tokens, 8 held out" in capsys.readouterr().err
    assert run(folder, "train", "@bad.yaml", "--model", "@base", "--output-dir", str(tmp_path / "bad")) == 1
    assert "bad.yaml:1: scene_architecture: missing; and 6 more: llmc scenes lists all" in capsys.readouterr().err


def test_scenes_and_text_are_not_mixed(folder, capsys):
    (folder / "text.txt").write_text("some text")
    assert run(folder, "lora", "@base", "@text.txt", "@scenes", "--output-dir", "@never") == 2
    assert "holds scenes, and the other files do not; give one kind" in capsys.readouterr().err


def test_a_diff_traces_scenes_field_by_field(tmp_path, capsys):
    text = "a well, a tower, the door listens, response ### scene_architecture intent_vector arch_tension"
    tok = llmc.Tokenizer.train([text] * 3, vocab_size=300)
    config = llmc.Config(vocab_size=tok.vocab_size, hidden_size=16, intermediate_size=16, num_hidden_layers=2,
                         num_attention_heads=2, bos_token_id=None, eos_token_id=None, max_position_embeddings=512)
    for name, seed in (("base", 1), ("tuned", 2)):
        llmc.Model(config, seed=seed).save_pretrained(tmp_path / name)
        tok.save_pretrained(tmp_path / name)
    scenes = [llmc.data.Scene(place, {"scene_architecture": {"place": place}, "intent_vector": {"fear": 0.7},
                                      "arch_tension": 0.8}, f"The {place} listens.") for place in ("well", "tower")]
    llmc.data.write_scenes(scenes, tmp_path / "s.yaml")
    words = ["diff", tmp_path / "base", tmp_path / "tuned", "--text", tmp_path / "s.yaml", "--out", tmp_path / "d.json"]
    assert main([str(word) for word in words]) == 0
    trace = llmc.checkpoint.Diff.load(tmp_path / "d.json").trace
    fields = {row["field"] for row in trace.fields}
    assert trace.source == "s.yaml"
    assert {"scene_architecture", "intent_vector", "arch_tension", "response"} <= fields
    (tmp_path / "tuned" / "tokenizer.json").unlink()
    (tmp_path / "base" / "tokenizer.json").unlink()
    assert main([str(word) for word in words]) == 2 and "neither side has a tokenizer" in capsys.readouterr().err
