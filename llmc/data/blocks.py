"""Token files: a corpus tokenized once, read as blocks through a memory map."""

import hashlib
import json
import numbers
import os

import numpy as np

from llmc.calls import public
from llmc.system.atomic import atomic_write, write_json
from llmc.data.documents import documents
from llmc.data.items import check_block_size, id_limit, item, resolve_index
from llmc.data.pieces import encode_documents
from llmc.errors import DataError
from llmc.system.small_file import is_there, read_small

DTYPES = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}


@public
def tokenize_file(text_path, tokenizer, out_path, *, progress=True):
    """Tokenize text files into one file of token ids, in bounded memory.

    The ids of one file are those of `tokenizer.encode` for its whole text, newlines as they stand. Several files are
    several documents, and so are the `text`s of rows (`.jsonl`, `.ndjson`, `.json`, `.csv`, `.parquet`). The
    tokenizer's `eos_token` stands between two; an `eos_token` that stands in the text is one id too, and special tokens
    that a document begins or ends with are not put there again.

    `out_path` gets the bare ids, little-endian, two bytes each where the vocabulary allows and else four;
    `out_path.json` beside it says what they are. Both appear only when everything is done.

    Parameters
    ----------
    text_path : str or Path, or a list of them
        UTF-8 text; a pipe too.
    tokenizer : Tokenizer
    out_path : str or Path
        By habit `something.bin`.
    progress : bool
        Show a bar with bytes, rate and time left.

    Returns
    -------
    dict
        What `out_path.json` says: `dtype`, `count`, `vocab_size`, `eos_token_id`, `sha256`.

    Raises
    ------
    DataError
        For text that is not UTF-8 (with the byte's offset) or has no tokens, and for rows with prompts and
        responses: a line of ids cannot say which of them are learnt.
    """
    from tqdm import tqdm

    paths = [text_path] if isinstance(text_path, (str, os.PathLike)) else list(text_path)
    size = sum(os.path.getsize(path) for path in paths)
    if any(os.path.exists(out_path) and os.path.samefile(path, out_path) for path in paths):
        raise DataError(f"{out_path}: this is the text itself; name another file for the ids")
    limit = id_limit(tokenizer)
    name = "uint16" if limit <= 1 << 16 else "uint32"
    count, digest = 0, hashlib.sha256()
    with atomic_write(out_path) as file, tqdm(
        total=size, unit="B", unit_scale=True, desc=os.path.basename(out_path), disable=not progress
    ) as bar:
        for ids in encode_documents(tokenizer, (text for path in paths for text in documents(path, bar.update))):
            data = ids.astype(DTYPES[name]).tobytes()
            file.write(data)
            digest.update(data)
            count += len(ids)
        if not count:
            raise DataError(f"{', '.join(map(str, paths)) or 'no file'}: no tokens in {size} bytes of text")
        _remove(_sidecar(out_path))  # it describes the old ids; after a crash the reader says that it is missing
    info = {"dtype": name, "count": count, "vocab_size": limit, "eos_token_id": tokenizer.eos_token_id,
            "sha256": digest.hexdigest()}
    write_json(_sidecar(out_path), info)
    return info


