"""Tokenizers: exact round trips, transformers' ids, and calls that make no sense refused."""

import json
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_json import added, opened, sentencepiece, tiktoken, tokenizer_json

from llmc.data import builtin_text
from llmc.errors import DataError
from llmc.tokenizer import Tokenizer

CORPUS = builtin_text()[:60_000]
TORTURE = [
    "", " ", "  \n\n\t x", "plain words, and more of them", "It's THEY'RE we'll", "12345 1.5e-10",
    "tabs\tand\r\nreturns\r", "你好，世界", "Привет, мир", "مرحبا", "👩‍👩‍👧‍👦 emoji 🏳️‍🌈", "e\u0301 combining",
    "\x00\x01\x7f\x80\xff", "\ufeffbom", "\u2028\u2029\u0085", "a" * 300, "<|endoftext|>",
    "x<|endoftext|><|endoftext|> y", "<|endoftex", "trailing  ", "\U0010ffff\ue000", "ﬁ ligature ①",
]


@pytest.fixture(scope="module")
def tok():
    return Tokenizer.train([CORPUS], vocab_size=600)


@pytest.fixture(scope="module")
def folder(tok, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    tok.save_pretrained(path)
    return path


# Training


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_any_text_comes_back_exactly(tok, text):
    assert tok.decode(tok.encode(text)) == text


@pytest.mark.parametrize("text", TORTURE)
def test_awkward_texts_come_back_exactly(tok, text):
    assert tok.decode(tok.encode(text)) == text


def test_backlog_59_every_byte_has_a_token_and_no_id_is_none(tok):
    tokens = set(tok.get_vocab())
    assert set(tokenizers.pre_tokenizers.ByteLevel.alphabet()) <= tokens
    everything = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x11000), *range(0x1F300, 0x1F700)]))
    ids = tok.encode(everything)
    assert None not in ids and 0 <= min(ids) <= max(ids) < len(tok)
    assert tok.decode(ids) == everything


def test_backlog_58_merges_are_applied_in_their_order(tmp_path):
    tok = opened(tmp_path, tokenizer_json(model_vocab={"a": 0, "b": 1, "c": 2, "bc": 3, "ab": 4},
                                          model_merges=[["b", "c"], ["a", "b"]]))
    assert tok.tokenize("abc") == ["a", "bc"]  # the longest match from the left would be "ab", "c"


def test_training_is_deterministic(tok):
    assert Tokenizer.train([CORPUS], vocab_size=600).get_vocab() == tok.get_vocab()


def test_training_is_the_same_with_one_thread(tok):
    code = ("import json; from llmc import Tokenizer, data;"
            f"print(json.dumps(Tokenizer.train([data.builtin_text()[:{len(CORPUS)}]], vocab_size=600).get_vocab()))")
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True,
                            env={"TOKENIZERS_PARALLELISM": "false", "PATH": ""}).stdout
    assert json.loads(output) == tok.get_vocab()


def test_training_on_files_equals_training_on_their_texts(tmp_path, tok):
    (tmp_path / "corpus.txt").write_bytes(CORPUS.encode())
    for files in ([tmp_path / "corpus.txt"], str(tmp_path / "corpus.txt")):
        assert Tokenizer.train(files=files, vocab_size=600).get_vocab() == tok.get_vocab()


def test_vocab_size_is_what_was_asked_for(tok):
    assert tok.vocab_size == len(tok) == 600
    assert sorted(tok.get_vocab().values()) == list(range(600))


def test_end_of_text_is_the_default_special_token(tok):
    assert (tok.eos_token, tok.eos_token_id) == ("<|endoftext|>", 0)
    assert tok.bos_token is None and tok.pad_token_id is None
    assert tok.all_special_ids == [0]


def test_special_tokens_are_known_by_their_usual_names_or_by_a_dict():
    tok = Tokenizer.train(["some text"], vocab_size=300, special_tokens=["<s>", "</s>", "<pad>", "<user>"])
    assert (tok.bos_token_id, tok.eos_token_id, tok.pad_token_id) == (0, 1, 2)
    assert tok.encode("<user>") == [3]
    tok = Tokenizer.train(["some text"], vocab_size=300, special_tokens={"eos_token": "<end>", "pad_token": "<end>"})
    assert (tok.eos_token_id, tok.pad_token_id) == (0, 0)


