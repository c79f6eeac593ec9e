"""Data as people have it: rendered templates, SentencePiece, JSON lines, rows without a target (vectors/field)."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizer_json import sentencepiece

import llmc
from llmc.cli import main
from llmc.data import JsonlDataset, StreamingTextDataset, TextDataset, TokenBlockDataset, builtin_text, tokenize_file
from llmc.data.collate import targets_of
from llmc.errors import DataError

FIELD = Path(__file__).parent / "vectors" / "field"


def tokenizer(name):
    return llmc.Tokenizer.from_pretrained(FIELD / name)


def written(path, *rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def learnt(item):
    return item["input_ids"][item["labels"] != -100]


def ids_of(dataset):
    """All ids of a dataset in a row."""
    items = dataset if hasattr(dataset, "_blocks") else map(dataset.__getitem__, range(len(dataset)))
    return np.concatenate([item["input_ids"] for item in items]).tolist()


# Prompts and responses


def test_prompt_and_response_read_as_the_line_has_them():
    tok, path = tokenizer("sentencepiece"), FIELD / "sentencepiece" / "lines.jsonl"
    data = JsonlDataset(path, tok, 64)
    assert len(data) == 2
    for row, item in zip(rows_of(path), map(data.__getitem__, range(2)), strict=True):
        ids = item["input_ids"].tolist()
        assert tok.decode(ids, skip_special_tokens=True) == row["prompt"] + row["response"]
        assert ids == [tok.bos_token_id, *tok.encode(row["prompt"] + row["response"], False), tok.eos_token_id]
        told = ids[: int((item["labels"] == -100).sum())]
        assert tok.decode(told, skip_special_tokens=True) == row["prompt"]
        assert (item["labels"] == item["input_ids"])[len(told) :].all()


@pytest.mark.parametrize("prompt, response, expected", [
    ("the cat", " sat on the mat", " sat on the mat"), ("the cat ", "sat", None), ("x:\n", "\n\nyes  .", "\n\nyes  ."),
    ("你好 é", "é ☃", "é ☃"), ("", "the answer", "the answer"), ("<s>[INST] the", "re", "re"), ("1 ", " 2", None),
])  # fmt: skip
def test_a_token_across_the_border_is_not_learnt(tmp_path, prompt, response, expected):
    tok = sentencepiece(tmp_path, builtin_text()[:20_000])
    item = JsonlDataset(written(tmp_path / "x.jsonl", {"prompt": prompt, "response": response}), tok, 99)[0]
    ids = item["input_ids"].tolist()
    assert ids[0] == tok.bos_token_id and ids[1] != tok.bos_token_id and ids[-1] == tok.eos_token_id
    text = tok.encode(prompt + response)
    assert ids[:-1] == (text if not prompt.startswith("<s>") else text[1:])
    bare = tok._backend.encode(prompt + response, add_special_tokens=False)
    inside = [number for number, (start, _) in zip(bare.ids, bare.offsets, strict=True) if start >= len(prompt)]
    assert learnt(item).tolist() == [*inside, tok.eos_token_id]
    if expected is not None:
        begin = tok.decode(ids[: len(ids) - len(inside) - 1], skip_special_tokens=True)
        assert tok.decode(ids[:-1], skip_special_tokens=True) == begin + expected


def test_a_prompt_is_read_as_when_the_model_is_asked_where_that_reads_right(tmp_path):
    """A prompt that ends in a space: bytes can be tokenized apart, so that the response's first word is learnt."""
    tok = tokenizer("chat")
    item = JsonlDataset(written(tmp_path / "x.jsonl", {"prompt": "the cat ", "response": "sat é"}), tok, 64)[0]
    assert item["input_ids"].tolist() == [*tok.encode("the cat "), *tok.encode("sat é"), tok.eos_token_id]
    assert tok.decode(learnt(item)) == "sat é</s>"


def test_a_tokenizer_with_a_prefix_space_or_a_stripped_text_gets_no_other_text(tmp_path):
    backend = tokenizers.Tokenizer.from_str(tokenizer("chat")._backend.to_str())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    path = written(tmp_path / "x.jsonl", {"prompt": "the cat:", "response": "the dog"})
    tok = llmc.Tokenizer(backend)
    item = JsonlDataset(path, tok, 64)[0]
    assert tok.decode(item["input_ids"]).strip() == "the cat:the dog" and tok.decode(learnt(item)) == "the dog"
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.normalizer = tokenizers.normalizers.Strip()
    path = written(tmp_path / "x.jsonl", {"prompt": "the cat:", "response": " the dog"})
    item = JsonlDataset(path, tok, 64)[0]
    assert tok.decode(item["input_ids"]) == "the cat: the dog" and tok.decode(learnt(item)) == " the dog"


