"""Files and folders that appear whole or not at all."""

import ctypes
import errno
import fcntl
import json
import os
import re
import secrets
import shutil
from contextlib import contextmanager

_TEMPORARY = re.compile(r"\.tmp-[0-9a-f]{8}-(.+)")
_OLD = ".old"
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextmanager
def temporary_directory(parent, name):
    """A new folder `.tmp-…-name` in `parent`, removed at the end; it is locked, so that `sweep` leaves it alone.

    An `OSError` that leaves it names `name` in `parent`, as by `named`.
    """
    with named(os.path.join(parent, name)):
        path, lock = _make_locked(parent, name)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)


@contextmanager
def named(path):
    """An `OSError` from inside names `path`, where it names a temporary file or, as a full disk's does, none at all."""
    try:
        yield
    except OSError as error:
        if error.errno and (error.filename is None or f"{os.sep}.tmp-" in str(error.filename)):
            raise OSError(error.errno, error.strerror, path) from error
        raise


@contextmanager
def atomic_write(path, mode="wb"):
    """Open a file for writing that appears at `path` only when it is whole and on the disk.

    It is written beside, flushed to the disk, renamed, and the folder flushed. After an exception, or a crash at any
    instant, `path` is what it was.

    Parameters
    ----------
    path : str or PathLike
    mode : {"wb", "w"}
        "w" is UTF-8 with newlines as given.

    Raises
    ------
    OSError
        If the place cannot be written, the disk is full, or a folder or a device stands there, which a rename would
        replace.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        what = "a folder" if os.path.isdir(path) else "a device or a pipe"
        raise OSError(f"{os.fspath(path)}: {what}, no file to be replaced; name another")
    folder, name = os.path.split(os.path.abspath(path))
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    with temporary_directory(folder, name) as temporary:
        staged = os.path.join(temporary, name)
        with open(staged, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(staged, path)
        sync(folder)


def write_json(path, value, sort_keys=False, indent=2):
    """Write `value` as JSON the way Hugging Face lays it out (two spaces, a newline at the end), atomically; `indent`
    None: in one line.

    Raises
    ------
    ValueError
        If a number is not finite: JSON has no word for it.
    """
    text = json.dumps(value, indent=indent, sort_keys=sort_keys, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_write(path, "w") as file:
        file.write(text)


@contextmanager
def staged_directory(path):
    """Build a folder that appears at `path` only when it is whole and on the disk; a folder that was there goes away.

    Yields the folder to fill. After an exception, or a crash at any instant, `path` is what it was.

    Examples
    --------
    >>> with staged_directory("out/checkpoint-10") as folder:
    ...     write_json(os.path.join(folder, "state.json"), {"step": 10})
    """
    parent, name = os.path.split(os.path.abspath(path))
    os.makedirs(parent, exist_ok=True)
    with temporary_directory(parent, name) as temporary:
        staged = os.path.join(temporary, name)
        os.mkdir(staged)
        yield staged
        _sync_tree(staged)
        if os.path.isdir(path) and not os.path.islink(path):
            _exchange(staged, os.path.abspath(path), os.path.join(temporary, _OLD))
        else:
            os.rename(staged, path)
        sync(parent)


def sweep(folder):
    """Remove what writers that died left in `folder`; what a living one is writing stays."""
    for name in os.listdir(folder):
        match = _TEMPORARY.fullmatch(name)
        path = os.path.join(folder, name)
        if not match or os.path.islink(path) or not os.path.isdir(path):
            continue
        lock = lock_folder(path)
        if lock is None:
            continue
        old, place = os.path.join(path, _OLD), os.path.join(folder, match[1])
        if os.path.isdir(old) and not os.path.exists(place):  # it died between the two renames
            os.rename(old, place)
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def require_space(folder, nbytes):
    """Raise `OSError` (ENOSPC) unless the disk of `folder`, which need not exist yet, has `nbytes` free."""
    there = os.path.abspath(folder)
    while not os.path.isdir(there):
        there = os.path.dirname(there)
    free = shutil.disk_usage(there).free
    if free < nbytes:
        message = f"{nbytes:,} bytes are to be written, {free:,} are free; nothing was touched"
        raise OSError(errno.ENOSPC, message, folder)


def sync(path):
    """Flush a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot flush a folder
            raise
    finally:
        os.close(descriptor)


def _sync_tree(path):
    for folder, _, files in os.walk(path, topdown=False):
        for name in files:
            if not os.path.islink(os.path.join(folder, name)):
                sync(os.path.join(folder, name))
        sync(folder)


def _make_locked(parent, name):
    while True:
        path = os.path.join(parent, f".tmp-{secrets.token_hex(4)}-{name}")
        os.mkdir(path)
        lock = lock_folder(path)
        if lock is not None and os.path.isdir(path):  # a sweep may have been faster
            return path, lock
        if lock is not None:
            os.close(lock)


def lock_folder(path):
    """A descriptor that holds the lock of a folder until it is closed or its process dies; None if another has it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:  # a file system without locks
        pass
    return descriptor


def _exchange(new, path, old):
    """Put the folder `new` at `path`, where a folder is: at one instant, where the system can."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        rename = None
    if rename and not rename(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(path), _RENAME_EXCHANGE):
        return
    os.rename(path, old)
    try:
        os.rename(new, path)
    except OSError:
        os.rename(old, path)
        raise
