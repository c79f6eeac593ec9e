"""MappedFile: the bytes of one regular file, mapped into memory, or read into memory that is there."""

import mmap
import os
import stat

from llmc.checkpoint.budget import Budget
from llmc.errors import CheckpointError


PIECE = 16 << 20  # bytes of one system call: a signal is answered between two


class MappedFile:
    """The read-only bytes of a file.

    `buffer` supports slicing and the buffer protocol; arrays made on it keep the mapping alive after `close`. What is
    touched in it counts as this process's memory (a few numbers may cost 2 MB), and takes the process down if the file
    is cut short meanwhile; neither holds for `read` and `read_into`.

    Raises
    ------
    OSError
        If the file cannot be opened.
    CheckpointError
        If it is not a regular file, or empty.
    """

    _descriptor = buffer = None

    def __init__(self, path):
        self.path = os.fspath(path)
        # A FIFO would block the open itself.
        self._descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{self.path}: not a regular file")
        self.size = status.st_size
        if self.size == 0:
            raise CheckpointError(f"{self.path}: the file is empty (0 bytes); fetch it again")
        self.buffer = mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)
        self.budget = Budget(self.path, self.size)

    def fail(self, what):
        """Raise `CheckpointError` that begins with this file's path."""
        raise CheckpointError(f"{self.path}: {what}")

    def view(self, start, count):
        """The `count` bytes from `start`, not copied; `CheckpointError` where the file has fewer."""
        self._check(start, count)
        return memoryview(self.buffer)[start : start + count]

    def read(self, start, count):
        """A copy of the `count` bytes from `start`; `CheckpointError` where the file has fewer."""
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

    def close(self):
        """Let go of the file and of the mapping, which ends when the last array on it is gone.

        It is never closed by hand: NumPy keeps the mapping object, not its buffer, so reading an array would crash.
        """
        self.buffer = None
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __del__(self):
        self.close()