def test_tokenizers_of_transformers_read_prompts_the_same(peers):
    path = FIELD / "sentencepiece" / "lines.jsonl"
    theirs = peers.transformers.AutoTokenizer.from_pretrained(str(FIELD / "sentencepiece"))
    ours, their = (JsonlDataset(path, tok, 64) for tok in (tokenizer("sentencepiece"), theirs))
    for index in range(2):
        assert all((ours[index][name] == their[index][name]).all() for name in ours[index])


def test_a_response_that_is_in_its_prompt_s_last_token_is_named(tmp_path):
    tok = sentencepiece(tmp_path, builtin_text()[:20_000])
    path = written(tmp_path / "x.jsonl", {"prompt": "of th", "response": "e"})
    assert tok.tokenize("of the")[-1] == "▁the"
    words = r"x.jsonl:1: .e. has no tokens of its own behind its prompt; .* or give it the space"
    with pytest.raises(DataError, match=words):
        JsonlDataset(path, tok, 64)


# Special tokens once


def test_a_rendered_beginning_is_not_put_there_again():
    tok, path = tokenizer("special-twice"), FIELD / "special-twice" / "lines.jsonl"
    item = JsonlDataset(path, tok, 64)[0]
    assert item["input_ids"].tolist() == [*tok.encode("<s>hello the cat", False), *tok.encode(" sat", False), 1]
    assert item["input_ids"].tolist().count(tok.bos_token_id) == 1
    assert tok.decode(learnt(item)) == " sat</s>"


@pytest.mark.parametrize("name", ["special-twice", "eos-in-template", "chat"])
@pytest.mark.parametrize("text", ["hello the cat", "<s>hello the cat", "hello the cat</s>", "<s>hello the cat</s>"])
def test_what_a_text_begins_and_ends_with_stands_there_once(tmp_path, name, text):
    tok = tokenizer(name)
    begins = name != "chat" or text.startswith("<s>")
    expected = [0] * begins + tok.encode("hello the cat", False) + [1]
    assert ids_of(TextDataset([text], tok, 64, append_eos=True)) == expected
    assert ids_of(JsonlDataset(written(tmp_path / "x.jsonl", {"text": text}), tok, 64)) == expected
    border = text.index(" cat")
    path = written(tmp_path / "x.jsonl", {"prompt": text[:border], "response": text[border:]})
    assert ids_of(JsonlDataset(path, tok, 64)) == expected
    alone = expected if name == "eos-in-template" or text.endswith("</s>") else expected[:-1]
    assert ids_of(TextDataset([text], tok, 64)) == alone
    (tmp_path / "x.txt").write_text(text)
    for source in ({"texts": [text, text]}, {"files": [tmp_path / "x.txt"] * 2}):
        assert ids_of(StreamingTextDataset(tokenizer=tok, block_size=99, **source)) == expected + alone
    tokenize_file([tmp_path / "x.txt"] * 2, tok, tmp_path / "x.bin", progress=False)
    assert ids_of(TokenBlockDataset(tmp_path / "x.bin", 99)) == expected + alone


def test_a_text_that_is_nothing_but_a_special_token_keeps_it(tmp_path):
    tok = tokenizer("eos-in-template")
    assert ids_of(TextDataset(["<s>"], tok, 9)) == [0, 1] == ids_of(TextDataset(["</s>"], tok, 9))
    assert ids_of(StreamingTextDataset(["<s>", "</s>"], tok, 9)) == [0, 1, 0, 1]


def test_long_documents_begin_and_end_once():
    tok = tokenizer("eos-in-template")
    text = "the cat sat on the mat " * 20_000
    for each in (text, f"<s>{text}", f"{text}</s>", f"<s>{text}</s>"):
        ids = ids_of(StreamingTextDataset([each], tok, 4096))
        assert ids == [0, *tok.encode(text, False), 1] == ids_of(TextDataset([each], tok, 4096))


