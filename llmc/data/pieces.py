"""Long texts encoded piece by piece: the ids of the whole text, in bounded memory."""

import re

import numpy as np

from llmc.data.items import check_tokenizer
from llmc.errors import DataError

PIECE = 1 << 15  # characters
WINDOW = 512  # characters on each side of a cut that show whether it changes the ids
PIECES_AT_ONCE = 8  # encoded by several threads; Ctrl-C waits for them
LONGEST = 1 << 24  # characters without a place to cut
HOPELESS = 1000  # cuts that failed one after the other

# A newline, or a space, alone between two other characters.
_PLACE = re.compile(r"(?<=\S)[\n ](?=\S)")


def encode_documents(tokenizer, documents):
    """The ids of several documents in a row: each as `tokenizer.encode` gives it, the end of text's id between two.

    A tokenizer without `eos_token`, or one that ends every text by itself, puts nothing between them. Special tokens
    that a document begins or ends with are not put there again. Documents without tokens are passed over.

    Parameters
    ----------
    tokenizer : Tokenizer
    documents : iterable of iterables of str
        Each document in chunks.

    Yields
    ------
    ndarray of int64, (N,)
    """
    before, after = special_frame(tokenizer)
    between = with_end(tokenizer, after)[len(after) :]
    opening, most = before, len(after) + 1
    for chunks in documents:
        end = None  # the document's last ids
        for ids in encode_document(tokenizer, chunks):
            if end is None and len(ids):
                first, _ = missing(opening, ids, [])
                yield first
                end = ids[len(opening) - len(first) :]
            elif len(ids):
                end = np.concatenate([end, ids])[-most:]
            yield ids
        if end is not None:
            _, closing = missing([], end, after)
            yield closing
            opening = [*missing([], np.concatenate([end, closing]), between)[1], *before]


def encode_document(tokenizer, chunks):
    """The ids of one document without special tokens around it, as the tokenizer gives them for the whole text.

    Parameters
    ----------
    tokenizer : Tokenizer
        Or one of transformers'.
    chunks : iterable of str
        The document's text.

    Yields
    ------
    ndarray of int64, (N,)

    Raises
    ------
    DataError
        If 16 million characters hold no place where cutting would leave the ids as they are.
    """
    batch = []
    for piece in cut(chunks, tokenizer):
        batch.append(piece)
        if len(batch) == PIECES_AT_ONCE:
            yield _encode(tokenizer, batch)
            batch = []
    if batch:
        yield _encode(tokenizer, batch)


def special_frame(tokenizer):
    """The ids that the tokenizer puts before and after a text."""
    check_tokenizer(tokenizer)
    bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    framed = list(tokenizer("a")["input_ids"])
    for start in range(len(framed) - len(bare) + 1):
        if framed[start : start + len(bare)] == bare:
            return framed[:start], framed[start + len(bare) :]
    raise DataError(f"the tokenizer encodes 'a' as {bare}, but as {framed} with special tokens, which does not hold it")


def with_end(tokenizer, after):
    """The ids after a text, the end of text's among them where the tokenizer has one."""
    ended = tokenizer.eos_token_id is None or tokenizer.eos_token_id in after
    return after if ended else [*after, tokenizer.eos_token_id]


def missing(before, ids, after):
    """What is to be put around a text: a chat template may have rendered its special tokens into it already.

    Parameters
    ----------
    before, after : list of int
        What belongs around a text.
    ids : array of integers, (N,)
        The text.

    Returns
    -------
    (array, array)
        Of `before` what the text does not begin with itself, of `after` what it does not end with.
    """
    own = _overlap(before, ids)
    opening, closing = before[: len(before) - own], after[_overlap(ids[own:], after) :]
    return np.array(opening, np.int64), np.array(closing, np.int64)


def _overlap(left, right):
    """How many ids at the end of `left` are the beginning of `right`: the most that can be."""
    most = min(len(left), len(right))
    return next(n for n in range(most, -1, -1) if list(left[len(left) - n :]) == list(right[:n]))


def cut(chunks, tokenizer):
    """Cut a text into pieces whose ids, one after the other, are the ids of the text.

    Every cut is tried out on the text around it, so this holds for tokenizers that look across words too: where
    each piece is given a space of its own to begin with (SentencePiece), a space of the text is left out instead.
    """
    text, failures = "", 0
    look = PIECE
    for chunk in chunks:
        text += chunk
        start = 0
        while failures < HOPELESS and (place := _PLACE.search(text, look, max(look, len(text) - WINDOW))):
            found = _try(tokenizer, text, place.start())
            if found:
                yield text[start : found[0]]
                start, look, failures = found[1], found[1] + PIECE, 0
            else:
                look, failures = place.end(), failures + 1
        text = text[start:]
        look -= start
        if len(text) > LONGEST:
            raise DataError(f"{len(text)} characters, beginning {text[:40]!r}, hold no place where the tokenizer gives "
                            f"the same ids for a text cut in two; put the text in shorter lines, or give it as shorter "
                            f"documents")
    if text:
        yield text


def _try(tokenizer, text, at):
    """Where the left piece ends and the right one begins, or None if every cut at this place changes the ids."""
    first, last = max(0, at - WINDOW), at + 1 + WINDOW
    whole = _encode(tokenizer, [text[first:last]])
    after = at + 1 if text[at] == "\n" else at
    for end, begin in ((after, after), (at, at + 1)):
        if np.array_equal(_encode(tokenizer, [text[first:end], text[begin:last]]), whole):
            return end, begin
    return None


def _encode(tokenizer, pieces):
    """The ids of some pieces, joined."""
    ids = tokenizer(pieces, add_special_tokens=False)["input_ids"] if pieces else []
    return np.concatenate([np.zeros(0, np.int64), *(np.array(row, np.int64) for row in ids)])
