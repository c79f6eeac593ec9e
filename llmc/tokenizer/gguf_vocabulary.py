"""The tokenizer of a GGUF file as a tokenizer.json, and back; pre-tokenizers by llama.cpp's words."""

import json

import numpy as np

from llmc.checkpoint.formats.gguf_header import read_header
from llmc.checkpoint.formats.regular_file import RegularFile
from llmc.errors import CheckpointError, ConfigError, shown
from llmc.tokenizer.chat_templates import DEFAULT

_UNKNOWN, CONTROL, USER_DEFINED, _UNUSED = 2, 3, 4, 5  # of tokenizer.ggml.token_type
SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def _split(pattern):
    return [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            {**_BYTES, "use_regex": False}]


# tokenizer.ggml.pre: (pre-tokenizers, normalizer, whether a word that is a token stays whole)
SPLITTING = {
    "gpt-2": ([_BYTES], None, False),
    "smollm": ([{"type": "Digits", "individual_digits": True}, _BYTES], None, False),
    "llama-bpe": (_split(_WORDS + r"\p{N}{1,3}" + _REST), None, True),
    "qwen2": (_split(_WORDS + r"\p{N}" + _REST), {"type": "NFC"}, False),
}


def read_gguf(path):
    """The tokenizer of a GGUF file.

    Parameters
    ----------
    path : path

    Returns
    -------
    tokenizer : dict
        As tokenizer.json holds it.
    config : dict
        As tokenizer_config.json.

    Raises
    ------
    CheckpointError
        When the file is damaged, has no tokenizer, or one whose rules llmc has not; the model still opens.
    """
    with RegularFile(path) as file:
        header = read_header(file)
    kind = header.fields.get("tokenizer.ggml.model")
    if kind not in _MODELS:
        raise CheckpointError(f"{path}: tokenizer.ggml.model is {shown(kind)}; llmc reads {', '.join(_MODELS)}. The "
                              "model opens; give it the tokenizer of the folder that it was made from")
    tokens = _list(header, "tokens", str)
    types = _list(header, "token_type", int, len(tokens)) or [1] * len(tokens)
    if len(set(tokens)) < len(tokens):
        twice = next(token for place, token in enumerate(tokens) if tokens.index(token) < place)
        raise CheckpointError(f"{path}: tokenizer.ggml.tokens has {shown(twice)} twice")
    config = {name: token for name, key in SPECIAL.items() if (token := _token(header, key, tokens)) is not None}
    if isinstance(template := header.fields.get("tokenizer.chat_template"), str):
        config["chat_template"] = template
    parts = _MODELS[kind](header, tokens, types, config)
    added = [{"id": number, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": types[number] != USER_DEFINED}
             for number, token in enumerate(tokens) if types[number] in (_UNKNOWN, CONTROL, USER_DEFINED)]
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, **parts}, config


def has_vocabulary(path):
    """Whether a file has a tokenizer whose rules are here."""
    with RegularFile(path) as file:
        header = read_header(file)
    kind, word = (header.fields.get(f"tokenizer.ggml.{key}") for key in ("model", "pre"))
    return kind in _MODELS and (kind != "gpt2" or word in SPLITTING)


def _byte_level(header, tokens, types, config):
    word = header.fields.get("tokenizer.ggml.pre")
    if word not in SPLITTING:
        raise CheckpointError(f"{header.path}: tokenizer.ggml.pre is {shown(word)}, whose rules llmc has not; it has "
                              f"{', '.join(SPLITTING)}. The model opens; give it the tokenizer of the folder that it "
                              "was made from")
    pieces, normalizer, whole = SPLITTING[word]
    merges = [merge.split(" ") for merge in _list(header, "merges", str)]
    return {
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pieces} if len(pieces) > 1 else pieces[0],
        "post_processor": _frame(header, config, tokens, False) or {**_BYTES, "trim_offsets": False},
        "decoder": _BYTES,
        "model": _bpe(tokens, merges, None, ignore_merges=whole),
    }