def test_llmc_train_ends_a_text_once(tmp_path, capsys):
    """One epoch over `<s> hello the cat </s>` has as many tokens as that."""
    (tmp_path / "x.txt").write_text("hello the cat")
    shutil.copytree(FIELD / "eos-in-template", tmp_path / "tok")
    tok = tokenizer("eos-in-template")
    assert main(["train", str(tmp_path / "x.txt"), "--tokenizer", str(tmp_path / "tok"), "--hidden-size", "8",
                 "--num-hidden-layers", "1", "--max-steps", "1", "--held-out", "0", "--block-size", "32",
                 "--output-dir", str(tmp_path / "out"), "--disable-tqdm"]) == 0
    entry = json.loads((tmp_path / "out" / "log.jsonl").read_text().splitlines()[0])
    assert entry["tokens"] == len(tok.encode("hello the cat"))
    capsys.readouterr()


# JSON lines


LINES = FIELD / "json-lines" / "lines.jsonl"


def test_tokenize_reads_json_lines_as_documents(tmp_path, capsys):
    tok = tokenizer("special-twice")
    assert main(["tokenize", str(LINES), "--tokenizer", str(FIELD / "special-twice"),
                 "--out", str(tmp_path / "x.bin")]) == 0
    expected = [0, *tok.encode("hello the cat", False), 1, 0, *tok.encode("the dog ran", False)]
    assert ids_of(TokenBlockDataset(tmp_path / "x.bin", 64)) == expected
    assert ids_of(StreamingTextDataset(files=[LINES], tokenizer=tok, block_size=64)) == expected
    assert ids_of(StreamingTextDataset([LINES], tok, 64)) == expected
    capsys.readouterr()


def test_a_tokenizer_is_trained_on_the_texts_of_json_lines(tmp_path):
    rows = [{"text": "the cat sat"}, {"prompt": "the dog ", "response": "ran"}] * 5
    path = written(tmp_path / "x.jsonl", *rows)
    ours = llmc.Tokenizer.train(files=[path], vocab_size=280)
    assert ours.get_vocab() == llmc.Tokenizer.train(["the cat sat", "the dog ran"] * 5, vocab_size=280).get_vocab()
    path.write_text('{"text": "\\ud800"}\n')
    with pytest.raises(DataError, match=r"x.jsonl:1: character 0 is .*surrogate"):
        llmc.Tokenizer.train(files=[path], vocab_size=280)


