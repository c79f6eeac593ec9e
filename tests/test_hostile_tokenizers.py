"""Hostile tokenizer files are refused, with the file and the entry, before the tokenizers library sees them."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_json import TEXT, added, opened, template, tokenizer_json

from llmc.errors import CheckpointError, DataError
from llmc.tokenizer import Tokenizer

DEEP = "[" * 100_000 + "]" * 100_000
SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}

HOSTILE = {
    "empty": ("", "empty"),
    "a pointer": ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9", "git-LFS pointer"),
    "a web page": ("<!DOCTYPE html><html>", "HTML page"),
    "a GGUF file": ("GGUF\x03\x00\x00\x00", "GGUF"),
    "not an object": ("[1, 2]", "not"),
    "cut short": ('{"model": {"vocab": {"a"', "not JSON"),
    "deep": ('{"model": ' + DEEP + "}", "nested too deeply"),
    "a long number": ('{"model": ' + "9" * 5000 + "}", "not JSON"),
    "not a number": ('{"model": NaN}', "NaN is not JSON"),
    "a key twice": ('{"model": {"vocab": {"a": 0, "a": 1}}}', "'a' stands twice"),
    "no model": ({"version": "1.0"}, "model is None"),
    "a model that is a list": ({"model": []}, "model is"),
    "an unknown model": (tokenizer_json(model_type="Magic"), "model.type is 'Magic'"),
    "an empty vocabulary": (tokenizer_json(model_vocab={}), "model.vocab is empty"),
    "a vocabulary that is a list": (tokenizer_json(model_vocab=["a"]), "model.vocab is"),
    "a negative id": (tokenizer_json(model_vocab={"a": -1, "b": 1, "ab": 2}), r"model.vocab\['a'\] is -1"),
    "an id of a milliard": (tokenizer_json(model_vocab={"a": 10**9, "b": 1, "ab": 2}), r"vocab\['a'\] is 1000000000"),
    "an id of 2^64": (tokenizer_json(model_vocab={"a": 2**64, "b": 1, "ab": 2}), "18446744073709551616"),
    "a fractional id": (tokenizer_json(model_vocab={"a": 0.5, "b": 1, "ab": 2}), r"model.vocab\['a'\] is 0.5"),
    "a true id": (tokenizer_json(model_vocab={"a": True, "b": 0, "ab": 2}), r"model.vocab\['a'\] is True"),
    "one id twice": (tokenizer_json(model_vocab={"a": 0, "b": 0, "ab": 2}), "'a' and 'b' both have the id 0"),
    "a merge of unknown parts": (tokenizer_json(model_merges=[["a", "c"]]), r"merges\[0\] .*'c' is not in model.vocab"),
    "a merge into nothing": (tokenizer_json(model_merges=[["b", "a"]]), "'ba' is not in model.vocab"),
    "a merge of three": (tokenizer_json(model_merges=["a b", "a b c"]), r"merges\[1\] is 'a b c'"),
    "a merge of numbers": (tokenizer_json(model_merges=[[0, 1]]), r"merges\[0\] is \[0, 1\]"),
    "merges that are an object": (tokenizer_json(model_merges={}), "model.merges is {}"),
    "a prefix that aborts the library": (
        tokenizer_json(model_vocab={"a": 0, "é": 1, "aé": 2}, model_merges=[["a", "é"]],
                       model_continuing_subword_prefix="#"),
        "'é' does not begin with continuing_subword_prefix '#'"),
    "a prefix that is a number": (tokenizer_json(model_continuing_subword_prefix=3), "continuing_subword_prefix is 3"),
    "an impossible dropout": (tokenizer_json(model_dropout=2.0), "the tokenizers library refuses"),
    "added tokens that are an object": (tokenizer_json(added_tokens={}), "added_tokens is {}"),
    "an added token without content": (tokenizer_json(added_tokens=[{"id": 3}]), r"added_tokens\[0\].content is None"),
    "an added token far away": (tokenizer_json(added_tokens=[added(10**9, "x")]), "id is 1000000000"),
    "an added token after a gap": (tokenizer_json(added_tokens=[added(9, "<x>")]), "declares the id 9, .* 3"),
    "an added token on another's id": (tokenizer_json(added_tokens=[added(1, "<x>")]), "'<x>' declares the id 1"),
    "an added token twice": (tokenizer_json(added_tokens=[added(3, "x"), added(4, "x")]), r"added_tokens\[1\].content"),
    "an unknown component": (tokenizer_json(normalizer={"type": "Evil"}), "normalizer.type is 'Evil'"),
    "a component that is a string": (tokenizer_json(decoder="ByteLevel"), "decoder is 'ByteLevel'"),
    "a regex that does not end": (
        tokenizer_json(pre_tokenizer={**SPLIT, "pattern": {"Regex": "(a"}}), "the tokenizers library refuses"),
    "an empty pattern": (tokenizer_json(pre_tokenizer={**SPLIT, "pattern": {"String": ""}}), "pattern is empty"),
    "a decoder that panics": (
        tokenizer_json(decoder={"type": "Strip", "content": "a", "start": 10**9, "stop": 1}), "start 1000000000"),
    "a replacement that explodes": (
        tokenizer_json(normalizer={"type": "Sequence", "normalizers": [
            {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}] * 12}), "let a text grow"),
    "a regex replacement that explodes": (
        tokenizer_json(normalizer={"type": "Replace", "pattern": {"Regex": "."}, "content": "a" * 1000}),
        "let a text grow"),
    "sequences in sequences": (
        tokenizer_json(normalizer=json.loads('{"type":"Sequence","normalizers":[' * 40 + "]}" * 40)),
        "nested too deeply"),
    "a sequence without end": (
        tokenizer_json(normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}] * 1000}), "components"),
    "a template with a strange id": (
        tokenizer_json(post_processor=template([TEXT], {"q": {"id": "q", "ids": [99], "tokens": ["q"]}})), "is 99"),
    "a template that names nobody": (
        tokenizer_json(post_processor=template([{"SpecialToken": {"id": "q", "type_id": 0}}, TEXT], {})), "names 'q'"),
    "a template without the text": (tokenizer_json(post_processor=template([], {})), r"has the texts \[\]"),
    "a template with the text a million times": (
        tokenizer_json(post_processor=template([TEXT] * 5000, {})), "5000 pieces"),
    "a template of numbers": (tokenizer_json(post_processor=template([1], {})), "single is 1"),
    "a BERT template with a strange id": (
        tokenizer_json(post_processor={"type": "BertProcessing", "sep": ["a", 99], "cls": ["b", 1]}),
        r"sep\[1\] is 99"),
}


@pytest.mark.parametrize("data, words", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_tokenizer_files_are_refused_with_the_file_and_the_entry(tmp_path, data, words):
    with pytest.raises(CheckpointError, match=words) as caught:
        opened(tmp_path, data)
    assert "tokenizer.json" in str(caught.value) and len(str(caught.value)) < 1000


def test_bytes_that_are_no_text_are_refused_with_their_place(tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(CheckpointError, match=r"byte 7 \(0xff\) is not UTF-8"):
        Tokenizer.from_pretrained(tmp_path)


def test_a_file_of_hundreds_of_megabytes_is_not_read(tmp_path):
    with open(tmp_path / "tokenizer.json", "wb") as file:
        file.truncate(300 << 20)
    with pytest.raises(CheckpointError, match="314572800 bytes"):
        Tokenizer.from_pretrained(tmp_path)


def test_millions_of_brackets_are_refused_before_they_become_lists(tmp_path):
    start = time.perf_counter()
    with pytest.raises(CheckpointError, match="10000002 entries"):
        opened(tmp_path, '{"model":[' + "[]," * 5_000_000 + "]}")
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("merges, words", [
    ("#version: 0.2\na b c\n", "line 2: 'a b c'"), ("a\n", "line 1: 'a'"), ("a  b\n", "line 1"),
    ("\n\na b\n", "line 1: ''"), ("a c\n", "'c' is not in model.vocab"), ("<html>", "HTML"),
])
def test_hostile_merges_are_refused_with_the_line(tmp_path, merges, words):
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 1, "ab": 2}))
    (tmp_path / "merges.txt").write_text(merges)
    with pytest.raises(CheckpointError, match=words):
        Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("config, words", [
    ([], "not an object"), ({"eos_token": 5}, "eos_token is 5"), ({"eos_token": {"content": []}}, "eos_token is"),
    ({"added_tokens_decoder": {"x": {}}}, "added_tokens_decoder is"),
    ({"added_tokens_decoder": {"3": {}}}, r"added_tokens_decoder\[3\]"),
    ({"added_tokens_decoder": {"999999999": "x"}}, "'x' has the id 999999999"),
    ({"additional_special_tokens": "<x>"}, "additional_special_tokens is '<x>'"),
])
def test_hostile_configurations_are_refused_with_the_field(tmp_path, config, words):
    with pytest.raises(CheckpointError, match=words) as caught:
        opened(tmp_path, tokenizer_json(), config)
    assert "tokenizer_config.json" in str(caught.value)


def test_a_panic_of_the_library_is_an_error_of_ours(tmp_path):
    data = tokenizer_json(pre_tokenizer={**SPLIT, "pattern": {"Regex": "(a|a)*b|cb"}})
    with pytest.raises(DataError, match="encode: the tokenizers library refuses"):
        opened(tmp_path, data).encode("a" * 40 + "cb")


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_files_open_or_are_refused(tmp_path_factory, data):
    text = bytearray(json.dumps(tokenizer_json(
        normalizer={"type": "Replace", "pattern": {"String": " "}, "content": "_"}, added_tokens=[added(3, "<x>")],
        post_processor=template([{"SpecialToken": {"id": "<x>", "type_id": 0}}, TEXT],
                                {"<x>": {"id": "<x>", "ids": [3], "tokens": ["<x>"]}}))).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 3))] = data.draw(st.sampled_from(
            [b"", b"-", b"9", b"null", b"[]", b"{}", b'"', b"1e9", b"true", b"\xff", b",", b"99999999999"]))
    path = tmp_path_factory.getbasetemp() / "damaged.json"
    path.write_bytes(text)
    try:
        Tokenizer.from_pretrained(path).encode("ab <x> a")
    except (CheckpointError, DataError):
        pass