def test_min_frequency_leaves_rare_pairs_alone():
    assert len(Tokenizer.train(["ab cd"], vocab_size=300, min_frequency=2)) == 257
    assert len(Tokenizer.train(["ab cd"], vocab_size=300, min_frequency=1)) > 257


def test_one_endless_word_does_not_hang_the_training():
    start = time.perf_counter()
    Tokenizer.train(["ab" * 300_000, " " * 300_000], vocab_size=300)
    assert time.perf_counter() - start < 20


def test_training_without_text_is_an_error(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    for source in ({"texts": []}, {"texts": ["", ""]}, {"files": [tmp_path / "empty.txt"]}):
        with pytest.raises(DataError, match="hold no text"):
            Tokenizer.train(**source, vocab_size=300)


def test_training_errors_are_those_of_the_source(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 au lait")
    with pytest.raises(DataError, match=r"latin.txt: byte 3 \(0xe9\) is not UTF-8"):
        Tokenizer.train(files=[tmp_path / "latin.txt"], vocab_size=300)
    with pytest.raises(FileNotFoundError):
        Tokenizer.train(files=[tmp_path / "none.txt"], vocab_size=300)
    with pytest.raises(TypeError, match=r"texts\[1\] is int"):
        Tokenizer.train(["text", 5], vocab_size=300)
    with pytest.raises(DataError, match=r"texts\[0\]: character 1 .* surrogate"):
        Tokenizer.train(["x\ud800"], vocab_size=300)

    def failing():
        yield "text"
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        Tokenizer.train(failing(), vocab_size=300)


def test_impossible_training_requests_are_refused():
    with pytest.raises(DataError, match="vocab_size is 256; .* need 257"):
        Tokenizer.train(["text"], vocab_size=256)
    with pytest.raises(DataError, match="'a' is one of the 256 bytes"):
        Tokenizer.train(["text"], vocab_size=300, special_tokens=["a"])
    with pytest.raises(DataError, match="special token is empty"):
        Tokenizer.train(["text"], vocab_size=300, special_tokens=[""])
    with pytest.raises(DataError, match="'eos' ?; nearest: eos_token|called 'eos'"):
        Tokenizer.train(["text"], vocab_size=300, special_tokens={"eos": "x"})
    for wrong in ({}, {"texts": ["x"], "files": ["y"]}, {"texts": "one string"},
                  {"texts": ["x"], "special_tokens": "<s>"}):
        with pytest.raises(TypeError):
            Tokenizer.train(**wrong, vocab_size=300)


# Calls


def test_one_text_gives_lists_and_a_list_gives_lists_of_lists(tok):
    ids = tok.encode("two words")
    assert tok("two words") == {"input_ids": ids, "attention_mask": [1] * len(ids)}
    assert tok(["two words", ""]) == {"input_ids": [ids, []], "attention_mask": [[1] * len(ids), []]}
    assert tok([]) == {"input_ids": [], "attention_mask": []}


def test_padding_gives_arrays(tok):
    texts = ["a longer text", "short"]
    rows = tok(texts)["input_ids"]
    for side in ("right", "left"):
        batch = tok(texts, padding=True, padding_side=side)
        assert batch["input_ids"].dtype == batch["attention_mask"].dtype == np.int64
        for row, ids, mask in zip(rows, batch["input_ids"], batch["attention_mask"], strict=True):
            assert ids[mask == 1].tolist() == row and set(ids[mask == 0]) <= {tok.eos_token_id}
            assert mask.tolist() == sorted(mask, reverse=side == "right")
    assert tok(texts, padding="max_length", max_length=40)["input_ids"].shape == (2, 40)
    assert tok("short", padding="max_length", max_length=40)["input_ids"].shape == (40,)
    assert tok("short", return_tensors="np")["input_ids"].tolist() == [rows[1]]
    assert tok([], padding=True)["input_ids"].shape == (0, 0)


def test_truncation_keeps_the_beginning(tok):
    ids = tok.encode("some rather long text")
    assert tok("some rather long text", truncation=True, max_length=3)["input_ids"] == ids[:3]


def test_calls_that_make_no_sense_are_refused(tok):
    for words, arguments in {
        "padding is 'sideways'": {"padding": "sideways"},
        "truncation is 'left'": {"truncation": "left"},
        "says nothing without": {"max_length": 5},
        "need max_length": {"truncation": True},
        "max_length is 0": {"truncation": True, "max_length": 0},
        "max_length is True": {"truncation": True, "max_length": True},
        "padding_side is 'up'": {"padding": True, "padding_side": "up"},
        "return_tensors is 'pt'": {"return_tensors": "pt"},
    }.items():
        with pytest.raises(DataError, match=words):
            tok(["a", "bb cc"], **arguments)
    with pytest.raises(DataError, match="texts of 1 to .* tokens make no array; pass padding=True"):
        tok(["a", "b c d e f g"], return_tensors="np")
    with pytest.raises(TypeError, match="paddin"):
        tok("a", paddin=True)
    with pytest.raises(TypeError, match="text 1 is NoneType"):
        tok(["a", None])
    with pytest.raises(TypeError, match="encode takes one text"):
        tok.encode(["a"])
    with pytest.raises(DataError, match="text 1: character 2 .*surrogate"):
        tok(["fine", "no\ud800"])


def test_padding_needs_a_token_to_pad_with():
    tok = Tokenizer.train(["some text"], vocab_size=300, special_tokens=[])
    with pytest.raises(DataError, match="needs a pad_token or an eos_token"):
        tok(["a", "a b c"], padding=True)


def test_decode_takes_what_models_give(tok):
    ids = tok.encode("any text")
    for given_ids in (ids, np.array(ids), np.array(ids, np.uint16), tuple(ids)):
        assert tok.decode(given_ids) == "any text"
    assert tok.decode([]) == "" and tok.decode(tok.convert_tokens_to_ids("a")) == "a"
    assert tok.batch_decode(np.array([ids, ids])) == ["any text"] * 2
    assert tok.decode([0, *ids]) == "<|endoftext|>any text"
    assert tok.decode([0, *ids], skip_special_tokens=True) == "any text"


@pytest.mark.parametrize("ids, words", [
    ([1, 2**32], r"ids\[1\] is 4294967296, which is no id"), ([-1], r"ids\[0\] is -1"), ([-100], "-100 marks labels"),
    ([2**40], "is 1099511627776"), ([0.5], "float64, not integers"), ([[1, 2]], r"shape \(1, 2\)"),
    (["a"], "not integers"),
])
def test_decode_refuses_what_is_no_id(tok, ids, words):
    with pytest.raises(DataError, match=words):
        tok.decode(ids)


def test_tokens_and_ids_convert(tok):
    assert tok.convert_ids_to_tokens(tok.encode("the the")) == tok.tokenize("the the") == ["the", "Ġthe"]
    assert tok.convert_ids_to_tokens(0) == "<|endoftext|>"
    assert tok.convert_tokens_to_ids(["<|endoftext|>", "nonsense"]) == [0, None]


def test_special_tokens_can_be_added_and_chosen(folder):
    tok = Tokenizer.from_pretrained(folder)
    tok.pad_token = tok.eos_token
    assert tok.pad_token_id == 0
    assert tok.add_special_tokens({"pad_token": "<pad>", "additional_special_tokens": ["<user>", "<pad>"]}) == 2
    assert (tok.pad_token_id, len(tok), tok.vocab_size) == (600, 602, 600)
    assert tok.add_special_tokens(["<user>"]) == 0
    assert tok.decode(tok.encode("hi<user>"), skip_special_tokens=True) == "hi"
    with pytest.raises(DataError, match="'<nobody>' is not in the vocabulary"):
        tok.eos_token = "<nobody>"


def test_pickled_copies_encode_the_same(tok):
    copy = pickle.loads(pickle.dumps(tok))
    assert copy.encode(CORPUS) == tok.encode(CORPUS) and copy.eos_token_id == 0


# Files


def test_what_is_saved_opens_the_same(tok, folder):
    for path in (folder, str(folder), folder / "tokenizer.json"):
        again = Tokenizer.from_pretrained(path)
        assert again.encode(CORPUS) == tok.encode(CORPUS)
        assert again.get_vocab() == tok.get_vocab()
        assert again.eos_token == tok.eos_token


def test_saving_what_was_opened_writes_the_same_bytes(folder, tmp_path):
    Tokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]


def test_fields_of_the_configuration_that_are_not_ours_are_kept(folder, tmp_path):
    data = json.loads((folder / "tokenizer.json").read_text())
    config = {"chat_template": "{{ x }}", "tokenizer_class": "LlamaTokenizer", "model_max_length": 512,
              "added_tokens_decoder": {}}
    opened(tmp_path, data, config).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["chat_template"] == "{{ x }}" and config["model_max_length"] == 512
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_transformers_opens_what_is_saved_with_the_same_ids(peers, tok, folder):
    theirs = peers.transformers.AutoTokenizer.from_pretrained(str(folder))
    assert (theirs.eos_token_id, theirs.pad_token_id, theirs.bos_token_id) == (0, None, None)
    assert (len(theirs), theirs.vocab_size, theirs.get_vocab()) == (len(tok), tok.vocab_size, tok.get_vocab())
    for text in [*TORTURE, CORPUS]:
        assert theirs(text)["input_ids"] == tok(text)["input_ids"]
        assert theirs.decode(tok.encode(text), clean_up_tokenization_spaces=False) == text
        assert theirs.tokenize(text) == tok.tokenize(text)


def test_padding_and_truncation_are_those_of_transformers(peers, folder):
    tok = Tokenizer.from_pretrained(folder)
    theirs = peers.transformers.AutoTokenizer.from_pretrained(str(folder))
    tok.pad_token = theirs.pad_token = "<|endoftext|>"
    texts = ["one", "one two three four five six seven", ""]
    for side in ("right", "left"):
        tok.padding_side = theirs.padding_side = side
        for arguments in ({"padding": True}, {"padding": "max_length", "max_length": 20}, {"padding": "longest"},
                          {"padding": True, "truncation": True, "max_length": 4}):
            ours, expected = tok(texts, **arguments), theirs(texts, return_tensors="np", **arguments)
            for name in ("input_ids", "attention_mask"):
                np.testing.assert_array_equal(ours[name], expected[name])


def write_pair(folder, backend, vocab=None):
    """Write the two files of GPT-2 from a tokenizer of the library."""
    model = json.loads(backend.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(vocab or model["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in model["merges"]))


def test_gpt2_vocab_and_merges_open_as_in_transformers(peers, tok, tmp_path):
    write_pair(tmp_path, tok._backend)
    ours = Tokenizer.from_pretrained(tmp_path)
    theirs = peers.transformers.GPT2Tokenizer.from_pretrained(str(tmp_path))
    assert ours.eos_token == ours.bos_token == ours.unk_token == "<|endoftext|>" == theirs.eos_token
    for text in [*TORTURE, CORPUS]:
        assert ours(text)["input_ids"] == theirs(text)["input_ids"] == tok.encode(text)
        assert ours.decode(ours.encode(text)) == text
    assert Tokenizer.from_pretrained(tmp_path / "vocab.json").encode("x y") == tok.encode("x y")


@pytest.mark.parametrize("config", [{"add_bos_token": True}, {"add_bos_token": True, "add_eos_token": True}])
def test_gpt2_files_begin_texts_as_the_configuration_says(peers, tok, tmp_path, config):
    write_pair(tmp_path, tok._backend)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer", **config}))
    theirs = peers.transformers.GPT2Tokenizer.from_pretrained(str(tmp_path))
    assert Tokenizer.from_pretrained(tmp_path)("x y")["input_ids"] == theirs("x y")["input_ids"]


def test_gpt_vocab_and_merges_open_as_in_transformers(peers, tmp_path):
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    backend.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    backend.train_from_iterator([CORPUS], tokenizers.trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False))
    write_pair(tmp_path, backend)
    ours = Tokenizer.from_pretrained(tmp_path)
    theirs = peers.transformers.OpenAIGPTTokenizer.from_pretrained(str(tmp_path))
    assert ours.unk_token == "<unk>" and ours.eos_token is None
    for text in [*TORTURE, CORPUS]:
        assert ours(text)["input_ids"] == theirs(text)["input_ids"]
    assert ours.decode(ours.encode("Plain words")) == "plain words"


def test_sentencepiece_style_files_open_as_in_transformers(peers, tmp_path):
    ours = sentencepiece(tmp_path, CORPUS)
    theirs = peers.transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    assert (ours.bos_token_id, ours.eos_token_id, ours.unk_token_id) == (1, 2, 0)
    for text in [*TORTURE, CORPUS]:
        assert ours(text)["input_ids"] == theirs(text)["input_ids"]
        assert ours.encode(text, add_special_tokens=False) == theirs.encode(text, add_special_tokens=False)
        assert ours.decode(ours.encode(text)) == theirs.decode(ours.encode(text), clean_up_tokenization_spaces=False)


def test_truncation_keeps_the_template(peers, tmp_path):
    ours = sentencepiece(tmp_path, CORPUS)
    theirs = peers.transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    for length in range(1, 8):
        arguments = {"truncation": True, "max_length": length}
        assert ours("some more words", **arguments)["input_ids"] == theirs("some more words", **arguments)["input_ids"]
    assert ours("some words", truncation=True, max_length=2, add_special_tokens=False)["input_ids"][0] != 1


def test_tiktoken_style_files_open_as_in_transformers(peers, tok, tmp_path):
    ours = tiktoken(tmp_path, tok)
    theirs = peers.transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    for text in [*TORTURE, CORPUS]:
        assert ours(text)["input_ids"] == theirs(text)["input_ids"]
        assert ours.decode(ours.encode(text)) == text


@pytest.mark.parametrize("config", [
    {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>", "add_bos_token": True},
    {"eos_token": "<|endoftext|>", "add_eos_token": True},
    {"eos_token": "<|endoftext|>", "pad_token": "[PAD]"},
    {"eos_token": "the"},
    {"additional_special_tokens": ["<user>", {"content": "<bot>", "lstrip": True, "__type": "AddedToken"}]},
    {"added_tokens_decoder": {"601": {"content": "<2>", "special": True}, "600": {"content": "<1>", "special": False}}},
    {"added_tokens_decoder": {"0": {"content": "<|endoftext|>", "special": True, "rstrip": True, "normalized": False}}},
])
def test_tokens_of_the_configuration_are_added_as_in_transformers(peers, folder, tmp_path, config):
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **config}
    ours = opened(tmp_path, (folder / "tokenizer.json").read_text(), config)
    theirs = peers.transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    assert ours.get_vocab() == theirs.get_vocab()
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        for what in (name, f"{name}_id") if name in config else ():
            assert getattr(ours, what) == getattr(theirs, what)
    for text in ["the <user> and <bot> [PAD]", "<1><2>", "x <|endoftext|>  y"]:
        assert ours(text)["input_ids"] == theirs(text)["input_ids"]
        ids = ours.encode(text)
        assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    ours.save_pretrained(tmp_path / "saved")
    again = peers.transformers.AutoTokenizer.from_pretrained(str(tmp_path / "saved"))
    assert again("the <1> [PAD]<|endoftext|> x")["input_ids"] == theirs("the <1> [PAD]<|endoftext|> x")["input_ids"]


def test_special_tokens_map_and_habits_name_what_the_configuration_does_not(tmp_path):
    data = tokenizer_json(added_tokens=[added(3, "</s>"), added(4, "<x>")])
    assert opened(tmp_path, data).eos_token == "</s>"
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "<x>"}}))
    assert Tokenizer.from_pretrained(tmp_path).eos_token == "<x>"


def test_padding_and_truncation_of_the_file_wait_for_a_call_that_wants_them(tmp_path):
    data = tokenizer_json(padding={"strategy": {"Fixed": 10**12}, "direction": "Right", "pad_to_multiple_of": None,
                                   "pad_id": 0, "pad_type_id": 0, "pad_token": "a"},
                          truncation={"max_length": 1, "strategy": "LongestFirst", "stride": 0, "direction": "Right"})
    assert opened(tmp_path, data).encode("abab") == [2, 2]


def test_a_name_that_is_nowhere_is_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder or file"):
        Tokenizer.from_pretrained(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="no/such-tokenizer: no such .*, and the hub gives none"):
        Tokenizer.from_pretrained("no/such-tokenizer", local_files_only=True)
    with pytest.raises(FileNotFoundError, match="neither tokenizer.json nor vocab.json"):
        Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    with pytest.raises(FileNotFoundError, match="merges.txt"):
        Tokenizer.from_pretrained(tmp_path)
