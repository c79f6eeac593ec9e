"""Reading tokenizer files: everything is checked here before the tokenizers library, which may abort, sees it."""

import json
import os
import reprlib
from contextlib import contextmanager
from pathlib import Path

from llmc.system import hub
from llmc.checkpoint.formats.magic import identify
from llmc.errors import CheckpointError
from llmc.system.small_file import is_there, read_small

MAX_BYTES = 64 << 20  # the largest tokenizer.json in use has about 33 MB
MAX_ENTRIES = 1 << 22  # brackets and commas; the largest vocabulary in use has half as many
MAX_PIECES = 64  # components of a pipeline, tokens of a template, and the growth of a text by replacements
FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
         "merges.txt", "*.jinja")
VOCABULARIES = ("tokenizer.json", "vocab.json")
DIRECTIONS = ("Left", "Right")
SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")

# The pipeline's components, by place; what is not here is refused, because the library trusts its own files.
COMPONENTS = {
    "normalizer": {"NFC", "NFD", "NFKC", "NFKD", "Nmt", "Lowercase", "StripAccents", "Strip", "Prepend", "Replace",
                   "BertNormalizer", "ByteLevel"},
    "pre_tokenizer": {"ByteLevel", "Split", "Whitespace", "WhitespaceSplit", "BertPreTokenizer", "Metaspace",
                      "Punctuation", "Digits", "CharDelimiterSplit", "UnicodeScripts"},
    "post_processor": {"ByteLevel", "TemplateProcessing", "BertProcessing", "RobertaProcessing"},
    "decoder": {"ByteLevel", "ByteFallback", "Fuse", "Replace", "Strip", "Metaspace", "BPEDecoder", "WordPiece"},
}
SEQUENCES = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "post_processor": "processors",
             "decoder": "decoders"}