def test_prompts_and_responses_are_no_documents(tmp_path, capsys):
    path = written(tmp_path / "x.jsonl", {"text": "the"}, {"prompt": "the", "response": " cat"})
    words = r"x.jsonl:2: a prompt and its response.*llmc train, llmc lora and llmc eval read such rows"
    with pytest.raises(DataError, match=words):
        tokenize_file(path, tokenizer("chat"), tmp_path / "x.bin", progress=False)
    with pytest.raises(DataError, match=words):
        list(StreamingTextDataset(files=[path], tokenizer=tokenizer("chat"), block_size=8))
    assert main(["tokenize", str(path), "--tokenizer", str(FIELD / "chat")]) == 1
    assert re.search(words, capsys.readouterr().err) and not (tmp_path / "x.bin").exists()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a model and the byte-level tokenizer of `special-twice`."""
    folder = tmp_path_factory.mktemp("model") / "base"
    shutil.copytree(FIELD / "special-twice", folder)
    config = llmc.Config(model_type="llama", vocab_size=290, hidden_size=16, num_hidden_layers=1,
                         num_attention_heads=2, intermediate_size=24, max_position_embeddings=64)
    llmc.Model(config).save_pretrained(folder)
    return folder


ANSWERS = [{"prompt": f"the cat {index}", "response": " sat on the mat"} for index in range(12)]


@pytest.mark.parametrize("rows", [rows_of(LINES) * 6, ANSWERS], ids=["texts", "responses"])
def test_train_reads_json_lines(model, tmp_path, capsys, rows):
    path = written(tmp_path / "x.jsonl", *rows)
    out = tmp_path / "out"
    assert main(["train", str(path), "--model", str(model), "--eval-data", str(path), "--max-steps", "2",
                 "--learning-rate", "0", "--output-dir", str(out), "--disable-tqdm"]) == 0
    data = JsonlDataset(path, tokenizer("special-twice"), 64)
    opened = llmc.Model.from_pretrained(model)
    trainer = llmc.Trainer(opened, llmc.TrainingArguments(str(tmp_path / "other")))
    expected = trainer.evaluate(data)
    said = capsys.readouterr()
    assert f"{len(rows)} rows, {expected['eval_tokens']} targets" in said.err
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert abs(entries[-1]["eval_loss"] - expected["eval_loss"]) < 1e-6
    assert main(["eval", str(model), "--text", str(path)]) == 0
    assert f"{expected['eval_tokens']}" in capsys.readouterr().out


def test_a_new_tokenizer_and_model_are_made_of_json_lines(tmp_path, capsys):
    path = written(tmp_path / "x.ndjson", *ANSWERS * 3)
    assert main(["train", str(path), "--vocab-size", "300", "--hidden-size", "16", "--num-hidden-layers", "1",
                 "--max-steps", "2", "--output-dir", str(tmp_path / "out"), "--disable-tqdm"]) == 0
    tok = llmc.Tokenizer.from_pretrained(tmp_path / "out")
    assert "response" not in "".join(tok.get_vocab()) and "Ġsat" in tok.get_vocab()
    capsys.readouterr()


@pytest.mark.parametrize("command", [["train", "FILES"], ["eval", "BASE", "--text", "FILES"]])
def test_json_lines_and_text_are_given_apart(model, tmp_path, capsys, command):
    (tmp_path / "x.txt").write_text("the cat")
    places = {"FILES": [str(LINES), str(tmp_path / "x.txt")], "BASE": [str(model)]}
    assert main([word for each in command for word in places.get(each, [each])]) == 2
    assert "lines.jsonl holds rows, and the other files do not" in capsys.readouterr().err


@pytest.mark.parametrize("row", [{"message": []}, {"input_id": [1, 2]}, [1], {"texts": "a"}])
def test_lines_of_other_kinds_are_refused_by_place(model, tmp_path, capsys, row):
    path = written(tmp_path / "x.jsonl", {"text": "the"}, row)
    for command in (["train", str(path), "--model", str(model), "--output-dir", str(tmp_path / "out")],
                    ["eval", str(model), "--text", str(path)], ["tokenize", str(path), "--tokenizer", str(model)]):
        assert main(command) == 1
        assert "x.jsonl:2: it holds" in capsys.readouterr().err


def test_a_padding_token_needs_no_row_of_the_embedding(model, tmp_path, capsys):
    """It was added to the tokenizer after the model was made, as people do; no number depends on it."""
    base = shutil.copytree(model, tmp_path / "base")
    tok = llmc.Tokenizer.from_pretrained(base)
    assert tok.add_special_tokens({"pad_token": "<pad>"}) == 1 and tok.pad_token_id == 290
    tok.save_pretrained(base)
    path = written(tmp_path / "x.jsonl", {"text": "the cat"}, {"text": "the cat sat on the mat"})
    for command in (["train", str(path), "--model", str(base)], ["lora", str(base), str(path)]):
        assert main([*command, "--max-steps", "1", "--held-out", "0", "--disable-tqdm",
                     "--output-dir", str(tmp_path / command[0])]) == 0
    capsys.readouterr()


# Rows and their targets


class Foreign:
    """A dataset of somebody else's: it has rows, and nobody knows their targets before they are read."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


LEARNT, UNLEARNT = {"input_ids": [1, 2, 3, 4]}, {"input_ids": [1, 2, 3, 4], "labels": [-100] * 4}


def trained(folder, data, **arguments):
    config = llmc.Config(model_type="llama", vocab_size=290, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
                         intermediate_size=12, max_position_embeddings=64)
    arguments = {"max_steps": 2, "per_device_train_batch_size": 2, "save_strategy": "no", **arguments}
    trainer = llmc.Trainer(llmc.Model(config), llmc.TrainingArguments(str(folder), **arguments), data)
    trainer.train()
    return trainer


