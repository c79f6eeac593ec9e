"""Files of rows: a .json, a .csv and a .parquet hold what JSON lines hold, and bad ones are named."""

import json
import sys

import pytest
from conftest import TINY, WITHOUT

import llmc
from llmc.cli import main
from llmc.data import JsonlDataset, StreamingTextDataset

TEXTS = [{"text": "some words, and \"more\""}, {"text": "on two\nlines"}, {"text": "words"}]
ANSWERS = [{"prompt": "some", "response": " words"}, {"prompt": "more, and", "response": " some\r\nlines"}]
TALKS = [{"messages": [{"role": "user", "content": "some"}, {"role": "assistant", "content": "words"}]}]
IDS = [{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}, {"input_ids": [5, 6], "labels": [5, 6]}]
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<|endoftext|>{% endfor %}"


@pytest.fixture(scope="module")
def tok():
    made = llmc.Tokenizer.train(["some words and some more words on two lines, user: assistant:"], vocab_size=290,
                                special_tokens=["<|endoftext|>"])
    made.chat_template = TEMPLATE + "{% if add_generation_prompt %}assistant: {% endif %}"
    return made


def json_list(path, rows):
    path.write_text(json.dumps(rows))


def table(path, rows):
    import csv

    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*rows[0], "other"])
        for row in rows:
            writer.writerow([cell if isinstance(cell, str) else json.dumps(cell) for cell in row.values()] + ["x"])


def columns(path, rows):
    pyarrow = pytest.importorskip("pyarrow", reason=WITHOUT.format("pyarrow"))
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist([row | {"other": 1} for row in rows]), path)


KINDS = [("json", json_list), ("csv", table), ("parquet", columns)]


def items(data):
    return [{name: array.tolist() for name, array in data[index].items()} for index in range(len(data))]


@pytest.mark.parametrize("ending, write", KINDS)
@pytest.mark.parametrize("rows", [TEXTS, ANSWERS, TALKS, IDS], ids=["text", "answers", "messages", "ids"])
def test_every_kind_of_file_holds_what_json_lines_hold(tok, tmp_path, ending, write, rows):
    write(tmp_path / f"rows.{ending}", rows)
    found = JsonlDataset(tmp_path / f"rows.{ending}", tok, 64)
    assert items(found) == items(JsonlDataset(rows, tok, 64))


@pytest.mark.parametrize("ending, write", KINDS)
def test_texts_are_documents_and_a_bar_is_told_the_bytes(tok, tmp_path, ending, write):
    path, read = tmp_path / f"rows.{ending.upper()}", []
    write(path, TEXTS)
    blocks = [block["input_ids"].tolist() for block in StreamingTextDataset(files=[path], tokenizer=tok, block_size=64)]
    ends = [tok.eos_token_id]
    assert sum(blocks, []) == sum((tok.encode(row["text"]) + ends for row in TEXTS), [])[:-1]
    from llmc.data.row_files import records

    assert len(list(records([path], read.append))) == 3 and sum(read) == path.stat().st_size


@pytest.mark.parametrize("ending, write", KINDS)
def test_the_commands_train_and_evaluate_on_them(tok, tmp_path, capsys, ending, write):
    config = llmc.Config(**TINY["llama"] | {"vocab_size": 290, "max_position_embeddings": 32})
    llmc.Model(config).save_pretrained(tmp_path / "base")
    tok.save_pretrained(tmp_path / "base")
    path, base, out = tmp_path / f"rows.{ending}", str(tmp_path / "base"), str(tmp_path / "out")
    write(path, ANSWERS * 4)
    for command in (["train", str(path), "--model", base, "--max-steps", "1", "--output-dir", out, "--disable-tqdm"],
                    ["lora", base, str(path), "--max-steps", "1", "--output-dir", out + "b", "--disable-tqdm"],
                    ["eval", base, "--text", str(path)]):
        assert main(command) == 0, capsys.readouterr().err
    assert "bits" not in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize("name, content, words", [
    ("a.json", '{"text": "a"}', "a.json: it holds dict; a .json file is one list of rows"),
    ("a.json", '{"text": "a"}\n{"text": "b"}', "a.json: not JSON: Extra data.*an object a line is called .jsonl"),
    ("a.json", '[{"text": "a"}, 3]', "a.json: row 1: it holds int"), ("a.json", "[]", "a.json: there is no row in it"),
    ("a.json", "[" * 100_000, "a.json: not JSON"), ("a.json", b'["\xff"]', "a.json: byte 2 of it is not UTF-8"),
    ("a.csv", "a,b\n1,2\n", "a.csv:1: the header is 'a', 'b'; the first line names the columns"),
    ("a.csv", "prompt;response\na;b\n", "a.csv:1: the header is 'prompt;response'"),
    ("a.csv", "text,text\na,b\n", "a.csv:1: the header has text twice"),
    ("a.csv", 'text,n\n"a\nb",1\na,b,c\n', "a.csv:4: 3 cells, and the header has 2"),
    ("a.csv", 'text\n"a"b\n', "a.csv:2: .*quotes stand around a whole cell"),
    ("a.csv", 'text\na\n"b', "a.csv:3: unexpected end of data"),
    ("a.csv", "messages\nhello\n", "a.csv:2: not JSON.*messages of a .csv is JSON"),
    ("a.csv", b"text\n\xff\n", r"a.csv: byte 5 \(0xff\) is not UTF-8"), ("a.csv", "", "a.csv: there is no row in it"),
    ("a.csv", "text\n\n", "a.csv: there is no row in it"),
])  # fmt: skip
def test_a_bad_file_is_named_with_the_place(tok, tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(llmc.DataError, match=words):
        JsonlDataset(tmp_path / name, tok, 64)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"text\na\n", b"PAR1" + bytes(100) + b"PAR1"])
def test_a_parquet_file_that_is_none_is_named(tok, tmp_path, content):
    pytest.importorskip("pyarrow", reason=WITHOUT.format("pyarrow"))
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(llmc.DataError, match="a.parquet: no .parquet file: "):
        JsonlDataset(tmp_path / "a.parquet", tok, 64)


def test_a_parquet_file_of_other_columns_is_named(tok, tmp_path):
    columns(tmp_path / "a.parquet", [{"question": "a"}])
    with pytest.raises(llmc.DataError, match="a.parquet: its columns are 'question', 'other'; rows have text"):
        JsonlDataset(tmp_path / "a.parquet", tok, 64)
    with pytest.raises(FileNotFoundError):
        JsonlDataset(tmp_path / "b.parquet", tok, 64)


def test_without_pyarrow_the_way_out_is_named(tok, tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(llmc.DataError, match="pip install pyarrow; or write the rows as JSON lines"):
        JsonlDataset(tmp_path / "a.parquet", tok, 64)


def test_a_cell_of_a_table_may_be_long_and_marks_of_order_do_not_count(tok, tmp_path):
    (tmp_path / "a.csv").write_text("\ufefftext\n" + "words " * 40_000 + "\n", encoding="utf-8")
    assert sum(len(item["input_ids"]) for item in items(JsonlDataset(tmp_path / "a.csv", tok, 64))) > 40_000
