"""JSON lines: texts are learnt whole, responses alone behind their prompts, and bad lines are named."""

import json

import numpy as np
import pytest

import llmc
from llmc.data import JsonlDataset
from llmc.errors import DataError

TEXT = ["the cat sat on the mat and the dog ran to the cat"] * 20


@pytest.fixture(scope="module")
def tokenizer():
    return llmc.Tokenizer.train(TEXT, vocab_size=290, special_tokens=["<|endoftext|>"])


def written(folder, *rows):
    path = folder / "data.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return path


def test_a_text_is_learnt_whole_and_ends(tokenizer, tmp_path):
    data = JsonlDataset(written(tmp_path, {"text": "the cat", "other": 1}), tokenizer, 64)
    expected = [*tokenizer.encode("the cat"), tokenizer.eos_token_id]
    assert len(data) == 1 and data[0]["input_ids"].tolist() == data[0]["labels"].tolist() == expected
    assert data[0]["attention_mask"].tolist() == [1] * len(expected)


def test_a_response_is_learnt_and_its_prompt_is_not(tokenizer, tmp_path):
    data = JsonlDataset(written(tmp_path, {"prompt": "the cat ", "response": "sat on"}), tokenizer, 64)
    prompt, response = tokenizer.encode("the cat "), [*tokenizer.encode("sat on"), tokenizer.eos_token_id]
    assert data[0]["input_ids"].tolist() == prompt + response
    assert data[0]["labels"].tolist() == [-100] * len(prompt) + response


def test_the_loss_is_that_of_the_response_alone(tokenizer, tmp_path):
    data = JsonlDataset(written(tmp_path, {"prompt": "the cat ", "response": "sat on"}), tokenizer, 64)
    config = llmc.Config(model_type="llama", vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                         intermediate_size=24, max_position_embeddings=64)
    model, row = llmc.Model(config), data[0]
    logits = model(row["input_ids"])[0].astype(np.float64)
    losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(logits)), np.roll(row["input_ids"], -1)]
    start = int((row["labels"] == -100).sum())
    assert abs(model.loss(row["input_ids"], labels=row["labels"]) - losses[start - 1 : -1].mean()) < 1e-5


def test_a_long_text_is_several_items_and_loses_nothing(tokenizer, tmp_path):
    data = JsonlDataset(written(tmp_path, {"text": TEXT[0]}, "", {"text": "a dog"}), tokenizer, 8)
    ids = np.concatenate([data[i]["input_ids"] for i in range(len(data))]).tolist()
    end = tokenizer.eos_token_id
    assert ids == [*tokenizer.encode(TEXT[0]), end, *tokenizer.encode("a dog"), end]
    assert max(len(data[i]["input_ids"]) for i in range(len(data))) == 8


def test_both_kinds_stand_in_one_file_and_files_in_a_list(tokenizer, tmp_path):
    one = written(tmp_path, {"text": "the cat"}, {"prompt": "the", "response": " dog"})
    assert len(JsonlDataset([one, one], tokenizer, 64)) == 4
    assert "4 items" in repr(JsonlDataset([one, one], tokenizer, 64))


@pytest.mark.parametrize("row, words", [
    ('{"text": "a"', "data.jsonl:2: not JSON"), ("[1]", "data.jsonl:2: it holds list"),
    ({"prompt": "a"}, "data.jsonl:2: it holds an object with 'prompt'"), ({"texts": "a"}, "an object with 'texts'"),
    ({"text": 3}, "data.jsonl:2: text is int"), ({"prompt": None, "response": "a"}, "prompt is NoneType"),
    ({"text": ""}, "data.jsonl:2: '' has no tokens"), ({"prompt": "the", "response": ""}, "'' has no tokens"),
    ({"prompt": TEXT[0], "response": "cat"}, "tokens, more than block_size 8"),
])  # fmt: skip
def test_a_bad_line_is_named(tokenizer, tmp_path, row, words):
    with pytest.raises(DataError, match=words):
        JsonlDataset(written(tmp_path, {"text": "the cat"}, row), tokenizer, 8)


def test_bytes_that_are_no_text_and_empty_files_are_named(tokenizer, tmp_path):
    path = written(tmp_path, "")
    with pytest.raises(DataError, match="no row in it"):
        JsonlDataset(path, tokenizer, 8)
    path.write_bytes(b'{"text": "\xff"}\n')
    with pytest.raises(DataError, match="data.jsonl:1: byte 10 of the line is not UTF-8"):
        JsonlDataset(path, tokenizer, 8)