@contextmanager
def library(kind, where):
    """What the tokenizers library raises inside, Rust panics included, comes out as `kind`."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # pyo3's PanicException is not an Exception
        raise kind(f"{where}: the tokenizers library refuses: {error}") from None


def locate(name, revision=None, local_files_only=False):
    """The folder or file that `name` means: a path, or a repository of the Hugging Face hub."""
    return Path(name if is_there(name) else hub.folder(name, revision, local_files_only, patterns=FILES))


def read_bytes(path):
    """The bytes of a file of plausible size that is not obviously something else."""
    data = read_small(path, MAX_BYTES, "a tokenizer file")
    kind, words = identify(data[:512])
    if (kind or words) and not data.lstrip().startswith(b"{"):
        raise CheckpointError(f"{path}: not a tokenizer file but {words or 'a ' + kind + ' file'}")
    if not data.strip():
        raise CheckpointError(f"{path}: empty")
    return data


def read_text(path):
    """The UTF-8 text of a tokenizer file."""
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: byte {error.start} (0x{error.object[error.start]:02x}) is not UTF-8") from None


def read_json(path):
    """A JSON object in which no key stands twice."""

    def unique(pairs):
        table = dict(pairs)
        if len(table) != len(pairs):
            seen = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))
            raise CheckpointError(f"{path}: the key {short(twice)} stands twice in one object")
        return table

    def constant(word):
        raise CheckpointError(f"{path}: {word} is not JSON")

    text = read_text(path)
    entries = sum(map(text.count, "[{,"))
    if entries > MAX_ENTRIES:
        raise CheckpointError(f"{path}: {entries} entries; a tokenizer file has at most {MAX_ENTRIES}")
    try:
        data = json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except RecursionError:
        raise CheckpointError(f"{path}: nested too deeply") from None
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from None
    return _typed(data, dict, path, "the file")


def read_merges(path):
    """The pairs of a merges.txt, whose lines are `left right`."""
    lines = read_text(path).split("\n")
    merges = []
    for number, line in enumerate(lines, 1):
        line = line.removesuffix("\r")
        if line.startswith("#version") or (not line and number == len(lines)):
            continue
        pair = line.split(" ")
        if len(pair) != 2 or not all(pair):
            raise CheckpointError(f"{path}: line {number}: {short(line)} is not two tokens with one space between")
        merges.append(pair)
    return merges


def holds_tokenizer(folder):
    """Whether a folder has a vocabulary in it, or a .gguf file one that is read here."""
    if hub.is_gguf(folder):
        from llmc.tokenizer.gguf_vocabulary import has_vocabulary

        return has_vocabulary(folder)
    return any(is_there(os.path.join(folder, name)) for name in VOCABULARIES)


def read_folder(path):
    """Open a tokenizer's folder, its tokenizer.json, its vocab.json, or the .gguf file that has it inside.

    Returns
    -------
    tokenizer : dict
        A checked tokenizer.json.
    config : dict
        tokenizer_config.json, completed with what older files say.
    path : Path
        The file the vocabulary came from.
    """
    path = Path(path)
    if hub.is_gguf(path):
        from llmc.tokenizer.gguf_vocabulary import read_gguf

        tokenizer, config = read_gguf(path)
        check(tokenizer, path)
        return tokenizer, config, path
    folder = path if path.is_dir() else path.parent
    if path.is_dir():
        path = next((folder / name for name in VOCABULARIES if is_there(folder / name)), None)
        if path is None:
            raise FileNotFoundError(f"{folder}: neither tokenizer.json nor vocab.json with merges.txt is there")
    config = read_json(folder / "tokenizer_config.json") if is_there(folder / "tokenizer_config.json") else {}
    if path.name == "vocab.json":
        tokenizer = _from_vocab_and_merges(path, folder / "merges.txt")
        if tokenizer["model"]["end_of_word_suffix"]:
            defaults = {"unk_token": "<unk>"}
        else:
            defaults = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
        for name, token in defaults.items():
            if token in tokenizer["model"]["vocab"]:
                config.setdefault(name, token)
        if "added_tokens_decoder" not in config and is_there(folder / "added_tokens.json"):
            added = read_json(folder / "added_tokens.json")
            for token, number in added.items():
                _integer(number, 2**31, folder / "added_tokens.json", token)
            config["added_tokens_decoder"] = {str(number): {"content": token} for token, number in added.items()}
    else:
        tokenizer = read_json(path)
    if is_there(folder / "special_tokens_map.json"):
        for name, value in read_json(folder / "special_tokens_map.json").items():
            config.setdefault(name, value)
    check(tokenizer, path)
    return tokenizer, config, path


def sides(tokenizer):
    """{field of tokenizer_config.json: "left" or "right"}: what a checked tokenizer.json says where that is silent."""
    parts = {"truncation_side": tokenizer.get("truncation"), "padding_side": tokenizer.get("padding")}
    return {name: part.get("direction", "Right").lower() for name, part in parts.items() if part is not None}


def check(tokenizer, path):
    """Refuse a tokenizer.json that the library could not read, or that would make it hang, abort or fill the memory."""
    model = _typed(tokenizer.get("model"), dict, path, "model")
    size = _check_model(model, path)
    added = _typed(tokenizer.setdefault("added_tokens", []), list, path, "added_tokens")
    seen = set()
    for index, token in enumerate(added):
        where = f"added_tokens[{index}]"
        content = _typed(_typed(token, dict, path, where).get("content"), str, path, f"{where}.content")
        _integer(token.get("id"), 2 * (size + len(added)) + 65536, path, f"{where}.id")
        if not content or content in seen:
            raise CheckpointError(f"{path}: {where}.content is {short(content)}, which is empty or stands there twice")
        seen.add(content)
    _check_truncation(tokenizer.get("truncation"), path)
    _check_padding(tokenizer.get("padding"), path)
    for place in COMPONENTS:
        growth, count = _check_component(tokenizer.get(place), place, place, path, size + len(added))
        if growth > MAX_PIECES or count > MAX_PIECES:
            raise CheckpointError(f"{path}: {place}: {count} components let a text grow {growth:g} times; "
                                  f"at most {MAX_PIECES} of each")


def _check_truncation(part, path):
    if part is None:
        return
    _typed(part, dict, path, "truncation")
    _one_of(part.get("direction", "Right"), DIRECTIONS, path, "truncation.direction")
    _one_of(part.get("strategy"), ("LongestFirst", "OnlyFirst", "OnlySecond"), path, "truncation.strategy")
    for name in ("max_length", "stride"):
        _count(part.get(name), path, f"truncation.{name}")


def _check_padding(part, path):
    if part is None:
        return
    _typed(part, dict, path, "padding")
    _one_of(part.get("direction"), DIRECTIONS, path, "padding.direction")
    strategy = part.get("strategy")
    if isinstance(strategy, dict) and strategy.keys() == {"Fixed"}:
        _count(strategy["Fixed"], path, "padding.strategy.Fixed")
    else:
        _one_of(strategy, ("BatchLongest", {"Fixed": "N"}), path, "padding.strategy")
    if part.get("pad_to_multiple_of") is not None:
        _count(part["pad_to_multiple_of"], path, "padding.pad_to_multiple_of")
    for name in ("pad_id", "pad_type_id"):
        _count(part.get(name), path, f"padding.{name}")
    _typed(part.get("pad_token"), str, path, "padding.pad_token")


def _check_model(model, path):
    """The number of ids of the vocabulary, after checking its ids and its merges."""
    kind = model.get("type", "BPE" if "merges" in model else None)
    if kind not in ("BPE", "WordPiece", "WordLevel"):
        raise CheckpointError(f"{path}: model.type is {short(kind)}; llmc reads BPE, WordPiece and WordLevel")
    vocab = _typed(model.get("vocab"), dict, path, "model.vocab")
    if not vocab:
        raise CheckpointError(f"{path}: model.vocab is empty")
    limit = 2 * len(vocab) + 65536
    for token, number in vocab.items():
        if type(number) is not int or not 0 <= number < limit:
            _integer(number, limit, path, f"model.vocab[{short(token)}]")
    if len(set(vocab.values())) != len(vocab):
        owner = {}
        for token, number in vocab.items():
            if number in owner:
                raise CheckpointError(f"{path}: model.vocab: {short(owner[number])} and {short(token)} both have "
                                      f"the id {number}")
            owner[number] = token
    for name in ("unk_token", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name) is not None:
            _typed(model[name], str, path, f"model.{name}")
    if kind == "BPE":
        _check_merges(_typed(model.get("merges"), list, path, "model.merges"), vocab,
                      model.get("continuing_subword_prefix") or "", path)
    return max(vocab.values()) + 1


def _check_merges(merges, vocab, prefix, path):
    """Every merge joins two tokens into a third; the library aborts where the prefix is missing."""
    for index, merge in enumerate(merges):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not (isinstance(pair[0], str) and isinstance(pair[1], str)):
            raise CheckpointError(f"{path}: model.merges[{index}] is {short(merge)}, which is not two tokens")
        left, right = pair
        if prefix and not right.startswith(prefix):
            raise CheckpointError(f"{path}: model.merges[{index}]: {short(right)} does not begin with "
                                  f"continuing_subword_prefix {short(prefix)}")
        for token in (left, right, left + right[len(prefix):]):
            if token not in vocab:
                raise CheckpointError(f"{path}: model.merges[{index}] {short(pair)}: {short(token)} is not in "
                                      f"model.vocab")


def _check_component(part, place, where, path, size, depth=0):
    """How many times a text may grow in this part of the pipeline, and how many components it has."""
    if part is None:
        return 1, 0
    kind = _typed(part, dict, path, where).get("type")
    if kind == "Sequence":
        if depth > 4:
            raise CheckpointError(f"{path}: {where}: sequences nested too deeply")
        inner = _typed(part.get(SEQUENCES[place]), list, path, f"{where}.{SEQUENCES[place]}")
        growth, count = 1, max(0, len(inner) - MAX_PIECES)
        for index, item in enumerate(inner[:MAX_PIECES]):
            more, pieces = _check_component(item, place, f"{where}.{SEQUENCES[place]}[{index}]", path, size, depth + 1)
            growth, count = growth * more, count + pieces
        return growth, count
    if kind not in COMPONENTS[place]:
        known = ", ".join(sorted(COMPONENTS[place]))
        raise CheckpointError(f"{path}: {where}.type is {short(kind)}; llmc reads {known} and Sequence")
    growth = 1
    if kind in ("Replace", "Split"):
        growth = _check_pattern(part, kind, where, path)
    elif kind == "Prepend":
        _bounded(part.get("prepend"), path, f"{where}.prepend")
    elif kind == "Strip" and place == "decoder":
        if [part.get("start"), part.get("stop")] not in ([0, 0], [1, 0], [0, 1]):
            raise CheckpointError(f"{path}: {where}: start {short(part.get('start'))} and stop "
                                  f"{short(part.get('stop'))}; llmc reads 1 and 0, or 0 and 1")
    elif place == "post_processor":
        _check_post_processor(part, kind, where, path, size)
    return growth, 1


def _check_pattern(part, kind, where, path):
    """How many times a text may grow by this replacement."""
    pattern = _typed(part.get("pattern"), dict, path, f"{where}.pattern")
    found = _bounded(next(iter(pattern.values()), None), path, f"{where}.pattern", 1 << 16)
    if not found:
        raise CheckpointError(f"{path}: {where}.pattern is empty")
    if kind == "Split":
        return 1
    found, content = (text.encode("utf-8", "surrogatepass")
                      for text in (found, _bounded(part.get("content"), path, f"{where}.content")))
    return 1 + len(content) if "Regex" in pattern else max(1, len(content) / len(found))


def _check_post_processor(part, kind, where, path, size):
    """Templates name only tokens they define, and put the text in once."""
    if kind in ("BertProcessing", "RobertaProcessing"):
        for name in ("sep", "cls"):
            pair = _typed(part.get(name), list, path, f"{where}.{name}")
            _integer(pair[1] if len(pair) == 2 else None, size, path, f"{where}.{name}[1]")
    if kind != "TemplateProcessing":
        return
    tokens = _typed(part.get("special_tokens"), dict, path, f"{where}.special_tokens")
    for name, token in tokens.items():
        ids = _typed(_typed(token, dict, path, f"{where}.special_tokens").get("ids"), list, path,
                     f"{where}.special_tokens[{short(name)}].ids")
        if len(ids) > MAX_PIECES:
            raise CheckpointError(f"{path}: {where}.special_tokens[{short(name)}] has {len(ids)} ids, at most "
                                  f"{MAX_PIECES}")
        for number in ids:
            _integer(number, size, path, f"{where}.special_tokens[{short(name)}].ids")
    for side, sequences in (("single", ["A"]), ("pair", ["A", "B"])):
        pieces = _typed(part.get(side), list, path, f"{where}.{side}")
        if len(pieces) > MAX_PIECES:
            raise CheckpointError(f"{path}: {where}.{side}: {len(pieces)} pieces, at most {MAX_PIECES}")
        texts = []
        for piece in pieces:
            _typed(piece, dict, path, f"{where}.{side}")
            name = _typed(next(iter(piece.values()), None), dict, path, f"{where}.{side}").get("id")
            if "SpecialToken" not in piece:
                texts.append(name)
            elif name not in tokens:
                raise CheckpointError(f"{path}: {where}.{side} names {short(name)}, which special_tokens lacks")
        if texts != sequences:
            raise CheckpointError(f"{path}: {where}.{side} has the texts {short(texts)} where {sequences} belong")


def _from_vocab_and_merges(vocab_path, merges_path):
    """The tokenizer.json of GPT-2's two files, or of GPT's, whose words end in `</w>`."""
    if not is_there(merges_path):
        raise FileNotFoundError(f"{merges_path}: not there, but {vocab_path.name} needs it")
    vocab, merges = read_json(vocab_path), read_merges(merges_path)
    suffix = "</w>" if any(right.endswith("</w>") for _, right in merges) else ""
    if suffix:
        normalizer = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
                      "lowercase": True}
        pre_tokenizer = {"type": "BertPreTokenizer"}
        decoder = {"type": "BPEDecoder", "suffix": suffix}
    else:
        normalizer = None
        pre_tokenizer = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        decoder = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "dropout": None, "unk_token": "<unk>" if suffix else None,
             "continuing_subword_prefix": None, "end_of_word_suffix": suffix or None, "fuse_unk": False,
             "byte_fallback": False, "ignore_merges": False, "vocab": vocab, "merges": merges}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer, "post_processor": None, "decoder": decoder, "model": model}


def _typed(value, kind, path, where):
    if not isinstance(value, kind):
        raise CheckpointError(f"{path}: {where} is {short(value)}, which is not {_KINDS[kind]}")
    return value


_KINDS = {dict: "an object", list: "a list", str: "a string"}


def _bounded(value, path, where, limit=1024):
    if len(_typed(value, str, path, where)) > limit:
        raise CheckpointError(f"{path}: {where} has {len(value)} characters, at most {limit}")
    return value


def _one_of(value, words, path, where):
    if value not in words:
        raise CheckpointError(f"{path}: {where} is {short(value)}; it is one of {', '.join(map(str, words))}")


def _count(value, path, where):
    if type(value) is not int or not 0 <= value < 2**63:
        raise CheckpointError(f"{path}: {where} is {short(value)}, which is not a whole number of at least 0")


def _integer(value, limit, path, where):
    if type(value) is not int or not 0 <= value < limit:
        raise CheckpointError(f"{path}: {where} is {short(value)}, which is not an id from 0 to {limit - 1}")


def short(value):
    """The value in few characters, whatever its size."""
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 60
