"""Tokenizers: text to token ids and back, a small face over the tokenizers library with Hugging Face's files."""

import json
import os

import numpy as np
import tokenizers

from llmc.calls import public
from llmc.checks import LARGEST
from llmc.system.atomic import atomic_write, write_json
from llmc.data.pieces import special_frame
from llmc.errors import CheckpointError, DataError, nearest
from llmc.inputs import IGNORE
from llmc.tokenizer.chat_templates import read_chat_templates, write_chat_templates
from llmc.tokenizer.conversational import Conversations
from llmc.tokenizer.tokenizer_config import check_added_ids, configure, habitual
from llmc.tokenizer.tokenizer_files import SPECIAL_NAMES, library, locate, read_folder, sides
from llmc.tokenizer.training import refuse_surrogates, train_backend

END_OF_TEXT = "<|endoftext|>"


def _special(name):
    """The two properties of a special token: the token, which may be set, and its id."""
    words = name.replace("_", " ")

    def token(self):
        return self._special.get(name)

    def choose(self, token):
        if token is not None and self._backend.token_to_id(token) is None:
            raise DataError(f"{name}: {token!r} is not in the vocabulary; "
                            f"add_special_tokens({{{name!r}: {token!r}}}) adds it")
        self._special[name] = token

    def number(self):
        token = self._special.get(name)
        return None if token is None else self._backend.token_to_id(token)

    return property(token, choose, doc=f"The {words}, or None."), property(number, doc=f"The {words}'s id, or None.")


