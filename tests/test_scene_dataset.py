"""Scenes as items: rendered by a template, the response alone learnt, every token of one field, split and counted."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_json import sentencepiece, tiktoken

import llmc
from llmc.data import JsonlDataset, Scene, SceneDataset, read_scenes
from llmc.errors import ConfigError, DataError

yaml = pytest.importorskip("yaml", reason="scenes are read with llmc's extra `scenes`")

TEXT = llmc.data.builtin_text()[:40_000] + " the door — é 你好 ☃ <|im_start|> ### fear: 0.7\n" * 20
FIELDS = {"system": "You unfold scenes.", "intent_vector": {"fear": 0.7, "trust": 1}, "scene_architecture":
          {"place": "a threshold", "actors": ["the one who waits", "the door"]}, "arch_tension": 0.8,
          "prompt": "What happens?"}  # fmt: skip
SCENE = Scene("threshold-1", FIELDS, "The door is listening.\n", {"author": "k"}, ["door"])
PROMPT = """\
### system
You unfold scenes.

### intent_vector
fear: 0.7
trust: 1

### scene_architecture
place: a threshold
actors:
- the one who waits
- the door

### arch_tension
0.8

### prompt
What happens?

### response
"""


@pytest.fixture(scope="module")
def tok():
    return llmc.Tokenizer.train([TEXT], vocab_size=400, special_tokens=["<|endoftext|>"])


@pytest.fixture(scope="module", params=["ours", "sentencepiece", "tiktoken"])
def any_tok(request, tok, tmp_path_factory):
    """Tokenizers of every kind: bytes; one that begins a text with a space, and <s>; whole words."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "ours":
        return tok
    if request.param == "tiktoken":
        return tiktoken(folder, tok)
    return sentencepiece(folder, TEXT[:20_000])


def small(name="x", value="a", response="b", **more):
    """A scene of three fields."""
    return Scene(name, {"intent_vector": value, "scene_architecture": "here", "arch_tension": 1}, response, **more)


# Text


def test_the_plain_template_is_headings_and_values(tok):
    found = SceneDataset([SCENE], tok).render(0)
    assert found.prompt == PROMPT and found.response == "The door is listening."
    assert found.text == found.prompt + found.response
    assert [span[:2] for span in found.spans] == [
        ("system", "system"), ("intent_vector", "user"), ("scene_architecture", "user"), ("arch_tension", "user"),
        ("prompt", "user"), ("template", "assistant"), ("response", "assistant")]  # fmt: skip
    assert found.text[slice(*found.spans[3][2:])] == "### arch_tension\n0.8\n\n"


def test_the_chatml_template_has_turns(tok):
    found = SceneDataset([SCENE], tok, template="chatml", fields=("prompt", "system")).render(0)
    assert found.text == ("<|im_start|>system\nYou unfold scenes.<|im_end|>\n<|im_start|>user\n### prompt\nWhat "
                          "happens?\n\n<|im_end|>\n"
                          "<|im_start|>assistant\nThe door is listening.<|im_end|>\n")  # fmt: skip
    assert [(field, role) for field, role, _, _ in found.spans] == [
        ("system", "system"), ("template", "user"), ("prompt", "user"), ("template", "assistant"),
        ("response", "assistant")]  # fmt: skip


def test_a_template_of_ones_own_fills_names_and_values_once(tok):
    template = {"field": "[{field}={value}]", "response": "-> {value}", "end": "."}
    scene = small(value="{field}", response="{value}")
    assert SceneDataset([scene], tok, template=template).render(0).text == (
        "[intent_vector={field}][scene_architecture=here][arch_tension=1]-> {value}{value}.")


@pytest.mark.parametrize("value, text", [
    ("a text\n\n", "a text"), (" a\n b", " a\n b"), (0.7, "0.7"), (12, "12"), (1e22, "1e+22"), (True, "true"),
    (["a", 1], "- a\n- 1"), ({"b": {"a": [1, None]}}, "b:\n  a:\n  - 1\n  - null"), ({"é": "12:30"}, "é: '12:30'"),
    ([["x" * 300 + " y"]], "- - " + "x" * 300 + " y"),
])  # fmt: skip
def test_a_value_is_shown_as_it_stands_or_as_yaml(tok, value, text):
    found = SceneDataset([small(value=value)], tok).render(0)
    assert found.prompt.startswith(f"### intent_vector\n{text}\n\n### scene")


@pytest.mark.parametrize("template, error, message", [
    ("alpaca", ConfigError, "'alpaca', not 'plain', 'chatml'"), ({"feild": "a"}, ConfigError, "part 'feild'; nearest"),
    ({"end": 3}, TypeError, "end is int, not text"), ({"field": "a"}, ConfigError, "field is 'a', without {value}"),
    (3, TypeError, "template is int"),
])  # fmt: skip
def test_a_template_that_cannot_be_is_refused(tok, template, error, message):
    with pytest.raises(error, match=message):
        SceneDataset([SCENE], tok, template=template)


