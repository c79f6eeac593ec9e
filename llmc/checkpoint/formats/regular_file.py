"""RegularFile: the bytes of one regular file, read when they are asked for."""

import os

from llmc.checkpoint.formats.budget import Budget
from llmc.errors import CheckpointError
from llmc.system.small_file import open_regular

PIECE = 16 << 20  # bytes of one system call: a signal is answered between two
HEAD = 512  # bytes that tell what a file is
WINDOW = 64 << 10  # bytes that a Window holds


class RegularFile:
    """The read-only bytes of a file.

    They are read and never mapped: what is mapped takes the process down when somebody cuts the file short.

    Raises
    ------
    OSError
        If the file cannot be opened.
    CheckpointError
        If it is not a regular file, or empty.
    """

    _descriptor = None

    def __init__(self, path):
        self.path = os.fspath(path)
        self._descriptor = open_regular(self.path)
        self.size = os.fstat(self._descriptor).st_size
        if self.size == 0:
            raise CheckpointError(f"{self.path}: the file is empty (0 bytes); fetch it again")
        self.budget = Budget(self.path, self.size)

    def fail(self, what):
        """Raise `CheckpointError` that begins with this file's path."""
        raise CheckpointError(f"{self.path}: {what}")

    def head(self):
        """The first bytes, enough to tell what the file is."""
        return self.read(0, min(HEAD, self.size))

    def read(self, start, count):
        """The `count` bytes from `start`; `CheckpointError` where the file has fewer."""
        self._check(start, count)
        data = os.pread(self._descriptor, count, start)
        if len(data) < count:
            self._fail_cut_short(start, count)
        return data

    def read_into(self, start, out):
        """Fill `out`, a writable memoryview of bytes, with those from `start`; `CheckpointError` as above."""
        self._check(start, len(out))
        at = 0
        while at < len(out):
            count = os.preadv(self._descriptor, [out[at : at + PIECE]], start + at)
            if count == 0:
                self._fail_cut_short(start, len(out))
            at += count

    def _check(self, start, count):
        if not 0 <= start <= start + count <= self.size:
            self.fail(f"bytes {start} to {start + count} were asked for, the file ends at {self.size}")

    def _fail_cut_short(self, start, count):
        self.fail(
            f"cut short while it was read: bytes {start} to {start + count} were asked for, the file now ends at "
            f"{os.fstat(self._descriptor).st_size}; fetch it again"
        )

    @property
    def closed(self):
        """Whether it has been let go of."""
        return self._descriptor is None

    def close(self):
        """Let go of the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __del__(self):
        self.close()


class Window:
    """A file's bytes like one long `bytes`, of which a piece is in memory: slices within it, `find` and `len`."""

    def __init__(self, file):
        self._file, self._start, self._held = file, 0, b""

    def __len__(self):
        return self._file.size

    def __getitem__(self, part):
        first = part.start - self._start
        last = part.stop - self._start
        if first < 0 or last > len(self._held):
            count = max(part.stop - part.start, min(WINDOW, len(self) - part.start))
            self._start, self._held = part.start, self._file.read(part.start, count)
            first, last = 0, part.stop - part.start
        return self._held[first:last]

    def find(self, what, start, stop):
        """As of `bytes`."""
        at = self[start : min(stop, len(self))].find(what)
        return at if at < 0 else start + at
