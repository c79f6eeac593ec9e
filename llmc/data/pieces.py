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

    A tokenizer without `eos_token`, or one that ends every text by itself, puts nothing between them. Documents
    without tokens are passed over.

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
    between = [] if tokenizer.eos_token_id is None or tokenizer.eos_token_id in after else [tokenizer.eos_token_id]
    opening = before
    for chunks in documents:
        begun = False
        for ids in encode_document(tokenizer, chunks):
            if len(ids):
                yield ids if begun else np.concatenate([np.array(opening, np.int64), ids])
                begun = True
        if begun:
            yield np.array(after, np.int64)
            opening = between + before


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
