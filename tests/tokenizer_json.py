"""Small tokenizer files, good ones and the parts to make bad ones of."""

import json

from llmc.tokenizer import Tokenizer

TEXT = {"Sequence": {"id": "A", "type_id": 0}}


def tokenizer_json(**changes):
    """A small tokenizer.json; `model_…` changes the model's fields."""
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]], "dropout": None,
             "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
             "byte_fallback": False, "ignore_merges": False}
    data = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
            "pre_tokenizer": None, "post_processor": None, "decoder": None, "model": model}
    for name, value in changes.items():
        if name.startswith("model_"):
            model[name.removeprefix("model_")] = value
        else:
            data[name] = value
    return data


def added(number, content, **flags):
    return {"id": number, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": True, **flags}


def template(single, special_tokens):
    return {"type": "TemplateProcessing", "single": single, "special_tokens": special_tokens,
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}]}


def opened(tmp_path, data, config=None):
    """The tokenizer of a tokenizer.json given as an object, or as text."""
    (tmp_path / "tokenizer.json").write_text(data if isinstance(data, str) else json.dumps(data))
    if config is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return Tokenizer.from_pretrained(tmp_path)
