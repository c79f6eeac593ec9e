"""Chat templates rendered: by a child that may take bounded time and memory, whatever a template asks for."""

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path

from llmc.errors import CheckpointError, DataError

SECONDS = 10
_START = 30  # seconds for the child to begin
_PROGRAM = Path(__file__).with_name("chat_child.py")
_LEAST = (3, 1, 6)  # of jinja2; before it a template could leave the sandbox
_REMEDY = "pip install 'llmc[chat]'"
_LARGEST = 256 << 20  # bytes of an answer
_lock = threading.Lock()
_child = None


def render(template, variables, where="the chat template"):
    """The text that a template makes.

    Parameters
    ----------
    template : str
        Jinja, with what transformers gives one: trim_blocks, lstrip_blocks, break and continue, `{% generation %}`,
        `tojson`, `raise_exception`, `strftime_now`.
    variables : dict
        JSON values.

    Returns
    -------
    text : str
    spans : list of (int, int)
        Where the assistant's words stand, of a template that marks them.

    Raises
    ------
    CheckpointError
        For a template that is no Jinja, that reaches for attributes, or that would take longer than 10 s, more than
        512 MiB or more than a million turns of loops.
    DataError
        For what the template itself refuses, in its words.
    ImportError
        Without jinja2.
    """
    _require_jinja()
    said = _ask({"template": template, "variables": variables})
    if "text" in said:
        return said["text"], [tuple(span) for span in said["spans"]]
    if said["kind"] == "refused":
        raise DataError(f"{where} refuses this conversation: {said['error']}")
    raise CheckpointError(f"{where}: {said['error']}")


def _require_jinja():
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("jinja2")
    except PackageNotFoundError:
        raise ImportError(f"chat templates are rendered by jinja2, which is not there: {_REMEDY}") from None
    if tuple(int(number) for number in found.split(".")[:3] if number.isdecimal()) < _LEAST:
        raise ImportError(f"jinja2 {found} lets a template out of its sandbox; 3.1.6 is needed: {_REMEDY}")


class _Child:
    """The process that renders, of one process here."""

    def __init__(self):
        self.owner = os.getpid()
        self._process = subprocess.Popen([sys.executable, "-c", _PROGRAM.read_text()], stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
        self._patience = _START  # it imports jinja2 before its first answer

    def ask(self, request):
        """Its answer, or None: it took too long, or is gone."""
        line = json.dumps(request).encode() + b"\n"
        end = time.monotonic() + SECONDS + self._patience
        try:
            if not self._wait_to_write(line, end):
                return None
            answer = self._read_line(end)
        except BrokenPipeError:
            return None
        self._patience = 0
        return answer

    def _wait_to_write(self, line, end):
        descriptor = self._process.stdin.fileno()
        os.set_blocking(descriptor, False)
        view = memoryview(line)
        while view:
            if not select.select([], [descriptor], [], max(0, end - time.monotonic()))[1]:
                return False
            view = view[os.write(descriptor, view[: 1 << 16]) :]
        return True

    def _read_line(self, end):
        descriptor, pieces, size = self._process.stdout.fileno(), [], 0
        while size < _LARGEST:
            if not select.select([descriptor], [], [], max(0, end - time.monotonic()))[0]:
                return None
            piece = os.read(descriptor, 1 << 20)
            if not piece:
                return None
            pieces.append(piece)
            size += len(piece)
            if piece.endswith(b"\n"):
                return json.loads(b"".join(pieces))
        return None

    def kill(self):
        """Let it go."""
        with contextlib.suppress(OSError):
            self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


def _ask(request):
    global _child  # the one process that renders for this one
    with _lock:
        if _child is None or _child.owner != os.getpid():
            _child = _Child()
        answer = None
        try:
            answer = _child.ask(request)
        finally:
            if answer is None:
                _child.kill()
                _child = None
    if answer is None:
        return {"kind": "limit", "error": f"it takes longer than {SECONDS} s, or brought its process down"}
    return answer