def _sentence_pieces(header, tokens, types, config):
    """SentencePiece's BPE: of two neighbours those are joined whose piece has the highest score."""
    scores = header.fields.get("tokenizer.ggml.scores")
    if not isinstance(scores, np.ndarray) or len(scores) != len(tokens):
        raise CheckpointError(f"{header.path}: tokenizer.ggml.scores are not one for each of {len(tokens)} tokens")
    score = dict(zip(tokens, scores.tolist()))
    merges = []
    for token in sorted((token for token, kind in zip(tokens, types) if kind in (1, USER_DEFINED)),
                        key=score.get, reverse=True):  # fmt: skip
        pairs = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        merges += [list(pair) for pair in pairs if pair[0] in score and pair[1] in score]
    space = bool(header.fields.get("tokenizer.ggml.add_space_prefix", True))
    spaces = [{"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    back = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]
    if space:
        spaces.insert(0, {"type": "Prepend", "prepend": "▁"})
        back.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "normalizer": {"type": "Sequence", "normalizers": spaces},
        "pre_tokenizer": None,
        "post_processor": _frame(header, config, tokens, True),
        "decoder": {"type": "Sequence", "decoders": back},
        "model": _bpe(tokens, merges, config.get("unk_token"), fuse_unk=True, byte_fallback=True),
    }


_MODELS = {"gpt2": _byte_level, "llama": _sentence_pieces}


def _bpe(tokens, merges, unknown, **fields):
    return {"type": "BPE", "dropout": None, "unk_token": unknown, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {token: number for number, token in enumerate(tokens)}, "merges": merges} | fields


def _frame(header, config, tokens, begins):
    """What is put before and behind a text; None where that is nothing."""
    bos = config.get("bos_token") if header.fields.get("tokenizer.ggml.add_bos_token", begins) else None
    eos = config.get("eos_token") if header.fields.get("tokenizer.ggml.add_eos_token", False) else None
    if bos is None and eos is None:
        return None

    def special(token, kind):
        return [{"SpecialToken": {"id": token, "type_id": kind}}] if token is not None else []

    def text(name, kind):
        return [*special(bos, kind), {"Sequence": {"id": name, "type_id": kind}}, *special(eos, kind)]

    known = {token: {"id": token, "ids": [tokens.index(token)], "tokens": [token]} for token in {bos, eos} - {None}}
    return {"type": "TemplateProcessing", "single": text("A", 0), "pair": text("A", 0) + text("B", 1),
            "special_tokens": known}


def _token(header, key, tokens):
    number = header.fields.get(f"tokenizer.ggml.{key}_token_id")
    if number is None:
        return None
    if type(number) is not int or not 0 <= number < len(tokens):
        raise CheckpointError(f"{header.path}: tokenizer.ggml.{key}_token_id is {shown(number)}; the file has "
                              f"{len(tokens)} tokens")
    return tokens[number]


def _list(header, name, kind, length=None):
    """The values of an array; [] where there is none and one of `length` is wanted."""
    values = header.fields.get(f"tokenizer.ggml.{name}")
    if values is None and length is not None:
        return []
    values = values.tolist() if isinstance(values, np.ndarray) else values
    if not isinstance(values, list) or any(type(value) is not kind for value in values):
        raise CheckpointError(f"{header.path}: tokenizer.ggml.{name} is no list of {kind.__name__}")
    if length is not None and len(values) != length:
        raise CheckpointError(f"{header.path}: tokenizer.ggml.{name} has {len(values)} values for {length} tokens")
    return values


def written_vocabulary(tokenizer, size):
    """The fields of a GGUF file that say what a tokenizer does.

    Parameters
    ----------
    tokenizer : Tokenizer
    size : int
        Rows of the model's embedding; ids that the tokenizer has not are written as unused.

    Returns
    -------
    dict
        {key: number, str or list}.

    Raises
    ------
    ConfigError
        When llama.cpp has no word for how it splits a text, or it has more ids than the model.
    """
    data = json.loads(tokenizer._backend.to_str())
    model = data["model"]
    word = _word_of(data)
    vocabulary = {**model["vocab"], **{token["content"]: token["id"] for token in data["added_tokens"]}}
    if max(vocabulary.values()) >= size:
        raise ConfigError(f"the tokenizer has the id {max(vocabulary.values())}, the model's vocabulary ends at {size}")
    tokens, types = [f"[PAD{number}]" for number in range(size)], [_UNUSED] * size
    for token, number in vocabulary.items():
        tokens[number], types[number] = token, 1
    for token in data["added_tokens"]:
        types[token["id"]] = CONTROL if token["special"] else USER_DEFINED
    fields = {"model": "gpt2", "pre": word, "tokens": tokens, "token_type": types,
              "merges": [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]}
    fields |= {f"{key}_token_id": vocabulary[token] for name, key in SPECIAL.items()
               if (token := getattr(tokenizer, name)) is not None and token in vocabulary}  # fmt: skip
    fields |= _written_frame(tokenizer)
    fields = {f"tokenizer.ggml.{key}": value for key, value in fields.items()}
    template = tokenizer._chat_templates.get(DEFAULT, tokenizer._config.get("chat_template"))
    if isinstance(template, str):
        fields["tokenizer.chat_template"] = template
    return fields


def _written_frame(tokenizer):
    """What is put around a text, which may be the one token before it and the one behind it."""
    text, framed = tokenizer.encode("a", add_special_tokens=False), tokenizer.encode("a")
    begins, ends = framed[:1] != text[:1], framed[-1:] != text[-1:]
    if framed != [tokenizer.bos_token_id] * begins + text + [tokenizer.eos_token_id] * ends:
        raise ConfigError(f"this tokenizer makes {framed} of one letter, {text}; a GGUF file can say that the "
                          "beginning (bos_token) or the end (eos_token) of a text is marked, and no more")
    return {"add_bos_token": begins, "add_eos_token": ends}


def _word_of(data):
    """tokenizer.ggml.pre of a tokenizer.json."""
    splitter, normalizer, model = data["pre_tokenizer"] or {}, data["normalizer"], data["model"]
    pieces = splitter.get("pretokenizers", [splitter])
    for word, (known, normalized, whole) in SPLITTING.items():
        same = len(pieces) == len(known) and all(_alike(one, two) for one, two in zip(pieces, known))
        same = same and normalizer == normalized and model.get("ignore_merges", False) == whole
        if same and model.get("type") == "BPE":
            return word
    raise ConfigError("this tokenizer splits texts in a way for which tokenizer.ggml.pre has no word here (it has "
                      f"{', '.join(SPLITTING)}); give one that does, or write the model with save_pretrained")


def _alike(one, two):
    return {**one, "trim_offsets": True} == {**two, "trim_offsets": True}