# Items


def test_the_response_alone_is_learnt_and_ends(tok):
    item = SceneDataset([SCENE], tok)[0]
    prompt, response = tok.encode(PROMPT), [*tok.encode("The door is listening."), tok.eos_token_id]
    assert item["input_ids"].tolist() == prompt + response
    assert item["labels"].tolist() == [-100] * len(prompt) + response and item["attention_mask"].all()
    item = SceneDataset([SCENE], tok, learn="all")[0]
    assert item["labels"].tolist() == prompt + response


@pytest.mark.parametrize("template", ["plain", "chatml", {"end": "<|endoftext|>", "response": ""}])
def test_items_are_those_of_the_json_lines(any_tok, tmp_path, template):
    scenes = [SCENE, small("y", value="é 你好 ☃"), small("z", response=" leading\n\nlines")]
    data = SceneDataset(scenes, any_tok, template=template)
    data.to_jsonl(tmp_path / "scenes.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "scenes.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows == [{"prompt": data.render(i).prompt, "response": data.render(i).response} for i in range(3)]
    lines = JsonlDataset(tmp_path / "scenes.jsonl", any_tok, max(len(item["input_ids"]) for item in data))
    for ours, theirs in zip(data, lines, strict=True):
        assert all((ours[name] == theirs[name]).all() for name in ("input_ids", "labels", "attention_mask"))
    assert (data.count_targets() == lines.count_targets()).all()


def test_learning_everything_is_nothing_that_json_lines_say(tok, tmp_path):
    with pytest.raises(ConfigError, match="learn='all'"):
        SceneDataset([SCENE], tok, learn="all").to_jsonl(tmp_path / "x.jsonl")
    assert not (tmp_path / "x.jsonl").exists()


@pytest.mark.parametrize("template", ["plain", "chatml"])
def test_spans_tile_the_item_and_a_token_belongs_where_its_first_byte_stands(any_tok, template):
    scenes = [SCENE, small(value="é 你好 ☃☃ \n\n  x"), small("z", value="<|im_start|>—")]
    data = SceneDataset(scenes, any_tok, template=template)
    for index, item in enumerate(data):
        ids, spans, rendering = item["input_ids"].tolist(), data.spans(index), data.render(index)
        assert [span["start"] for span in spans] == [0, *(span["stop"] for span in spans[:-1])]
        assert spans[-1]["stop"] == len(ids) and all(span["start"] < span["stop"] for span in spans)
        assert spans[-1]["field"] == "response" and spans[-1]["start"] == int((item["labels"] == -100).sum())
        told = [span for span in spans if span["field"] != "response"]
        expected = [(field, role) for field, role, _, _ in rendering.spans[:-1]]
        assert [(span["field"], span["role"]) for span in told][-len(expected) :] == expected
        for span, (_, _, start, stop) in zip(told[-len(expected) :], rendering.spans):
            text = any_tok.decode(ids[span["start"] : span["stop"]], skip_special_tokens=True)
            text = text.strip(" \ufffd")  # a character may be cut
            assert text.strip() in rendering.prompt[max(start - 3, 0) : stop + 3]


def test_a_token_across_the_edge_of_two_fields_belongs_to_the_first(tok):
    """A template without line ends between its fields, and a tokenizer with words that cross them."""
    words = llmc.Tokenizer.train(["aabb aabb aabb abab"] * 20, vocab_size=262, special_tokens=["<|endoftext|>"])
    scene = Scene("x", {"intent_vector": "a", "prompt": "b"}, "aabb")
    data = SceneDataset([scene], words, required=(), template={"field": "{value}", "response": ":"})
    tokens = words.convert_ids_to_tokens(data[0]["input_ids"].tolist())
    assert tokens[:2] == ["ab", ":"]
    assert [(span["field"], span["start"], span["stop"]) for span in data.spans(0)] == [
        ("intent_vector", 0, 1), ("template", 1, 2), ("response", 2, len(tokens))]  # fmt: skip


def test_what_the_tokenizer_puts_before_a_text_is_of_the_template(tmp_path):
    tok = sentencepiece(tmp_path, TEXT[:20_000])
    first = SceneDataset([small()], tok).spans(0)[0]
    assert first == {"field": "template", "role": "user", "start": 0, "stop": 1}


PIECE = st.text(st.sampled_from(list("ab é你☃\n#:-{}'\"0.7<|>s")), min_size=1, max_size=12)
PIECE = PIECE.filter(lambda text: text.strip("\n"))


@settings(max_examples=60, deadline=None)
@given(value=PIECE, response=PIECE, template=st.sampled_from(["plain", "chatml", {"field": "{value}", "response": ""}]))
def test_spans_of_any_text_tile_text_and_item(tok, value, response, template):
    data = SceneDataset([small(value=value, response=response)], tok, template=template)
    rendering = data.render(0)
    assert "".join(rendering.text[start:stop] for _, _, start, stop in rendering.spans) == rendering.text
    assert [start for _, _, start, _ in rendering.spans] == [0, *(stop for _, _, _, stop in rendering.spans[:-1])]
    places = [place for span in data.spans(0) for place in range(span["start"], span["stop"])]
    assert places == list(range(len(data[0]["input_ids"])))
    learnt = data.spans(0)[-1]
    assert tok.decode(data[0]["input_ids"][learnt["start"] : -1]) == rendering.response


def test_without_a_field_its_whole_section_is_gone_and_the_responses_ids_stay(any_tok):
    data = SceneDataset([SCENE], any_tok)
    item, start = data[0]["input_ids"], data.response_start(0)
    assert start == int((data[0]["labels"] == -100).sum())
    other = SceneDataset([SCENE], any_tok, fields=("system", "intent_vector", "arch_tension", "prompt"))
    ids, told = data.without(0, "scene_architecture")
    assert ids[told:].tolist() == item[start:].tolist()
    prompt = other[0]["input_ids"][: other.response_start(0)]
    assert any_tok.decode(ids[:told]).strip() == any_tok.decode(prompt).strip()


# Lengths


def test_a_scene_that_is_too_long_is_refused_or_left_out(tok):
    scenes = [small("x"), SCENE, small("z", response="c", file="f.yaml", line=3)]
    size = len(SceneDataset([SCENE], tok)[0]["input_ids"])
    with pytest.raises(DataError, match=f"scene 'threshold-1': the scene has {size} tokens, more than .* {size - 1};"):
        SceneDataset(scenes, tok, size - 1)
    assert len(SceneDataset(scenes, tok, size)) == 3
    data = SceneDataset(scenes, tok, size - 1, too_long="skip")
    assert [scene.id for scene in data.scenes] == ["x", "z"] and data.statistics()["skipped"] == 1
    with pytest.raises(DataError, match="all 3 scenes have more than the 2 tokens"):
        SceneDataset(scenes, tok, 2, too_long="skip")
    with pytest.raises(DataError, match="f.yaml:3: the scene has"):
        SceneDataset(scenes[2:], tok, 2)


def test_words_that_there_are_not_are_refused(tok):
    for words in (dict(learn="prompt"), dict(too_long="cut"), dict(fields=["template"]), dict(block_size=1)):
        with pytest.raises((ConfigError, DataError), match=next(iter(words))):
            SceneDataset([SCENE], tok, **words)
    with pytest.raises(DataError, match="scene 'x': scene_architecture: missing; and 1 more$"):
        SceneDataset([Scene("x", {"intent_vector": "a"}, "r")], tok)
    with pytest.raises(DataError, match="scene 'x': mood: no such key"):
        SceneDataset([Scene("x", {"mood": "a"}, "r")], tok, required=())
    with pytest.raises(TypeError, match="tokenizer"):
        SceneDataset([SCENE], "base")


# Split


def many(count, **more):
    return [small(f"s{i}", value=f"v{i % 3}", meta={"author": f"a{i % 4}"}, **more) for i in range(count)]


def test_scenes_are_held_out_by_seed_and_id_alone(tok):
    data = SceneDataset(many(20), tok)
    train, held = data.split(0.2, seed=3)
    ids = {scene.id for scene in held.scenes}
    assert len(held) == 4 and len(train) == 16 and not ids & {scene.id for scene in train.scenes}
    backwards = SceneDataset(many(20, file="other.yaml", line=1)[::-1], tok).split(0.2, seed=3)[1]
    assert {scene.id for scene in backwards.scenes} == ids
    assert {scene.id for scene in data.split(0.2, seed=4)[1].scenes} != ids
    assert [len(data.split(x)[1]) for x in (0.001, 0.5, 0.999)] == [1, 10, 19]
    for index, scene in enumerate(held.scenes):
        again = next(i for i, other in enumerate(data.scenes) if other.id == scene.id)
        assert (held[index]["input_ids"] == data[again]["input_ids"]).all()
        assert held.spans(index) == data.spans(again)


def test_groups_stay_together(tok):
    data = SceneDataset(many(20), tok)
    for group, of in (("meta.author", lambda scene: scene.meta["author"]),
                      ("intent_vector", lambda scene: scene.fields["intent_vector"])):  # fmt: skip
        train, held = data.split(0.3, group=group)
        assert not {of(scene) for scene in train.scenes} & {of(scene) for scene in held.scenes} and len(held) >= 6
    files = SceneDataset([*many(4, file="a.yaml", line=1), small("b", file="b.yaml", line=1)], tok)
    assert sorted(map(len, files.split(0.1, group="file"))) == [1, 4]


def test_what_cannot_be_split_is_refused(tok):
    data = SceneDataset(many(4), tok)
    for group, message in (("arch_tension", "1 value of arch_tension"), ("file", "1 value of file"),
                           ("meta.auther", "no scene has 'meta.auther'")):  # fmt: skip
        with pytest.raises(DataError, match=message):
            data.split(group=group)
    with pytest.raises(DataError, match="1 scene: nothing can be held out"):
        SceneDataset([SCENE], tok).split()
    for fraction in (0, 1, 1.5):
        with pytest.raises(ConfigError, match="fraction"):
            data.split(fraction)


# Statistics


def test_statistics_count_scenes_tokens_and_values(tok, tmp_path):
    (tmp_path / "a.yaml").write_text("intent_vector: [hope, fear]\nscene_architecture: x\narch_tension: high\n"
                                     "response: r\n")  # fmt: skip
    (tmp_path / "b.yaml").write_text("intent_vector: {fear: 0.5, odd: yes}\nscene_architecture: x\narch_tension: 0.25\n"
                                     "response: r\n---\nintent_vector: {fear: 1}\nscene_architecture: y\n"
                                     "arch_tension: 0.75\nprompt: p\nresponse: s\n")  # fmt: skip
    data = SceneDataset(tmp_path, tok)
    found, items = data.statistics(), list(data)
    lengths = [len(item["input_ids"]) for item in items]
    assert [found[name] for name in ("scenes", "files", "skipped", "duplicates")] == [3, 2, 0, 1]
    assert found["tokens"] == sum(lengths) and found["tokens_median"] == sorted(lengths)[1]
    assert (found["tokens_min"], found["tokens_max"]) == (min(lengths), max(lengths))
    assert found["learnt_tokens"] == sum(int((item["labels"] != -100).sum()) for item in items)
    assert list(found["fields"]) == ["intent_vector", "scene_architecture", "arch_tension", "prompt", "template",
                                     "response"]  # fmt: skip
    assert sum(field["tokens"] for field in found["fields"].values()) == found["tokens"]
    assert abs(sum(field["share"] for field in found["fields"].values()) - 1) < 1e-12
    assert [(field["scenes"], field["distinct"]) for field in found["fields"].values()] == [
        (3, 3), (3, 2), (3, 3), (1, 1), (3, 1), (3, 2)]  # fmt: skip
    assert found["fields"]["response"]["tokens"] == found["learnt_tokens"]
    assert found["intents"] == {"hope": {"scenes": 1, "mean": None}, "fear": {"scenes": 3, "mean": 0.75},
                                "odd": {"scenes": 1, "mean": None}}  # fmt: skip
    assert found["tension"] == {"scenes": 2, "min": 0.25, "mean": 0.5, "max": 0.75}
    text = str(data)
    assert "3 scenes" in text and "intent_vector" in text and "33.3%" not in text and "fear" in text
    assert SceneDataset([small(value="a")], tok, fields=["intent_vector"]).statistics()["tension"]["mean"] == 1


# At work


def test_a_trainer_learns_the_responses_and_lim_reads_the_items(tok, tmp_path):
    config = llmc.Config(model_type="llama", vocab_size=len(tok), hidden_size=32, num_hidden_layers=1,
                         num_attention_heads=2, intermediate_size=48, max_position_embeddings=128)
    model, data = llmc.Model(config), SceneDataset(many(8), tok)
    args = llmc.TrainingArguments(output_dir=str(tmp_path), max_steps=12, per_device_train_batch_size=4,
                                  learning_rate=1e-2, disable_tqdm=True)
    before = llmc.Trainer(model, args).evaluate(data)
    llmc.Trainer(model, args, train_dataset=data, tokenizer=tok).train()
    after = llmc.Trainer(model, args).evaluate(data)
    assert before["eval_tokens"] == int(data.count_targets().sum()) and after["eval_loss"] < before["eval_loss"] - 1
    assert llmc.analysis.lim(model, data).batches == 8


def test_scenes_that_were_read_are_taken_as_their_files_are(tok, tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump(SCENE.to_dict(), sort_keys=False))
    for fields in (None, ("prompt", "intent_vector")):
        data = SceneDataset(path, tok, fields=fields)
        again = SceneDataset(read_scenes(path), tok, fields=fields)
        assert data.scenes == again.scenes and (data[0]["input_ids"] == again[0]["input_ids"]).all()
        assert data.scenes == SceneDataset(data.scenes, tok, fields=fields).scenes
    np.testing.assert_array_equal(data[-1]["input_ids"], data[0]["input_ids"])
