"""Tokenizers as people keep them: sides, flags, chat templates, padded vocabularies (the inputs: vectors/field)."""

import copy
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from tokenizer_json import TEXT as PIECE
from tokenizer_json import added, opened, template, tokenizer_json

import llmc
from llmc.cli import main
from llmc.data import StreamingTextDataset, TextDataset, tokenize_file
from llmc.errors import CheckpointError, DataError

FIELD = Path(__file__).parent / "vectors" / "field"
RIGHT = json.loads((FIELD / "right.json").read_text())
TEXTS = ["hello the cat sat on the mat", "hello", "", "the dog ran . hello world </s> hello there"]
FRAME = template([{"SpecialToken": {"id": "<x>", "type_id": 0}}, PIECE],
                 {"<x>": {"id": "<x>", "ids": [3], "tokens": ["<x>"]}})


def tokenizer(name):
    return llmc.Tokenizer.from_pretrained(FIELD / name)


def their(peers, name):
    return peers.transformers.AutoTokenizer.from_pretrained(str(FIELD / name))


def copied(folder, name, **config):
    """A copy of a field's folder whose tokenizer_config.json says more."""
    shutil.copytree(FIELD / name, folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return folder


# Truncation and padding


def test_truncation_keeps_the_end_where_the_tokenizer_says_so():
    right = RIGHT["truncation-side"]
    tok = tokenizer("truncation-side")
    ids = tok(right["text"], truncation=True, max_length=right["max_length"])["input_ids"]
    assert ids == right["input_ids"] and ids[0] == tok.bos_token_id and tok.truncation_side == "left"
    assert tok.encode(right["text"]) == [tok.bos_token_id, *tok.encode(right["text"], add_special_tokens=False)]


@pytest.mark.parametrize("length", [1, 2, 4, 100])
def test_both_sides_are_cut_as_transformers_cuts(peers, length):
    ours, theirs = tokenizer("truncation-side"), their(peers, "truncation-side")
    for side in ("left", "right"):
        ours.truncation_side = theirs.truncation_side = side
        for arguments in ({}, {"add_special_tokens": False}):
            assert ours(TEXTS, truncation=True, max_length=length, **arguments)["input_ids"] \
                == theirs(TEXTS, truncation=True, max_length=length, **arguments)["input_ids"]


def test_a_side_to_cut_survives_saving_and_copies(tmp_path):
    tok = tokenizer("truncation-side")
    tok.save_pretrained(tmp_path)
    for again in (llmc.Tokenizer.from_pretrained(tmp_path), pickle.loads(pickle.dumps(tok)), copy.deepcopy(tok)):
        assert again.truncation_side == "left"
    assert "truncation_side" not in saved_config(tokenizer("chat"), tmp_path / "chat")


def saved_config(tok, folder):
    tok.save_pretrained(folder)
    return json.loads((folder / "tokenizer_config.json").read_text())


def test_a_side_that_there_is_not_is_refused(tmp_path):
    for name in ("truncation_side", "padding_side"):
        for value in ("up", None, 3):
            with pytest.raises(CheckpointError, match=rf"tokenizer_config.json: {name} is .*; it is 'left' or 'right'"):
                llmc.Tokenizer.from_pretrained(copied(tmp_path / f"{name}{value}", "special-twice", **{name: value}))
    tok = tokenizer("truncation-side")
    tok.truncation_side = "up"
    with pytest.raises(DataError, match="truncation_side is 'up'"):
        tok("hello", truncation=True, max_length=3)


TRUNCATION = {"direction": "Left", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
PADDING = {"strategy": "BatchLongest", "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
           "pad_token": "x"}


def test_sides_of_tokenizer_json_count_where_the_configuration_is_silent(peers, tmp_path):
    for number, config in enumerate(({}, {"truncation_side": "right", "padding_side": "right"})):
        folder = copied(tmp_path / str(number), "special-twice", **config)
        path = folder / "tokenizer.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "truncation": TRUNCATION, "padding": PADDING}))
        ours = llmc.Tokenizer.from_pretrained(folder)
        theirs = peers.transformers.AutoTokenizer.from_pretrained(str(folder))
        assert (ours.truncation_side, ours.padding_side) == (theirs.truncation_side, theirs.padding_side)
        assert ours(TEXTS)["input_ids"] == theirs(TEXTS)["input_ids"]  # neither cut nor padded unless a call says so
        ours.save_pretrained(folder)
        again = llmc.Tokenizer.from_pretrained(folder)
        assert (again.truncation_side, again.padding_side) == (ours.truncation_side, ours.padding_side)


@pytest.mark.parametrize("part, value, words", [
    ("truncation", 7, "truncation is 7, which is not an object"), ("truncation", False, "truncation is False"),
    ("truncation", [], "truncation is"), ("truncation", {}, "truncation.strategy is None"),
    ("truncation", {**TRUNCATION, "direction": "left"}, "truncation.direction is 'left'; it is one of Left, Right"),
    ("truncation", {**TRUNCATION, "max_length": -1}, "truncation.max_length is -1, which is not a whole number"),
    ("truncation", {**TRUNCATION, "max_length": True}, "truncation.max_length is True"),
    ("truncation", {**TRUNCATION, "stride": 2.5}, "truncation.stride is 2.5"),
    ("truncation", {**TRUNCATION, "strategy": "Some"}, "truncation.strategy is 'Some'"),
    ("padding", "yes", "padding is 'yes', which is not an object"), ("padding", {}, "padding.direction is None"),
    ("padding", {**PADDING, "strategy": {"Fixed": -4}}, "padding.strategy.Fixed is -4"),
    ("padding", {**PADDING, "strategy": "Longest"}, "padding.strategy is 'Longest'"),
    ("padding", {**PADDING, "pad_to_multiple_of": "8"}, "padding.pad_to_multiple_of is '8'"),
    ("padding", {**PADDING, "pad_id": 2**64}, "padding.pad_id is 18446744073709551616"),
    ("padding", {**PADDING, "pad_token": None}, "padding.pad_token is None"),
])  # fmt: skip
def test_malformed_truncation_and_padding_are_refused(tmp_path, part, value, words):
    with pytest.raises(CheckpointError, match=f"tokenizer.json: {words}"):
        opened(tmp_path, tokenizer_json(**{part: value}))


@pytest.mark.parametrize("strategy", ["BatchLongest", {"Fixed": 4}])
def test_wellformed_truncation_and_padding_open(tmp_path, strategy):
    tok = opened(tmp_path, tokenizer_json(truncation={**TRUNCATION, "max_length": 1},
                                          padding={**PADDING, "strategy": strategy, "pad_to_multiple_of": 8}))
    assert tok.encode("ab a") == tok("ab a")["input_ids"] and len(tok.encode("aaaa")) == 4


# Special tokens that a text may not speak


def test_special_tokens_are_text_where_the_tokenizer_says_so(tmp_path):
    right, tok = RIGHT["split-special-tokens"], tokenizer("split-special-tokens")
    text, ids = right["text"], right["input_ids"]
    tok.save_pretrained(tmp_path / "saved")
    for each in (tok, llmc.Tokenizer.from_pretrained(tmp_path / "saved"), copy.deepcopy(tok),
                 pickle.loads(pickle.dumps(tok))):
        assert each.split_special_tokens
        assert each.encode(text) == each(text)["input_ids"] == ids
        assert each([text, text])["input_ids"] == [ids, ids]
        assert each(text, truncation=True, max_length=20)["input_ids"] == ids
        assert each(text, padding="max_length", max_length=9)["input_ids"].tolist() == ids
        assert each(text, return_offsets_mapping=True)["input_ids"] == ids
        assert each.tokenize(text) == each.convert_ids_to_tokens(ids)
        assert each.decode(ids) == text


def test_special_tokens_are_text_in_datasets_too(tmp_path):
    text, ids = RIGHT["split-special-tokens"].values()
    tok = tokenizer("split-special-tokens")
    (tmp_path / "text.txt").write_text(text)
    assert TextDataset([text], tok, 64)[0]["input_ids"].tolist() == ids
    assert next(iter(StreamingTextDataset([text], tok, 64)))["input_ids"].tolist() == ids
    assert tokenize_file(tmp_path / "text.txt", tok, tmp_path / "ids.bin", progress=False)["count"] == len(ids)


def test_special_tokens_are_text_as_in_transformers_and_the_template_stays(peers, tmp_path):
    folder = copied(tmp_path / "both", "special-twice", split_special_tokens=True)
    ours = llmc.Tokenizer.from_pretrained(folder)
    theirs = peers.transformers.AutoTokenizer.from_pretrained(str(folder))
    for text in (*TEXTS, "<s>hello</s>", "<s></s>"):
        assert ours.encode(text) == theirs.encode(text) and ours.encode(text)[0] == ours.bos_token_id
    ours.split_special_tokens = theirs.split_special_tokens = False
    assert ours.encode("<s>hello</s>") == theirs.encode("<s>hello</s>") == [0, 0, *tokenizer("chat").encode("hello"), 1]


def test_a_flag_that_is_none_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="tokenizer_config.json: split_special_tokens is 'yes'; it is true or"):
        llmc.Tokenizer.from_pretrained(copied(tmp_path / "copy", "chat", split_special_tokens="yes"))


# Chat templates


def test_a_chat_template_survives_saving(tmp_path):
    tok = tokenizer("chat")
    tok.save_pretrained(tmp_path / "one")
    llmc.Tokenizer.from_pretrained(tmp_path / "one").save_pretrained(tmp_path / "two")
    pickle.loads(pickle.dumps(tok)).save_pretrained(tmp_path / "three")
    kept = (FIELD / "chat" / "chat_template.jinja").read_bytes()
    assert all((tmp_path / name / "chat_template.jinja").read_bytes() == kept for name in ("one", "two", "three"))


def test_chat_templates_in_all_their_places_survive_saving(peers, tmp_path):
    folder = copied(tmp_path / "copy", "chat", chat_template=[{"name": "default", "template": "{{ 'old' }}"}])
    (folder / "chat_template.jinja").write_bytes("{{ 'é' }}\r\n\n".encode())
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("{{ 'tools' }}")
    (folder / "additional_chat_templates" / "notes.txt").write_text("no template")
    llmc.Tokenizer.from_pretrained(folder).save_pretrained(tmp_path / "new")
    assert (tmp_path / "new" / "chat_template.jinja").read_bytes() == "{{ 'é' }}\r\n\n".encode()
    names = [path.name for path in (tmp_path / "new" / "additional_chat_templates").iterdir()]
    assert names == ["tool_use.jinja"]
    before, after = (peers.transformers.AutoTokenizer.from_pretrained(str(tmp_path / name)) for name in ("copy", "new"))
    assert before.chat_template == after.chat_template and set(after.chat_template) == {"default", "tool_use"}


def test_a_chat_template_that_is_no_text_is_refused(tmp_path):
    folder = copied(tmp_path / "copy", "chat")
    (folder / "chat_template.jinja").write_bytes(b"{{ \xff }}")
    with pytest.raises(CheckpointError, match=r"chat_template.jinja: byte 3 \(0xff\) is not UTF-8"):
        llmc.Tokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    """A model with the chat tokenizer."""
    folder = tmp_path_factory.mktemp("chat") / "base"
    shutil.copytree(FIELD / "chat", folder)
    config = llmc.Config(model_type="llama", vocab_size=290, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
                         intermediate_size=12, max_position_embeddings=32)
    llmc.Model(config).save_pretrained(folder)
    (folder / "text.txt").write_text("the cat sat on the mat\n" * 20)
    return folder


def test_a_chat_template_survives_training_adapting_and_merging(chat_model, tmp_path, capsys):
    flags = ["--max-steps", "2", "--save-steps", "1", "--disable-tqdm"]
    text = str(chat_model / "text.txt")
    assert main(["train", text, "--model", str(chat_model), "--output-dir", str(tmp_path / "train"), *flags]) == 0
    assert main(["lora", str(chat_model), text, "--output-dir", str(tmp_path / "lora"), *flags]) == 0
    assert main(["merge", str(tmp_path / "lora"), "--out", str(tmp_path / "merged")]) == 0
    expected = (FIELD / "chat" / "chat_template.jinja").read_text()
    for name in ("train", "train/checkpoint-1", "train/checkpoint-2", "train/checkpoint-best", "lora",
                 "lora/checkpoint-1", "merged"):
        assert (tmp_path / name / "chat_template.jinja").read_text() == expected, name
    capsys.readouterr()


# Ids without a token


def test_an_id_without_a_token_adds_nothing_to_the_text(peers):
    ours, theirs = tokenizer("padded-vocabulary"), their(peers, "padded-vocabulary")
    ids = ours.encode("hello the cat")
    for row in ([*ids, 300], [301, *ids], [ids[0], 290, 303, *ids[1:], 2**32 - 1], [300], np.array([300, 301])):
        for skip in (False, True):
            assert ours.decode(row, skip) == theirs.decode(row, skip_special_tokens=skip)
    assert ours.batch_decode([[*ids, 300], [300]]) == ["hello the cat", ""] and ours.decode(300) == ""
    assert ours.convert_ids_to_tokens([ids[0], 300]) == theirs.convert_ids_to_tokens([ids[0], 300])
    assert ours.convert_ids_to_tokens(300) is None


def test_generating_goes_on_behind_an_id_without_a_token(capsys):
    folder = str(FIELD / "padded-vocabulary")
    model, tok = llmc.Model.from_pretrained(folder), tokenizer("padded-vocabulary")
    ids = model.generate([tok.encode("hello there")], max_new_tokens=16)[0]
    assert (ids >= 290).any()
    assert main(["generate", folder, "hello there", "--max-new-tokens", "16"]) == 0
    assert capsys.readouterr().out.rstrip("\n") == tok.decode(ids, skip_special_tokens=True)


# Offsets


def test_offsets_are_those_of_transformers(peers):
    for name in ("sentencepiece", "special-twice", "truncation-side"):
        ours, theirs = tokenizer(name), their(peers, name)
        for text in (*TEXTS, "é <s> 你 \n\n x"):
            for arguments in ({}, {"add_special_tokens": False}, {"truncation": True, "max_length": 3}):
                got = ours(text, return_offsets_mapping=True, **arguments)
                expected = theirs(text, return_offsets_mapping=True, **arguments)
                assert got["offset_mapping"] == expected["offset_mapping"]
                assert got["input_ids"] == expected["input_ids"] == ours(text, **arguments)["input_ids"]
    assert ours(["the", "cat"], return_offsets_mapping=True)["offset_mapping"][1][0] == (0, 0)
    with pytest.raises(DataError, match="leave padding and return_tensors out"):
        ours("the", return_offsets_mapping=True, padding=True)


def test_templates_stay_on_both_sides_of_a_cut_text(tmp_path):
    tok = opened(tmp_path, tokenizer_json(added_tokens=[added(3, "<x>")], post_processor=FRAME))
    ids = tok.encode("aba", add_special_tokens=False)
    for side, kept in (("right", ids[:1]), ("left", ids[-1:])):
        tok.truncation_side = side
        assert tok("aba", truncation=True, max_length=2)["input_ids"] == [3, *kept]
