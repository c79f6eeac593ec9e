"""Small tokenizer files, good ones and the parts to make bad ones of."""

import json

import tokenizers

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


def sentencepiece(tmp_path, corpus):
    """A tokenizer like LLaMA 2's: the whole text is one piece, a space is "▁", unknown characters are bytes."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    backend.train_from_iterator([corpus.replace("\n", " ")], tokenizers.trainers.BpeTrainer(
        vocab_size=700, special_tokens=specials, show_progress=False))
    data = json.loads(backend.to_str())
    data["added_tokens"] = data["added_tokens"][:3]
    data["pre_tokenizer"] = None
    data["normalizer"] = {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
    data["decoder"] = {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    data["post_processor"] = template([{"SpecialToken": {"id": "<s>", "type_id": 0}}, TEXT],
                                      {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}})
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": {"content": "<unk>", "__type": "AddedToken"},
              "tokenizer_class": "PreTrainedTokenizerFast"}
    return opened(tmp_path, data, config)


def tiktoken(tmp_path, trained):
    """The tokenizer `trained` as LLaMA 3 has it: its own regular expression, whole words looked up first."""
    trained.save_pretrained(tmp_path)
    data = json.loads((tmp_path / "tokenizer.json").read_text())
    regex = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
             r"|\s+(?!\S)|\s+")
    data["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]}
    data["model"]["ignore_merges"] = True
    data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]  # the older spelling
    return opened(tmp_path, data, {"eos_token": "<|endoftext|>", "tokenizer_class": "PreTrainedTokenizerFast"})
