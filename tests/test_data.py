"""Datasets and token files: nothing lost, nothing counted twice, files that are whole or not there."""

import json
import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_json import opened, sentencepiece, tiktoken, tokenizer_json

from llmc.data import (
    StreamingTextDataset,
    TextDataset,
    TokenBlockDataset,
    builtin_text,
    pieces,
    split_text,
    tokenize_file,
)
from llmc.data.text_files import read_chunks, whole_lines
from llmc.errors import DataError
from llmc.tokenizer import Tokenizer

CORPUS = builtin_text()[:60_000]


@pytest.fixture(scope="module")
def tok():
    return Tokenizer.train([CORPUS], vocab_size=600)


@pytest.fixture(scope="module")
def framed(tmp_path_factory):
    """A tokenizer that begins every text with `<s>` and gives it a space of its own."""
    return sentencepiece(tmp_path_factory.mktemp("framed"), CORPUS)


def joined(items):
    return np.concatenate([item["input_ids"] for item in items]).tolist()


def check_items(items):
    for item in items:
        assert set(item) == {"input_ids", "labels", "attention_mask"}
        assert all(values.dtype == np.int64 and values.shape == item["input_ids"].shape for values in item.values())
        np.testing.assert_array_equal(item["labels"], item["input_ids"])
        assert item["attention_mask"].all()


# Texts


def test_each_text_is_its_own_item(tok):
    data = TextDataset(["one text", "another, longer text"], tok, block_size=64)
    assert [item["input_ids"].tolist() for item in data] == [tok.encode("one text"), tok.encode("another, longer text")]
    check_items(data)


def test_long_texts_become_several_items_and_lose_nothing(tok):
    texts = [CORPUS[:1000], "short", CORPUS[2000:2500]]
    data = TextDataset(texts, tok, block_size=32)
    assert joined(data) == [number for text in texts for number in tok.encode(text)]
    assert all(0 < len(item["input_ids"]) <= 32 for item in data)
    check_items(data)


def test_texts_keep_the_tokenizers_template_and_end_as_asked(framed):
    data = TextDataset(["some words", "more"], framed, block_size=64, append_eos=True)
    assert data[0]["input_ids"].tolist() == [*framed.encode("some words"), 2]
    assert data[1]["input_ids"].tolist() == [*framed.encode("more"), 2]
    assert data[0]["input_ids"][0] == framed.bos_token_id


def test_backlog_57_padding_is_not_a_target(tok):
    data = TextDataset(["short", "a somewhat longer text"], tok, block_size=50, padding="max_length")
    for item, text in zip(data, ["short", "a somewhat longer text"], strict=True):
        length = len(tok.encode(text))
        assert all(len(values) == 50 for values in item.values())
        assert (item["labels"][length:] == -100).all() and (item["labels"][:length] == tok.encode(text)).all()
        assert item["attention_mask"].tolist() == [1] * length + [0] * (50 - length)


def test_items_are_copies_and_indices_are_python_s(tok):
    data = TextDataset(["one text", "two"], tok, block_size=64)
    data[0]["input_ids"][:] = 0
    data[0]["labels"][:] = 0
    assert data[0]["input_ids"].tolist() == data[0]["labels"].tolist() == tok.encode("one text")
    assert data[-1]["input_ids"].tolist() == tok.encode("two") == data[np.int64(1)]["input_ids"].tolist()
    for index in (2, -3):
        with pytest.raises(IndexError, match=f"item {index} of a dataset of 2"):
            data[index]
    with pytest.raises(TypeError, match="not by 'x'"):
        data["x"]


