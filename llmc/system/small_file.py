"""Files as they are found: only regular ones are opened, and small ones are read whole."""

import errno
import os
import stat

from llmc.errors import CheckpointError

_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
          stat.S_IFSOCK: "a socket"}


def is_there(path):
    """Whether anything stands at `path`, if it be no file or a link that leads nowhere: whoever reads it says so."""
    return os.path.lexists(path)


def open_regular(path, error=CheckpointError):
    """A descriptor of a regular file, to be read and closed by the caller.

    Parameters
    ----------
    path : str or PathLike
    error : type
        What is raised for anything that is no regular file.

    Raises
    ------
    FileNotFoundError
        When there is none, or a link to a place where there is none.
    OSError
        When it may not be read.
    CheckpointError, or `error`
        For a folder, a pipe, a device or a socket: opening or reading them may never end.
    """
    try:
        # A pipe would block the open itself.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        if not os.path.islink(path):
            raise
        raise FileNotFoundError(f"{os.fspath(path)}: a link to {os.readlink(path)}, which is not there; fetch the file "
                                f"again") from None
    except OSError as refused:
        if refused.errno != errno.ENXIO:
            raise
        raise error(f"{os.fspath(path)}: {_KINDS[stat.S_IFSOCK]}, not a regular file") from None
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind != stat.S_IFREG:
        os.close(descriptor)
        raise error(f"{os.fspath(path)}: {_KINDS.get(kind, 'something else')}, not a regular file")
    return descriptor


def open_small(path, most, what, error=CheckpointError):
    """A regular file of at most `most` bytes, open for reading bytes.

    Parameters
    ----------
    path : str or PathLike
    most : int
    what : str
        What such a file is, in the words of the message: "a configuration".
    error : type
        What is raised for a file that is larger, or not regular.

    Raises
    ------
    OSError, CheckpointError, or `error`
        As by `open_regular`.
    """
    file = os.fdopen(open_regular(path, error), "rb")
    size = os.fstat(file.fileno()).st_size
    if size > most:
        file.close()
        raise error(f"{os.fspath(path)}: {size} bytes; {what} has at most {most}")
    return file


def read_small(path, most, what, error=CheckpointError):
    """The bytes of such a file."""
    with open_small(path, most, what, error) as file:
        return file.read(most)
