"""Rows: lists of dicts with text, prompt and response, or ids go straight into a Trainer, an evaluation, a dataset."""

import json

import numpy as np
import pytest
from conftest import TINY

import llmc
from llmc.cli import main
from llmc.data import JsonlDataset
from llmc.inputs import IGNORE

TEXTS = [{"text": "some words and more"}, {"prompt": "some", "response": " words"}, {"input_ids": [5, 6, 7]},
         {"input_ids": [5, 6, 7], "labels": [IGNORE, 6, IGNORE], "text": "not this"}]


@pytest.fixture(scope="module")
def tok():
    return llmc.Tokenizer.train(["some words and some more words"], vocab_size=280, special_tokens=["<|endoftext|>"])


def model():
    return llmc.Model(llmc.Config(**TINY["llama"] | {"vocab_size": 280, "max_position_embeddings": 16}))


def same(one, other):
    return len(one) == len(other) and all(np.array_equal(a[name], b[name]) for a, b in zip(one, other) for name in a)


def test_rows_in_memory_are_read_as_the_lines_of_a_file(tok, tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TEXTS))
    of_file, of_rows = JsonlDataset(tmp_path / "rows.jsonl", tok, 16), JsonlDataset(TEXTS, tok, 16)
    assert same(list(map(of_file.__getitem__, range(4))), list(map(of_rows.__getitem__, range(4))))
    assert of_rows.count_targets().tolist() == [len(tok.encode(TEXTS[0]["text"])), len(tok.encode(" words")) + 1, 2, 1]


def test_ids_pass_uncut_and_nothing_is_appended(tok):
    data = JsonlDataset([{"input_ids": list(range(40))}, *TEXTS], tok, 16)
    assert data[0]["input_ids"].tolist() == list(range(40)) and data[4]["labels"].tolist() == [IGNORE, 6, IGNORE]
    data[0]["input_ids"][:] = 0
    assert data[0]["input_ids"].tolist() == list(range(40)), "items are new each time"


def test_a_trainer_reads_rows_with_its_tokenizer(tok, tmp_path):
    losses = []
    for data in (TEXTS, JsonlDataset(TEXTS, tok, 16)):
        args = llmc.TrainingArguments(str(tmp_path / str(len(losses))), max_steps=3, save_strategy="no")
        trainer = llmc.Trainer(model(), args, train_dataset=data, eval_dataset=data, tokenizer=tok)
        losses.append((trainer.train().loss, trainer.evaluate(data)["eval_loss"]))
    assert losses[0] == losses[1]
    assert llmc.Trainer(model(), tokenizer=tok).evaluate(TEXTS[:1])["eval_tokens"] == len(tok.encode(TEXTS[0]["text"]))


def test_a_long_text_is_several_items_and_a_long_response_is_refused_with_both_numbers(tok):
    long = llmc.Trainer(model(), train_dataset=[{"text": "words " * 40}], tokenizer=tok).train_dataset
    assert len(long) > 1 and max(len(long[index]["input_ids"]) for index in range(len(long))) == 16
    with pytest.raises(llmc.DataError, match=r"train_dataset, row 1: prompt and response have \d+ tokens, .* 16"):
        llmc.Trainer(model(), train_dataset=[TEXTS[0], {"prompt": "words " * 40, "response": "a"}], tokenizer=tok)


def test_a_dataset_with_rows_behind_an_index_is_read_too(tok):
    class Dataset:
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return TEXTS[:2][range(2)[index]]

    trainer = llmc.Trainer(model(), train_dataset=Dataset(), tokenizer=tok)
    read, right = trainer.train_dataset, JsonlDataset(TEXTS[:2], tok, 16)
    assert same([read[0], read[1]], [right[0], right[1]])


@pytest.mark.parametrize("row, words", [
    ({"txet": "a"}, "row 1: it holds an object with 'txet'"), ({"prompt": "a"}, "row 1: it holds an object with 'pro"),
    ("a", "row 1: it holds str"), ({"text": 3}, "row 1: text is int, not a string"),
    ({"input_ids": []}, "row 1: item 0: input_ids"), ({"messages": []}, "row 1: messages is empty"),
])  # fmt: skip
def test_a_row_that_is_none_is_named(tok, row, words):
    with pytest.raises(llmc.DataError, match=words):
        JsonlDataset([TEXTS[0], row], tok, 16)


def test_rows_of_text_need_a_tokenizer():
    with pytest.raises(llmc.DataError, match="train_dataset: its rows are texts, and there is no tokenizer"):
        llmc.Trainer(model(), train_dataset=TEXTS)


def test_the_commands_read_ids_in_json_lines(tok, tmp_path, capsys):
    model().save_pretrained(tmp_path / "model")
    tok.save_pretrained(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TEXTS))
    assert main(["eval", str(tmp_path / "model"), "--text", str(tmp_path / "rows.jsonl")]) == 0
    words = ["train", str(tmp_path / "rows.jsonl"), "--model", str(tmp_path / "model"), "--max-steps", "1"]
    assert main([*words, "--output-dir", str(tmp_path / "out")]) == 0


class Streamed:
    """Rows without a length, as a dataset that is streamed from the hub has them."""

    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)


def test_rows_without_a_length_are_read_one_by_one(tok, tmp_path):
    data, losses = JsonlDataset(TEXTS, tok, 16), []
    items = [data[index] for index in range(len(data))]
    for number, given in enumerate((Streamed(TEXTS), Streamed(items), iter(TEXTS * 3))):
        args = llmc.TrainingArguments(str(tmp_path / str(number)), max_steps=3, save_strategy="no",
                                      per_device_train_batch_size=len(TEXTS))
        losses.append(llmc.Trainer(model(), args, train_dataset=given, tokenizer=tok).train().loss)
    assert losses[0] == losses[1] == losses[2]
    evaluate = llmc.Trainer(model(), tokenizer=tok).evaluate
    evaluated = [evaluate(given)["eval_loss"] for given in (Streamed(TEXTS), TEXTS)]
    assert evaluated[0] == evaluated[1]


def test_a_streamed_row_that_does_not_fit_is_named(tok, tmp_path):
    rows = [*TEXTS, {"prompt": "words " * 40, "response": "a"}]
    args = llmc.TrainingArguments(str(tmp_path), max_steps=3, save_strategy="no")
    with pytest.raises(llmc.DataError, match=r"row 4: prompt and response have \d+ tokens"):
        llmc.Trainer(model(), args, train_dataset=Streamed(rows), tokenizer=tok).train()