def test_texts_that_cannot_be_used_are_refused(tok):
    for words, texts in {r"texts\[1\] is '', which has no tokens": ["x", ""], "texts is empty": []}.items():
        with pytest.raises(DataError, match=words):
            TextDataset(texts, tok, block_size=8)
    for texts in ("one string", [b"bytes"], [None]):
        with pytest.raises(TypeError, match="texts"):
            TextDataset(texts, tok, block_size=8)
    for words, block_size in {"block_size is 1,": 1, "block_size is -5,": -5, "block_size is 0,": 0}.items():
        with pytest.raises(DataError, match=words):
            TextDataset(["text"], tok, block_size)
    with pytest.raises(TypeError, match="block_size is 2.5"):
        TextDataset(["text"], tok, 2.5)
    with pytest.raises(DataError, match="padding is True"):
        TextDataset(["text"], tok, 8, padding=True)
    bare = Tokenizer.train(["text"], vocab_size=300, special_tokens=[])
    with pytest.raises(DataError, match="no eos_token"):
        TextDataset(["text"], bare, 8, append_eos=True)


# Cutting


def pieced(monkeypatch, tokenizer, text, piece, window=64):
    monkeypatch.setattr(pieces, "PIECE", piece)
    monkeypatch.setattr(pieces, "WINDOW", window)
    cut = list(pieces.cut([text], tokenizer))
    return cut, [number for part in cut for number in tokenizer.encode(part, add_special_tokens=False)]


@pytest.mark.parametrize("kind", ["gpt2", "sentencepiece", "tiktoken", "gpt"])
def test_a_text_cut_in_pieces_has_the_ids_of_the_whole(monkeypatch, tmp_path, tok, framed, kind):
    if kind == "gpt":
        vocab = {char: number for number, char in enumerate(sorted(set(CORPUS.lower())))}
        vocab |= {f"{char}</w>": number + len(vocab) for number, char in enumerate(vocab)}
        (tmp_path / "vocab.json").write_text(json.dumps({**vocab, "<unk>": len(vocab), "th": len(vocab) + 1,
                                                         "the</w>": len(vocab) + 2}))
        (tmp_path / "merges.txt").write_text("t h\nth e</w>\n")
        tokenizer = Tokenizer.from_pretrained(tmp_path)
    else:
        tokenizer = tiktoken(tmp_path, tok) if kind == "tiktoken" else {"gpt2": tok, "sentencepiece": framed}[kind]
    text = CORPUS[:20_000] + "\n\n  x \n \n y<|endoftext|>\nz " + CORPUS[:5000].replace("\n", "\r\n")
    cut, ids = pieced(monkeypatch, tokenizer, text, piece=500)
    assert len(cut) > 20
    assert ids == tokenizer.encode(text, add_special_tokens=False)


@given(st.text(alphabet="ab.' \n\t1é<|endoftext|>\u2028\r", max_size=300))
@settings(max_examples=100, deadline=None)
def test_any_text_cut_in_pieces_has_the_ids_of_the_whole(tok, framed, text):
    with pytest.MonkeyPatch.context() as patch:
        for tokenizer in (tok, framed):
            ids = pieced(patch, tokenizer, text, piece=10, window=40)[1]
            assert ids == tokenizer.encode(text, add_special_tokens=False)


def test_a_token_that_takes_the_newline_before_it_is_not_cut_off(monkeypatch, tok, tmp_path):
    tok.save_pretrained(tmp_path)
    data = json.loads((tmp_path / "tokenizer.json").read_text())
    data["added_tokens"].append({**data["added_tokens"][0], "id": 600, "content": "<mask>", "lstrip": True})
    tokenizer = opened(tmp_path, data)
    text = "words\n<mask>more\nwords " * 30
    assert pieced(monkeypatch, tokenizer, text, piece=40)[1] == tokenizer.encode(text)


def test_a_text_without_a_place_to_cut_is_kept_whole_up_to_a_limit(monkeypatch, tok):
    assert pieced(monkeypatch, tok, "a" * 5000, piece=10)[0] == ["a" * 5000]
    monkeypatch.setattr(pieces, "LONGEST", 4000)
    with pytest.raises(DataError, match="5000 characters, beginning 'aaaa.*no place"):
        list(pieces.cut(["a" * 5000], tok))


def test_a_tokenizer_of_transformers_serves_as_well(peers, tok, tmp_path):
    tok.save_pretrained(tmp_path)
    theirs = peers.transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    assert joined(TextDataset([CORPUS], theirs, 64)) == tok.encode(CORPUS)
    assert joined(StreamingTextDataset([CORPUS], theirs, 64)) == tok.encode(CORPUS)