@public
class TokenBlockDataset:
    """Blocks of `block_size` tokens of one long row of ids, which may be larger than memory.

    The last block may be shorter; a single token left over is no block.

    Parameters
    ----------
    source : str or Path, or array of integers, (N,)
        A file that `tokenize_file` wrote, or the ids themselves.
    block_size : int
        At least 2.
    dtype : str or dtype, optional
        For a file of bare ids without `.json` beside it (nanoGPT's are "uint16").
    vocab_size : int, optional
        Ids from here on are refused; the file's own figure by default.
    drop_last : bool
        Leave out a last block that is shorter than `block_size`.

    Attributes
    ----------
    dropped_tokens : int
        Tokens at the end that make no block.

    Raises
    ------
    DataError
        For a file that is not what its `.json` says, ids that are not whole numbers, a row without a block, an id out
        of range (when its block is read).
    """

    def __init__(self, source, block_size, *, dtype=None, vocab_size=None, drop_last=False):
        self.block_size = check_block_size(block_size)
        self._sha256 = None
        if isinstance(source, (str, os.PathLike)):
            self._name = os.fspath(source)
            self._ids, vocab_size = self._open(dtype, vocab_size)
        else:
            if dtype is not None:
                raise TypeError("dtype is for files; an array has its own")
            self._name = "the array"
            self._ids = source if isinstance(source, np.ndarray) else np.array(source)
            if self._ids.ndim != 1 or not np.issubdtype(self._ids.dtype, np.integer):
                raise DataError(f"token ids are one row of integers, not {self._ids.dtype} of shape {self._ids.shape}")
        self.vocab_size = vocab_size
        full, rest = divmod(len(self._ids), self.block_size)
        self._length = full + (rest >= 2 and not drop_last)
        self.dropped_tokens = rest if self._length == full else 0
        if not self._length:
            least = self.block_size if drop_last else 2
            raise DataError(f"{self._name}: {len(self._ids)} tokens, and a block has at least {least}")

    def __len__(self):
        return self._length

    def __getitem__(self, index):
        start = resolve_index(index, self._length) * self.block_size
        result = item(self._ids[start : start + self.block_size])
        ids = result["input_ids"]
        wrong = (ids < 0) | (ids >= self.vocab_size) if self.vocab_size is not None else ids < 0
        if wrong.any():
            at = int(wrong.argmax())
            limit = "" if self.vocab_size is None else f" for a vocabulary of {self.vocab_size}"
            raise DataError(f"{self._name}: token {start + at} has the id {ids[at]}, which is out of range{limit}")
        return result

    def count_targets(self):
        """How many tokens of each block are predicted, (N,)."""
        targets = np.full(self._length, self.block_size - 1)
        targets[-1] = len(self._ids) - self.dropped_tokens - (self._length - 1) * self.block_size - 1
        return targets

    def verify(self):
        """Read the whole file and compare it with the checksum that `tokenize_file` noted; DataError if they differ."""
        if self._sha256 is None:
            raise DataError(f"{self._name}: there is no checksum to compare with")
        digest = hashlib.sha256()
        with open(self._name, "rb") as file:
            while data := file.read(1 << 20):
                digest.update(data)
        if digest.hexdigest() != self._sha256:
            raise DataError(f"{self._name}: sha256 is {digest.hexdigest()}, the .json says {self._sha256}; "
                            f"tokenize the text again")

    def __repr__(self):
        return f"TokenBlockDataset({self._name}: {len(self._ids)} tokens, {len(self)} blocks of {self.block_size})"

    def _open(self, dtype, vocab_size):
        """The mapped ids of a file, and the size of its vocabulary."""
        size = os.path.getsize(self._name)
        sidecar = _sidecar(self._name)
        if is_there(sidecar):
            info = _read_sidecar(sidecar)
            if dtype is not None and np.dtype(dtype) != DTYPES[info["dtype"]]:
                raise DataError(f"{self._name}: dtype is {dtype}, but {sidecar} says {info['dtype']}")
            dtype = DTYPES[info["dtype"]]
            if size != info["count"] * dtype.itemsize:
                raise DataError(f"{self._name}: {size} bytes, but {sidecar} says {info['count']} tokens of "
                                f"{dtype.itemsize} bytes; tokenize the text again")
            vocab_size = info["vocab_size"] if vocab_size is None else vocab_size
            self._sha256 = info.get("sha256")
        elif dtype is None:
            raise DataError(f"{self._name}: no {os.path.basename(sidecar)} beside it says how ids are stored (llmc "
                            f"tokenize writes one); say so: dtype='uint16' (nanoGPT's files) or 'uint32'")
        elif np.dtype(dtype).name not in DTYPES:
            raise DataError(f"{self._name}: dtype is {dtype}; token files hold uint16 or uint32")
        dtype = DTYPES[np.dtype(dtype).name]
        if not size or size % dtype.itemsize:
            raise DataError(f"{self._name}: {size} bytes are no row of {dtype.itemsize}-byte ids")
        return np.memmap(self._name, dtype, "r"), vocab_size


def _sidecar(path):
    return f"{os.fspath(path)}.json"


def _read_sidecar(path):
    """The description beside a token file, each figure checked."""
    data = read_small(path, 1 << 20, "the description of a token file", DataError)
    try:
        info = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}") from None
    if not isinstance(info, dict) or not isinstance(info.get("dtype"), str) or info["dtype"] not in DTYPES:
        raise DataError(f"{path}: does not describe a token file (dtype uint16 or uint32)")
    for name in ("count", "vocab_size"):
        if not isinstance(info.get(name), numbers.Integral) or info[name] < 1:
            raise DataError(f"{path}: {name} is {info.get(name)!r}, not a whole number of at least 1")
    return info


def _remove(path):
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