@pytest.mark.parametrize("data, said", [
    ([LEARNT] * 3, "3 rows, 9 targets"), ((LEARNT, LEARNT), "2 rows, 6 targets"),
    ([LEARNT, {"input_ids": [1, 2, 3], "attention_mask": [1, 1, 0]}], "2 rows, 4 targets"),
    ([LEARNT, {"input_ids": [1, 2, 3], "labels": [5, -100, 3]}], "2 rows, 4 targets"),
    ([LEARNT, UNLEARNT, {"input_ids": [5]}],
     "3 rows, 3 targets; 2 rows without a target: one token alone, or labels of -100 alone, as of a response that was "
     "cut off"),
    ([LEARNT], "1 row, 3 targets; fewer rows than the 2 that a step takes: each step sees all of them"),
    (Foreign([LEARNT] * 3), "3 rows"), (iter([LEARNT] * 9), None),
    (TokenBlockDataset(np.arange(13), 4), "3 rows, 9 targets; 1 token at the end left out, too few for a row"),
])  # fmt: skip
def test_a_training_says_its_rows_and_targets_first(tmp_path, capsys, data, said):
    trained(tmp_path, data)
    first = capsys.readouterr().err.splitlines()[0]
    assert first == f"training on {said}" if said else first.startswith("step")


def test_what_is_said_to_be_counted_is_what_is_counted(tmp_path):
    tok = tokenizer("special-twice")
    path = written(tmp_path / "x.jsonl", *ANSWERS, {"text": "the cat sat on the mat " * 9}, {"text": "a"})
    for data in (JsonlDataset(path, tok, 32), TextDataset(["the cat sat on the mat", "a"] * 4, tok, 5),
                 TextDataset(["the cat"], tok, 64, padding="max_length"), TokenBlockDataset(np.arange(14), 4),
                 TokenBlockDataset(np.arange(14), 4, drop_last=True), TokenBlockDataset(np.arange(3), 4)):
        items = [data[index] for index in range(len(data))]
        assert data.count_targets().tolist() == [int((item["labels"][1:] != -100).sum()) for item in items]
        assert data.count_targets().tolist() == list(map(targets_of, items))
    assert TokenBlockDataset(np.arange(14), 4, drop_last=True).dropped_tokens == 2
    assert TokenBlockDataset(np.arange(14), 4).dropped_tokens == 0


@pytest.mark.parametrize("data", [[UNLEARNT] * 4, ({"input_ids": [3]},), TextDataset(["a"], tokenizer("chat"), 8)])
def test_data_that_is_known_to_hold_no_target_is_refused_before_anything_is_done(tmp_path, data):
    with pytest.raises(DataError, match=r"train_dataset has no target to learn in \d rows?: each has one token alone"):
        trained(tmp_path / "out", data)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [Foreign, iter])
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_other_data_without_a_target_in_the_first_epoch_is_refused(tmp_path, kind, steps):
    with pytest.raises(DataError, match="no row that was read of train_dataset has a target to learn"):
        trained(tmp_path, kind([UNLEARNT] * 4), max_steps=steps, save_strategy="steps", save_steps=100)
    assert not (tmp_path / "model.safetensors").exists()


def test_a_single_target_in_the_first_epoch_is_enough(tmp_path):
    trained(tmp_path, Foreign([UNLEARNT] * 4 + [LEARNT]), max_steps=9)


def test_a_training_that_a_callback_stops_is_no_error(tmp_path):
    config = llmc.Config(model_type="llama", vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
                         intermediate_size=12, max_position_embeddings=64)
    arguments = llmc.TrainingArguments(str(tmp_path), max_steps=9, per_device_train_batch_size=1)
    result = llmc.Trainer(llmc.Model(config), arguments, Foreign([UNLEARNT] * 4), callbacks=[lambda _: "stop"]).train()
    assert result.stopped and result.step == 1


def test_a_row_that_is_none_is_refused_with_its_place(tmp_path):
    for wrong in ({"labels": [1]}, 5, {"input_ids": "text"}, {"input_ids": 5}):
        with pytest.raises(DataError, match="train_dataset, items .* in this order: item"):
            trained(tmp_path, [LEARNT, wrong])


def test_llmc_train_and_lora_say_what_they_learn_from(model, tmp_path, capsys):
    rows = [*ANSWERS[:3], {"text": "the cat sat on the mat"}]
    path = written(tmp_path / "x.jsonl", *rows)
    for command in (["train", str(path), "--model", str(model)], ["lora", str(model), str(path)]):
        assert main([*command, "--held-out", "0", "--max-steps", "1", "--disable-tqdm",
                     "--output-dir", str(tmp_path / command[0])]) == 0
        targets = int(JsonlDataset(path, tokenizer("special-twice"), 64).count_targets().sum())
        said = f"\ntraining on 4 rows, {targets} targets; fewer rows than the 8 that a step takes"
        assert said in capsys.readouterr().err
