"""Training of a byte-level BPE."""

import re
from contextlib import contextmanager

import tokenizers

from llmc.data.row_files import is_row_file, records
from llmc.data.rows import text_of
from llmc.data.text_files import read_chunks, whole_lines
from llmc.errors import DataError
from llmc.tokenizer.tokenizer_files import library

_MOST = 2**20  # tokens; the trainer takes room for all of them at once, and a process without it is lost
# Training takes time quadratic in the length of a word, and base64 or a row of dashes is one word.
_LONG_RUN = re.compile(r"\S{256}|\s{256}")


def train_backend(texts, files, vocab_size, special_tokens, min_frequency, progress):
    """The library's tokenizer, trained on texts or on files; the arguments are those of `Tokenizer.train`."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    for token in special_tokens:
        if token in alphabet:
            raise DataError(f"special token {token!r} is one of the 256 bytes of the alphabet; take a longer word")
    if vocab_size < 256 + len(special_tokens):
        raise DataError(f"vocab_size is {vocab_size}; 256 bytes and {len(special_tokens)} special tokens need "
                        f"{256 + len(special_tokens)}")
    if vocab_size > _MOST:
        raise DataError(f"vocab_size is {vocab_size}; it may be {_MOST} at most")
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=special_tokens, initial_alphabet=alphabet,
        show_progress=progress,
    )
    corpus = _Corpus(_texts(texts) if files is None else _file_chunks(files))
    with corpus.errors():
        backend.train_from_iterator(corpus, trainer=trainer)
    if not corpus.characters:
        raise DataError(f"the {'texts' if files is None else 'files'} to train a tokenizer on hold no text")
    return backend


class _Corpus:
    """Texts for the trainer: counted, long runs cut."""

    def __init__(self, texts):
        self.characters = 0
        self._texts = texts
        self._error = None

    def __iter__(self):
        try:
            for text in self._texts:
                self.characters += len(text)
                start = 0
                for run in _LONG_RUN.finditer(text):
                    yield text[start : run.end()]
                    start = run.end()
                yield text[start:]
        except BaseException as error:
            self._error = error
            raise

    @contextmanager
    def errors(self):
        """What goes wrong while texts are read comes out as itself: the library would wrap it in its own words."""
        with library(DataError, "training a tokenizer"):
            try:
                yield
            except BaseException:
                if self._error is None:
                    raise
        if self._error is not None:
            raise self._error


def _texts(texts):
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts[{index}] is {type(text).__name__}, not str")
        refuse_surrogates(text, f"texts[{index}]")
        yield text


def _file_chunks(files):
    for path in files:
        if is_row_file(path):
            for where, record in records([path]):
                refuse_surrogates(text_of(record), where)
                yield text_of(record)
        else:
            yield from whole_lines(read_chunks(path))


def refuse_surrogates(text, where):
    """DataError for half of a surrogate pair, which is in no text and cannot be encoded."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: character {error.start} is {text[error.start]!r}, half of a surrogate pair; decode "
                        f"the text with errors='replace'") from None
