"""MappedFile: the bytes of one regular file, mapped into memory."""

import mmap
import os
import stat

from llmc.checkpoint.budget import Budget
from llmc.errors import CheckpointError


class MappedFile:
    """The read-only bytes of a file.

    `buffer` supports slicing and the buffer protocol; arrays made on it keep the mapping alive after `close`.

    Raises
    ------
    OSError
        If the file cannot be opened.
    CheckpointError
        If it is not a regular file, or empty.
    """

    def __init__(self, path):
        self.path = os.fspath(path)
        # A FIFO would block the open itself.
        descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise CheckpointError(f"{self.path}: not a regular file")
            self.size = status.st_size
            if self.size == 0:
                raise CheckpointError(f"{self.path}: the file is empty (0 bytes); fetch it again")
            self.buffer = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        finally:
            os.close(descriptor)
        self.budget = Budget(self.path, self.size)

    def fail(self, what):
        """Raise `CheckpointError` that begins with this file's path."""
        raise CheckpointError(f"{self.path}: {what}")

    def view(self, start, count):
        """The `count` bytes from `start`, not copied; `CheckpointError` where the file has fewer."""
        if not 0 <= start <= start + count <= self.size:
            self.fail(f"bytes {start} to {start + count} were asked for, the file ends at {self.size}")
        return memoryview(self.buffer)[start : start + count]

    def read(self, start, count):
        """A copy of the `count` bytes from `start`; `CheckpointError` where the file has fewer."""
        return bytes(self.view(start, count))

    def close(self):
        """Let go of the mapping; it ends when the last array on it is gone.

        It is never closed by hand: NumPy keeps the mapping object, not its buffer, so reading an array would crash.
        """
        self.buffer = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
