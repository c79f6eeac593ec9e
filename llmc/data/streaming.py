"""A dataset over a stream of documents, packed into blocks as it is read."""

import os

import numpy as np

from llmc.calls import public
from llmc.data.documents import documents
from llmc.data.items import check_block_size, check_tokenizer, item
from llmc.data.pieces import encode_documents
from llmc.errors import DataError


@public
class StreamingTextDataset:
    """Documents, tokenized while they are read and packed into blocks of `block_size` tokens, in bounded memory.

    Each iteration reads the source afresh. Between two documents stands the tokenizer's `eos_token`, if it has one;
    blocks run across it. Special tokens that a document begins or ends with are not put there again. The last block
    may be shorter; a single token left over is no block. Documents without tokens are passed over.

    Parameters
    ----------
    texts : iterable of str or Path, callable, or str or Path
        The documents: a string is a text, a `Path` is a file. Of rows (`.jsonl`, `.ndjson`,
        `.json`, `.csv`, `.parquet`) each one's `text` is one. A callable is called for the documents of each iteration.
        A string or `Path` alone is one file.
    tokenizer : Tokenizer
    block_size : int
        At least 2.
    files : iterable of str or Path, optional
        Names of files, in place of `texts`.
    drop_last : bool
        Leave out a last block that is shorter than `block_size`.

    Attributes
    ----------
    restartable : bool
        False for an iterator or generator, which can be read only once.

    Raises
    ------
    DataError
        For an impossible `block_size`; while iterating, for a stream of fewer than two tokens, or a second reading of
        what can be read only once.
    """

    def __init__(self, texts=None, tokenizer=None, block_size=None, *, files=None, drop_last=False):
        if tokenizer is None or block_size is None or (texts is None) == (files is None):
            raise TypeError("StreamingTextDataset takes texts or files, a tokenizer and a block_size")
        if isinstance(files, (str, os.PathLike)):
            files = [files]
        check_tokenizer(tokenizer)
        hint = ""
        if isinstance(texts, (str, os.PathLike)):
            texts, files, hint = None, [texts], "; a text is passed in a list: [text]"
        if files is not None:
            files = [os.fspath(name) for name in files]
            for name in files:
                if not os.path.isfile(name):
                    what = "not a file that can be read again" if os.path.exists(name) else "no such file"
                    raise FileNotFoundError(f"{name[:200]}: {what}{hint}")
        elif not callable(texts) and not hasattr(texts, "__iter__"):
            raise TypeError(f"texts is {type(texts).__name__}, not an iterable of str")
        self.tokenizer = tokenizer
        self.block_size = check_block_size(block_size)
        self.drop_last = drop_last
        self._texts, self._files = texts, files
        self.restartable = files is not None or callable(texts) or iter(texts) is not texts
        self._read = False

    def __iter__(self):
        if self._read and not self.restartable:
            raise DataError(f"the documents come from a {type(self._texts).__name__}, which can be read only once; "
                            f"pass a list, files, or a function that makes a new one")
        self._read = True
        return self._blocks()

    def _blocks(self):
        held, size, blocks, total = [], 0, 0, 0
        for ids in encode_documents(self.tokenizer, self._documents()):
            held.append(ids)
            size += len(ids)
            total += len(ids)
            if size >= self.block_size:
                ids = np.concatenate(held)
                end = size - size % self.block_size
                for start in range(0, end, self.block_size):
                    yield item(ids[start : start + self.block_size])
                blocks += end // self.block_size
                held, size = [ids[end:]], size - end
        if size >= 2 and not self.drop_last:
            yield item(np.concatenate(held))
        elif not blocks:
            least = self.block_size if self.drop_last else 2
            source = "the stream" if self._files is None else ", ".join(self._files)
            raise DataError(f"{source} has {total} tokens, and a block at least {least}; give it more text")

    def _documents(self):
        """Each document as chunks of text."""
        if self._files is not None:
            for name in self._files:
                yield from documents(name)
            return
        for number, document in enumerate(self._texts() if callable(self._texts) else self._texts):
            if isinstance(document, os.PathLike):
                yield from documents(document)
            elif not isinstance(document, str):
                raise TypeError(f"document {number} is {type(document).__name__}, not str or Path")
            elif number == 0 and len(document) < 256 and os.path.isfile(document):
                raise DataError(f"document 0 is {document!r}, which names a file; pass files=[…], or a Path")
            else:
                yield [document]

    def __repr__(self):
        source = f"{len(self._files)} files" if self._files is not None else type(self._texts).__name__
        return f"StreamingTextDataset({source}, blocks of {self.block_size} tokens)"