# Streams


def test_a_stream_is_packed_with_the_end_of_text_between_documents(tok):
    texts = ["first document", "", "second", "a third one, longer"]
    expected = [*tok.encode(texts[0]), 0, *tok.encode(texts[2]), 0, *tok.encode(texts[3])]
    size = 8 if len(expected) % 8 != 1 else 7  # a single token left over would be no block
    items = list(StreamingTextDataset(texts, tok, block_size=size))
    assert joined(items) == expected
    assert [len(item["input_ids"]) for item in items[:-1]] == [size] * (len(items) - 1)
    check_items(items)


def test_a_stream_keeps_the_template_of_each_document(framed):
    expected = [*framed.encode("some words"), 2, *framed.encode("more")]
    assert joined(StreamingTextDataset(["some words", "more"], framed, 1000)) == expected


def test_a_stream_without_end_of_text_joins_its_documents():
    bare = Tokenizer.train(["text"], vocab_size=300, special_tokens=[])
    assert joined(StreamingTextDataset(["ab", "cd"], bare, 16)) == bare.encode("ab") + bare.encode("cd")


def test_a_stream_is_read_afresh_each_time(tok, tmp_path):
    (tmp_path / "a.txt").write_text("first file\n")
    (tmp_path / "b.txt").write_text("second file\n")
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
    expected = [*tok.encode("first file\n"), 0, *tok.encode("second file\n")]
    texts = ["first file\n", "second file\n"]
    for stream in (
        StreamingTextDataset(texts, tok, 8),
        StreamingTextDataset(paths, tok, 8),
        StreamingTextDataset(files=map(str, paths), tokenizer=tok, block_size=8),
        StreamingTextDataset(lambda: iter(texts), tok, 8),
    ):
        assert stream.restartable
        assert joined(stream) == joined(stream) == expected
    assert joined(StreamingTextDataset(str(paths[0]), tok, 8)) == tok.encode("first file\n")


def test_a_one_shot_stream_says_so(tok):
    stream = StreamingTextDataset((text for text in ["some text"]), tok, 8)
    assert not stream.restartable
    assert joined(stream) == tok.encode("some text")
    with pytest.raises(DataError, match="generator, which can be read only once"):
        next(iter(stream))


def test_a_stream_holds_no_more_than_it_needs(tok):
    line = "a line of text that repeats itself for ever and ever\n"
    stream = StreamingTextDataset(lambda: (line * 500 for _ in range(50)), tok, 128)
    blocks = iter(stream)
    next(blocks)
    tracemalloc.start()
    try:
        for _ in blocks:
            pass
        assert tracemalloc.get_traced_memory()[1] < 2e6  # bytes; all the ids take more than twice that
    finally:
        tracemalloc.stop()


def test_streams_that_cannot_be_used_are_refused(tok, tmp_path):
    (tmp_path / "a.txt").write_text("text")
    for words, stream in {
        "0 tokens, and a block at least 2": StreamingTextDataset([], tok, 8),
        "1 tokens": StreamingTextDataset(["a"], tok, 8),
        "and a block at least 64": StreamingTextDataset(["a few words"], tok, 64, drop_last=True),
        "names a file; pass files": StreamingTextDataset([str(tmp_path / "a.txt")], tok, 8),
    }.items():
        with pytest.raises(DataError, match=words):
            list(stream)
    with pytest.raises(TypeError, match="document 1 is int"):
        list(StreamingTextDataset(["x", 5], tok, 8))
    with pytest.raises(DataError, match="block_size is 1"):
        StreamingTextDataset(["x"], tok, 1)
    with pytest.raises(FileNotFoundError, match="none.txt: no such file"):
        StreamingTextDataset(files=["none.txt"], tokenizer=tok, block_size=8)
    with pytest.raises(FileNotFoundError, match="pass"):
        StreamingTextDataset("the text itself", tok, 8)
    sized = {"tokenizer": tok, "block_size": 8}
    for wrong in ({"texts": ["x"]}, sized, {"texts": 5, **sized}, {"texts": ["x"], "files": ["x"], **sized}):
        with pytest.raises(TypeError):
            StreamingTextDataset(**wrong)