@public
class Tokenizer(Conversations):
    """Text to token ids and back.

    Made by `Tokenizer.train` or `Tokenizer.from_pretrained`. Special tokens that stand in a text are recognised, as in
    transformers, unless `split_special_tokens` says that they are text.

    Attributes
    ----------
    padding_side, truncation_side : {"right", "left"}
        Where padding is put, and where a text is cut.
    model_max_length : int or None

    Examples
    --------
    >>> tok = Tokenizer.train([llmc.data.builtin_text()], vocab_size=4096)
    >>> tok.decode(tok.encode("any text: 你好, \\x00"))
    'any text: 你好, \\x00'
    >>> tok(["two texts", "of unequal length"], padding=True)["input_ids"].shape
    (2, 5)
    """

    bos_token, bos_token_id = _special("bos_token")
    eos_token, eos_token_id = _special("eos_token")
    unk_token, unk_token_id = _special("unk_token")
    pad_token, pad_token_id = _special("pad_token")
    sep_token, sep_token_id = _special("sep_token")
    cls_token, cls_token_id = _special("cls_token")
    mask_token, mask_token_id = _special("mask_token")

    def __init__(self, backend, config=None):
        self._backend = backend
        self._config = dict(config or {})
        self._special = {}
        self._frame = None
        self._chat_templates = {}
        limit = self._config.get("model_max_length")
        self.model_max_length = int(limit) if isinstance(limit, (int, float)) and 0 < limit <= LARGEST else None
        self.padding_side = self._config.get("padding_side", "right")
        self.truncation_side = self._config.get("truncation_side", "right")

    def __getstate__(self):
        return {**self.__dict__, "split_special_tokens": self.split_special_tokens}  # a copied backend forgets it

    def __setstate__(self, state):
        split = state.pop("split_special_tokens")
        self.__dict__.update(state)
        self.split_special_tokens = split

    # Making, loading and saving

    @classmethod
    def train(cls, texts=None, files=None, vocab_size=30000, special_tokens=(END_OF_TEXT,), min_frequency=2,
              progress=False):
        """Train a byte-level BPE like GPT-2's.

        All 256 bytes are in the alphabet, so that every text comes back exactly. The same texts give the same
        tokenizer. It has fewer than `vocab_size` tokens where the texts hold too few pairs.

        Parameters
        ----------
        texts : iterable of str
            The texts themselves.
        files : list of str or Path
            Names of UTF-8 files, in place of `texts`; read in bounded memory. Of rows (`.jsonl`, `.ndjson`, `.json`,
            `.csv`, `.parquet`) the texts are read, or the prompts and responses.
        vocab_size : int
            Special tokens and the 256 bytes included; 2**20 at most.
        special_tokens : list of str, or dict
            They get the first ids. In a list, the end of text and its kin are known by their usual names
            (`<|endoftext|>`, `</s>`, `<pad>` …); a dict says it: `{"eos_token": "<end>"}`.
        min_frequency : int
            Pairs that are rarer are not merged.
        progress : bool
            Show the library's bar.

        Raises
        ------
        DataError
            For no text at all, a `vocab_size` too small for the bytes, or impossible special tokens.
        """
        if (texts is None) == (files is None):
            raise TypeError("Tokenizer.train takes texts or files, one of them")
        if isinstance(texts, (str, bytes)):
            raise TypeError("texts is one string; pass [text], or files=[path]")
        files = [files] if isinstance(files, (str, os.PathLike)) else files
        names, tokens = _named(special_tokens)
        tokenizer = cls(train_backend(texts, files, vocab_size, tokens, min_frequency, progress))
        tokenizer._special = names or habitual(tokens)
        return tokenizer

    @classmethod
    def from_pretrained(cls, name, revision=None, local_files_only=False):
        """Open a tokenizer: a folder, a tokenizer.json, a vocab.json with its merges.txt, a .gguf file, or a hub name.

        Reads `tokenizer.json`, or GPT-2's and GPT's `vocab.json` and `merges.txt`; special tokens from
        `tokenizer_config.json` and `special_tokens_map.json`. Everything is checked before the library sees it.
        Padding and truncation stored in the file are left out, as transformers does: a call says what it wants; their
        sides count where tokenizer_config.json says none.

        Raises
        ------
        FileNotFoundError
            When there is no such file, and no such name on the hub.
        CheckpointError
            For a file that is damaged, hostile or not a tokenizer; it names the file and the entry.
        """
        data, config, path = read_folder(locate(name, revision, local_files_only))
        config = {**sides(data), **config}
        data = {**data, "truncation": None, "padding": None}
        with library(CheckpointError, path):
            backend = tokenizers.Tokenizer.from_str(json.dumps(data))
        check_added_ids(backend, data["added_tokens"], path)
        tokenizer = cls(backend, config)
        with library(CheckpointError, path):
            tokenizer._special = configure(backend, config, path)
        tokenizer._chat_templates = read_chat_templates(path.parent) if path.suffix != ".gguf" else {}
        return tokenizer

    def save_pretrained(self, folder):
        """Write tokenizer.json and tokenizer_config.json, which transformers' AutoTokenizer opens with the same ids.

        Each file appears whole or not at all. Fields of a tokenizer_config.json that was read, and chat templates that
        stood in files of their own, are written back.
        """
        os.makedirs(folder, exist_ok=True)
        with atomic_write(os.path.join(folder, "tokenizer.json"), "w") as file:
            file.write(self._backend.to_str(pretty=True))
        config = {
            **self._config,
            "tokenizer_class": "PreTrainedTokenizerFast",  # the one class that takes tokenizer.json as it is
            "clean_up_tokenization_spaces": False,
            "model_max_length": self.model_max_length or 10**30,
            "padding_side": self.padding_side,
            **{name: token for name, token in self._special.items() if token is not None},
        }
        for name, usual in (("truncation_side", "right"), ("split_special_tokens", False)):
            if name in config or getattr(self, name) != usual:
                config[name] = getattr(self, name)
        # What these say is in tokenizer.json now, and a reader would apply it twice.
        for name in ("added_tokens_decoder", "add_bos_token", "add_eos_token", "auto_map"):
            config.pop(name, None)
        write_json(os.path.join(folder, "tokenizer_config.json"), config)
        write_chat_templates(folder, self._chat_templates)

    # Text to ids

    def __call__(self, text, *, add_special_tokens=True, padding=False, truncation=False, max_length=None,
                 padding_side=None, return_tensors=None, return_offsets_mapping=False):
        """Encode a text or a list of texts.

        Parameters
        ----------
        text : str or list of str
        add_special_tokens : bool
            Put what the tokenizer's template puts around a text (LLaMA's `<s>`).
        padding : bool, "longest" or "max_length"
            Pad to the longest of the list, or to `max_length`, with the padding token (without one: the end of text).
        truncation : bool
            Cut at `max_length` tokens, those of the template included, which stay. The attribute `truncation_side` says
            where.
        max_length : int, optional
            `model_max_length` by default.
        padding_side : {"right", "left"}, optional
            The attribute `padding_side` by default.
        return_tensors : "np", optional
            Arrays in any case, a single text as a batch of one.
        return_offsets_mapping : bool
            Also where each token stands in the text, without padding or return_tensors.

        Returns
        -------
        dict
            `input_ids` and `attention_mask`; `offset_mapping`, a pair (start, end) of characters for each token, (0, 0)
            for those of the template. Without padding they are lists: of ints for one text, of lists for a
            list, as in transformers. With padding they are int64 arrays, (T,) for one text and (B, T) for a list.
        """
        single = isinstance(text, str)
        if padding not in (False, True, "longest", "max_length", "do_not_pad"):
            raise DataError(f"padding is {padding!r}; it is False, True, 'longest' or 'max_length'")
        if truncation not in (False, True):
            raise DataError(f"truncation is {truncation!r}; it is True or False")
        if return_tensors not in (None, "np"):
            raise DataError(f"return_tensors is {return_tensors!r}; llmc gives NumPy arrays, 'np', or lists")
        if max_length is not None and not truncation and padding != "max_length":
            raise DataError(f"max_length={max_length} says nothing without truncation=True or padding='max_length'")
        if return_offsets_mapping and (return_tensors or padding not in (False, "do_not_pad")):
            raise DataError("return_offsets_mapping=True gives lists; leave padding and return_tensors out")
        limit = self._limit(max_length) if truncation or padding == "max_length" else None
        rows, spans = self._encode([text] if single else text, add_special_tokens, limit if truncation else None,
                                   return_offsets_mapping)
        masks = [[1] * len(row) for row in rows]
        if padding in (False, "do_not_pad"):
            if return_tensors == "np":
                return {"input_ids": _stack(rows), "attention_mask": _stack(masks)}
            columns = {"input_ids": rows, "attention_mask": masks}
            columns |= {"offset_mapping": spans} if return_offsets_mapping else {}
            return {name: column[0] if single else column for name, column in columns.items()}
        width = max(map(len, rows), default=0)
        width = max(width, limit) if padding == "max_length" else width
        side = self.padding_side if padding_side is None else padding_side
        if side not in ("right", "left"):
            raise DataError(f"padding_side is {side!r}; it is 'right' or 'left'")
        input_ids = _pad(rows, width, side, self._pad_id() if any(len(row) < width for row in rows) else 0)
        attention_mask = _pad(masks, width, side, 0)
        if single and return_tensors is None:
            input_ids, attention_mask = input_ids[0], attention_mask[0]
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def encode(self, text, add_special_tokens=True):
        """The ids of a text, a list of int."""
        if not isinstance(text, str):
            raise TypeError(f"encode takes one text, not {type(text).__name__}; call the tokenizer itself for several")
        rows, _ = self._encode([text], add_special_tokens, None)
        return rows[0]

    def tokenize(self, text):
        """The tokens of a text as strings, without the template's."""
        return self.convert_ids_to_tokens(self.encode(text, add_special_tokens=False))

    # Ids to text

    def decode(self, ids, skip_special_tokens=False):
        """The text of a row of ids; an id without a token, as of a padded vocabulary, adds nothing to it.

        Parameters
        ----------
        ids : int, or a list or array of integers, (T,)
        skip_special_tokens : bool
            Leave special tokens out.

        Raises
        ------
        DataError
            For a number that is no id: below 0, or from 2**32 on.
        """
        with library(DataError, "decode"):
            return self._backend.decode(self._check_ids(ids), skip_special_tokens=skip_special_tokens)

    def batch_decode(self, batch, skip_special_tokens=False):
        """The texts of several rows of ids, a list of str."""
        return [self.decode(ids, skip_special_tokens) for ids in batch]

    # The vocabulary

    @property
    def vocab_size(self):
        """Tokens of the vocabulary without those added to it; `len(tokenizer)` counts them all, as in transformers."""
        return self._backend.get_vocab_size(with_added_tokens=False)

    def __len__(self):
        return self._backend.get_vocab_size(with_added_tokens=True)

    def get_vocab(self):
        """A dict from token to id, added tokens included."""
        return self._backend.get_vocab(with_added_tokens=True)

    def convert_ids_to_tokens(self, ids):
        """The token of an id, or the list of tokens of a row of ids; None for an id without one."""
        tokens = [self._backend.id_to_token(number) for number in self._check_ids(ids)]
        return tokens[0] if np.ndim(ids) == 0 else tokens

    def convert_tokens_to_ids(self, tokens):
        """The id of a token, or the list of ids of several; an unknown token has the unknown token's id, else None."""
        if isinstance(tokens, str):
            number = self._backend.token_to_id(tokens)
            return self.unk_token_id if number is None else number
        return [self.convert_tokens_to_ids(token) for token in tokens]

    @property
    def split_special_tokens(self):
        """Whether special tokens that stand in a text are text, so that what a user writes cannot end a turn."""
        return self._backend.encode_special_tokens

    @split_special_tokens.setter
    def split_special_tokens(self, split):
        self._backend.encode_special_tokens = split

    @property
    def all_special_ids(self):
        """The ids of the special tokens, in order."""
        return sorted(number for number, token in self._backend.get_added_tokens_decoder().items() if token.special)

    def add_special_tokens(self, special_tokens):
        """Add tokens that are never split.

        Parameters
        ----------
        special_tokens : list of str, or dict
            A dict names them: `{"pad_token": "<pad>", "additional_special_tokens": ["<user>"]}`.

        Returns
        -------
        int
            How many are new to the vocabulary: the rows an embedding has to grow by.
        """
        names, tokens = _named(special_tokens)
        before = len(self)
        self._backend.add_special_tokens(tokens)
        self._special.update(names)
        return len(self) - before

    def __repr__(self):
        specials = ", ".join(f"{name}={token!r}" for name, token in self._special.items() if token is not None)
        return f"Tokenizer({len(self)} tokens{', ' if specials else ''}{specials})"

    # Inside

    def _encode(self, texts, add_special_tokens, limit, offsets=False):
        """(lists of ids, lists of their offsets or None), each cut so that at most `limit` stand in the end."""
        texts = list(texts)
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"text {index} is {type(text).__name__}, not str")
        encode = self._backend.encode_batch if offsets else self._backend.encode_batch_fast
        try:
            with library(DataError, "encode"):
                rows = encode(texts, add_special_tokens=add_special_tokens and limit is None)
        except DataError:
            for index, text in enumerate(texts):
                refuse_surrogates(text, f"text {index}")
            raise
        ids, spans = [row.ids for row in rows], [row.offsets for row in rows] if offsets else None
        if limit is None:
            return ids, spans
        before, after = self._template() if add_special_tokens else ([], [])
        room = limit - len(before) - len(after)
        if room < 0:
            raise DataError(f"max_length is {limit}, but the template alone has {len(before) + len(after)} tokens")
        if self.truncation_side not in ("right", "left"):
            raise DataError(f"truncation_side is {self.truncation_side!r}; it is 'right' or 'left'")
        ids = [before + self._cut(row, room) + after for row in ids]
        if offsets:
            nowhere = [(0, 0)]
            spans = [nowhere * len(before) + self._cut(row, room) + nowhere * len(after) for row in spans]
        return ids, spans

    def _cut(self, row, room):
        return row[:room] if self.truncation_side == "right" else row[max(0, len(row) - room) :]

    def _template(self):
        if self._frame is None:
            self._frame = special_frame(self)
        return self._frame

    def _limit(self, max_length):
        limit = self.model_max_length if max_length is None else max_length
        if limit is None:
            raise DataError("truncation and padding='max_length' need max_length; there is no model_max_length")
        if isinstance(limit, bool) or int(limit) != limit or limit < 1:
            raise DataError(f"max_length is {limit}; it is a whole number of at least 1")
        return int(limit)

    def _pad_id(self):
        for number in (self.pad_token_id, self.eos_token_id):
            if number is not None:
                return number
        raise DataError("padding needs a pad_token or an eos_token, and the tokenizer has neither; "
                        "add_special_tokens({'pad_token': '<pad>'}) adds one")

    def _check_ids(self, ids):
        ids = np.atleast_1d(np.asarray(ids))
        if ids.ndim > 1:
            raise DataError(f"ids have the shape {ids.shape}; decode takes one row, batch_decode several")
        if ids.size and not np.issubdtype(ids.dtype, np.integer):
            raise DataError(f"ids are {ids.dtype}, not integers")
        ids = ids.tolist()
        for position, number in enumerate(ids):
            if not 0 <= number < 2**32:
                raise DataError(f"ids[{position}] is {number}, which is no id"
                                + (f"; {IGNORE} marks labels without a target" if number == IGNORE else ""))
        return ids


