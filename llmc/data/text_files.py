"""Text files, read in bounded memory."""

import codecs
import os
import stat

from llmc.errors import DataError

CHUNK_BYTES = 1 << 20


def read_chunks(path, on_read=None):
    """The text of a UTF-8 file, newlines as they stand, in chunks of about a megabyte.

    Parameters
    ----------
    path : str or PathLike
    on_read : callable, optional
        Called with the number of bytes of each read: a progress bar's `update`.

    Yields
    ------
    str

    Raises
    ------
    DataError
        Naming the offset of the first byte that is not UTF-8; for a device, which may never end.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    with open_text(path) as file:
        while True:
            data = file.read(CHUNK_BYTES)
            try:
                text = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                at = offset + len(data) - len(error.object) + error.start
                raise DataError(f"{path}: byte {at} (0x{error.object[error.start]:02x}) is not UTF-8: {error.reason}; "
                                f"convert the file, for example with iconv") from None
            if text:
                yield text
            if not data:
                return
            offset += len(data)
            if on_read is not None:
                on_read(len(data))


def open_text(path):
    """A user's file of text, open for reading bytes: a pipe or a terminal too, which can be read once.

    Raises
    ------
    DataError
        For a device, which may never end.
    """
    file = open(path, "rb")
    kind = os.fstat(file.fileno()).st_mode
    if stat.S_ISBLK(kind) or (stat.S_ISCHR(kind) and not file.isatty()):
        file.close()
        raise DataError(f"{path}: a device and no file of text")
    return file


def whole_lines(chunks):
    """The same text in chunks that end between two lines, where a tokenizer's words end too.

    Lines longer than four megabytes are cut anywhere.
    """
    rest = ""
    for chunk in chunks:
        rest += chunk
        end = _last_plain_newline(rest)
        if not end and len(rest) > 4 * CHUNK_BYTES:
            end = len(rest)
        if end:
            yield rest[:end]
            rest = rest[end:]
    if rest:
        yield rest


def _last_plain_newline(text):
    """Where the last newline with no other white space around it ends, or 0."""
    at = text.rfind("\n", 0, len(text) - 1)
    while at > 0 and (text[at - 1].isspace() or text[at + 1].isspace()):
        at = text.rfind("\n", 0, at)
    return at + 1 if at > 0 else 0