# Files


def test_text_files_are_read_in_chunks_without_loss(tmp_path, monkeypatch):
    text = "é漢👩‍👧\r\n\x00" * 1000 + CORPUS
    (tmp_path / "text").write_bytes(text.encode())
    for size in (1, 7, 1000):
        monkeypatch.setattr("llmc.data.text_files.CHUNK_BYTES", size if size > 1 else 4096 + 1)
        read = []
        assert "".join(read_chunks(tmp_path / "text", read.append)) == text
        assert sum(read) == len(text.encode())
        assert "".join(whole_lines(read_chunks(tmp_path / "text"))) == text


@pytest.mark.parametrize("data, at", [
    (b"caf\xe9 au lait", 3), (b"\xff\xfea\0", 0), ("é".encode() * 5 + b"\xf0\x9f", 10),
    (b"x" * (1 << 20) + b"\x80", 1 << 20), (b"y" * ((1 << 20) - 1) + b"\xe6\xbc!", (1 << 20) - 1),
])
def test_bytes_that_are_no_utf8_are_named_by_their_offset(tok, tmp_path, data, at):
    (tmp_path / "bad.txt").write_bytes(data)
    with pytest.raises(DataError, match=rf"bad.txt: byte {at} \(0x{data[at]:02x}\) is not UTF-8"):
        tokenize_file(tmp_path / "bad.txt", tok, tmp_path / "out.bin", progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.txt"]


def test_tokenize_file_gives_the_ids_of_the_whole_text(tok, framed, tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "PIECE", 3000)
    monkeypatch.setattr("llmc.data.text_files.CHUNK_BYTES", 5000)
    text = CORPUS + "\r\n<|endoftext|>\n\n" + CORPUS[:3000]
    (tmp_path / "text.txt").write_bytes(text.encode())
    for tokenizer in (tok, framed):
        info = tokenize_file(tmp_path / "text.txt", tokenizer, tmp_path / "out.bin", progress=False)
        ids = np.fromfile(tmp_path / "out.bin", "<u2")
        assert ids.tolist() == tokenizer.encode(text)
        assert info["count"] == len(ids) and info["vocab_size"] == len(tokenizer) and info["dtype"] == "uint16"
        assert json.loads((tmp_path / "out.bin.json").read_text()) == info


def test_tokenize_file_puts_the_end_of_text_between_files(tok, tmp_path):
    (tmp_path / "a").write_text("first")
    (tmp_path / "b").write_text("second")
    info = tokenize_file([tmp_path / "a", str(tmp_path / "b")], tok, tmp_path / "out.bin", progress=False)
    data = TokenBlockDataset(tmp_path / "out.bin", 1000)
    assert joined(data) == [*tok.encode("first"), 0, *tok.encode("second")]
    assert info["eos_token_id"] == 0


def test_large_vocabularies_take_four_bytes(tmp_path):
    vocab = {"a": 0, "b": 1, "ab": 65_540}
    tokenizer = opened(tmp_path, tokenizer_json(model_vocab=vocab))
    (tmp_path / "text").write_text("abab")
    assert tokenize_file(tmp_path / "text", tokenizer, tmp_path / "out.bin", progress=False)["dtype"] == "uint32"
    assert joined(TokenBlockDataset(tmp_path / "out.bin", 2)) == [65_540, 65_540]


def test_tokenize_file_shows_rate_and_time_left(tok, tmp_path, capfd):
    (tmp_path / "text").write_text(CORPUS)
    tokenize_file(tmp_path / "text", tok, tmp_path / "out.bin")
    assert "out.bin: 100%" in capfd.readouterr().err
    tokenize_file(tmp_path / "text", tok, tmp_path / "out.bin", progress=False)
    assert capfd.readouterr().err == ""


def test_an_interrupted_tokenize_file_leaves_what_was_there(tok, tmp_path, monkeypatch):
    (tmp_path / "text").write_text(CORPUS)
    tokenize_file(tmp_path / "text", tok, tmp_path / "out.bin", progress=False)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def interrupt(*arguments):
        yield np.zeros(5, np.int64)
        raise KeyboardInterrupt

    monkeypatch.setattr("llmc.data.blocks.encode_documents", interrupt)
    with pytest.raises(KeyboardInterrupt):
        tokenize_file(tmp_path / "text", tok, tmp_path / "out.bin", progress=False)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_tokenize_file_refuses_what_cannot_work(tok, tmp_path):
    (tmp_path / "empty").write_text("")
    (tmp_path / "text").write_text("text")
    with pytest.raises(DataError, match="empty: no tokens in 0 bytes"):
        tokenize_file(tmp_path / "empty", tok, tmp_path / "out.bin", progress=False)
    with pytest.raises(DataError, match="this is the text itself"):
        tokenize_file(tmp_path / "text", tok, tmp_path / "text", progress=False)
    with pytest.raises(FileNotFoundError):
        tokenize_file(tmp_path / "none", tok, tmp_path / "out.bin", progress=False)
    with pytest.raises(OSError):
        tokenize_file(tmp_path / "text", tok, tmp_path / "no folder" / "out.bin", progress=False)
    assert (tmp_path / "text").read_text() == "text" and not (tmp_path / "out.bin").exists()


def test_tokenize_file_needs_little_memory(tok, tmp_path):
    with open(tmp_path / "text", "w") as file:
        for _ in range(25):
            file.write(CORPUS)
    tok.save_pretrained(tmp_path / "tok")
    (tmp_path / "short").write_text(CORPUS[:5000])
    code = """
import resource, sys
from llmc import Tokenizer, data
tok = Tokenizer.from_pretrained(sys.argv[1] + "/tok")
data.tokenize_file(sys.argv[1] + "/short", tok, sys.argv[1] + "/warm.bin", progress=False)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
data.tokenize_file(sys.argv[1] + "/text", tok, sys.argv[1] + "/out.bin", progress=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    arguments = [sys.executable, "-c", code, str(tmp_path)]
    output = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
    assert int(output) < 100_000  # kB; the whole text at once takes more than twice that


# Blocks


def test_blocks_cover_the_row(tok):
    ids = np.arange(100)
    data = TokenBlockDataset(ids, 32)
    assert len(data) == 4 and joined(data) == ids.tolist()
    check_items(data)
    assert len(TokenBlockDataset(ids, 32, drop_last=True)) == 3
    assert len(TokenBlockDataset(np.arange(97), 32)) == 3  # one token alone predicts nothing
    assert len(TokenBlockDataset([1, 2, 3], 2)) == 1
    for dtype in (np.uint16, np.int32, ">i8"):
        assert joined(TokenBlockDataset(ids.astype(dtype)[::-1], 50)) == ids[::-1].tolist()


def test_bare_token_files_open_when_told_their_type(tmp_path):
    np.arange(64, dtype=np.uint16).tofile(tmp_path / "train.bin")
    with pytest.raises(DataError, match=r"no train.bin.json beside it .* dtype='uint16'"):
        TokenBlockDataset(tmp_path / "train.bin", 16)
    assert joined(TokenBlockDataset(tmp_path / "train.bin", 16, dtype="uint16")) == list(range(64))
    assert len(TokenBlockDataset(str(tmp_path / "train.bin"), 16, dtype=np.uint32)) == 2
    with pytest.raises(DataError, match="uint16 or uint32"):
        TokenBlockDataset(tmp_path / "train.bin", 16, dtype="float32")


@pytest.fixture
def token_file(tok, tmp_path):
    (tmp_path / "text").write_text(CORPUS[:2000])
    tokenize_file(tmp_path / "text", tok, tmp_path / "out.bin", progress=False)
    return tmp_path / "out.bin"


def test_token_files_are_mapped_and_verified(token_file, tok):
    data = TokenBlockDataset(token_file, 16)
    assert data.vocab_size == 600 and joined(data) == tok.encode(CORPUS[:2000])
    data.verify()
    raw = bytearray(token_file.read_bytes())
    raw[0] ^= 1
    token_file.write_bytes(raw)
    with pytest.raises(DataError, match="sha256 is .* says"):
        TokenBlockDataset(token_file, 16).verify()


@pytest.mark.parametrize("change, words", [
    ({"dtype": "float16"}, "does not describe a token file"), ({"dtype": []}, "does not describe a token file"),
    ({"count": 5}, "says 5 tokens of 2 bytes"), ({"count": -1}, "count is -1"), ({"count": 0.5}, "count is 0.5"),
    ({"count": 2**70}, "says"), ({"dtype": "uint32"}, "of 4 bytes"), ({"vocab_size": 0}, "vocab_size is 0"),
    ({"vocab_size": None}, "vocab_size is None"),
])
def test_token_files_that_are_not_what_they_say_are_refused(token_file, change, words):
    sidecar = token_file.parent / "out.bin.json"
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), **change}))
    with pytest.raises(DataError, match=words):
        TokenBlockDataset(token_file, 16)


def test_damaged_token_files_are_refused(token_file):
    with pytest.raises(DataError, match="dtype is uint32, but .* says uint16"):
        TokenBlockDataset(token_file, 16, dtype="uint32")
    os.truncate(token_file, 101)
    with pytest.raises(DataError, match="101 bytes, but"):
        TokenBlockDataset(token_file, 16)
    (token_file.parent / "out.bin.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="out.bin.json: not JSON"):
        TokenBlockDataset(token_file, 16)
    (token_file.parent / "out.bin.json").unlink()
    with pytest.raises(DataError, match="101 bytes are no row"):
        TokenBlockDataset(token_file, 16, dtype="uint16")
    with pytest.raises(FileNotFoundError):
        TokenBlockDataset("none.bin", 16)


@pytest.mark.parametrize("ids, words", [
    (np.zeros(5), "float64 of shape"), (np.zeros((2, 2), int), r"shape \(2, 2\)"), (np.array([True, False]), "bool"),
    (np.zeros(0, int), "0 tokens, and a block has at least 2"), ([1], "1 tokens"), (["a"], "row of integers"),
])
def test_arrays_that_are_no_row_of_ids_are_refused(ids, words):
    with pytest.raises(DataError, match=words):
        TokenBlockDataset(ids, 4)


def test_ids_out_of_range_are_named_with_their_place():
    data = TokenBlockDataset([1, 2, 3, 50, 4, -1], 2, vocab_size=50)
    assert data[0]["input_ids"].tolist() == [1, 2]
    with pytest.raises(DataError, match="token 3 has the id 50, .* vocabulary of 50"):
        data[1]
    with pytest.raises(DataError, match="token 5 has the id -1"):
        data[2]


# The text that every Python carries


def test_builtin_text_is_long_sorted_and_the_same_each_time():
    text = builtin_text()
    assert len(text) > 300_000 and text == builtin_text()
    assert text.index('The "assert" statement') < text.index('The "pass" statement') < text.index('The "yield" ')


def test_split_text_holds_out_an_end_that_is_new():
    text = builtin_text()
    train, held_out = split_text(text)
    assert text.startswith(train) and 0.05 < len(held_out) / len(text) < 0.12
    assert not set(train.split("\n\n")) & set(held_out.split("\n\n"))
    assert split_text("abcdefghij", 0.2) == ("abcdefgh", "ij")


@pytest.mark.parametrize("text, share, words", [
    ("text", 0, "held_out is 0"), ("text", 1.0, "held_out is 1.0"), ("", 0.5, "0 characters"),
    ("a\n\na\n\na", 0.5, "new to hold out"),
])
def test_split_text_refuses_what_leaves_nothing(text, share, words):
    with pytest.raises(DataError, match=words):
        split_text(text, share)