def _named(special_tokens):
    """The special tokens that have names, and all of them, each once."""
    if isinstance(special_tokens, str):
        raise TypeError(f"special_tokens is one string; pass [{special_tokens!r}]")
    names, tokens = {}, []
    entries = special_tokens if isinstance(special_tokens, dict) else {"extra_special_tokens": special_tokens}
    for name, value in entries.items():
        if name in SPECIAL_NAMES:
            names[name] = value
            tokens.append(value)
        elif name in ("additional_special_tokens", "extra_special_tokens"):
            tokens += value
        else:
            raise DataError(f"no special token is called {name!r}; {nearest(name, SPECIAL_NAMES)}")
    for token in tokens:
        if not isinstance(token, str):
            raise TypeError(f"special token {token!r} is {type(token).__name__}, not str")
        if not token:
            raise DataError("a special token is empty")
        refuse_surrogates(token, f"special token {token!r}")
    return names, list(dict.fromkeys(tokens))


def _stack(rows):
    """Rows of one length as an array."""
    lengths = sorted({len(row) for row in rows})
    if len(lengths) > 1:
        raise DataError(f"texts of {lengths[0]} to {lengths[-1]} tokens make no array; pass padding=True")
    return np.array(rows, np.int64).reshape(len(rows), lengths[0] if lengths else 0)


def _pad(rows, width, side, value):
    """Rows of at most `width` numbers as an array, (B, T)."""
    result = np.full((len(rows), width), value, np.int64)
    for index, row in enumerate(rows):
        start = 0 if side == "right" else width - len(row)
        result[index, start : start + len(row)] = row
    return result
