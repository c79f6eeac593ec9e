"""Files and checkpoints appear whole or not at all: killed, failing or out of space at every call of the system."""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

import llmc.checkpoint
from llmc.checkpoint import manifest
from llmc.system import atomic
from llmc.errors import CheckpointError

SYSTEM_CALLS = ("mkdir", "rename", "replace", "link", "fsync", "remove", "rmdir", "unlink", "open", "close")


def tensors(count, seed):
    random = np.random.default_rng(seed)
    return {f"w{i}": random.normal(size=10).astype(np.float32) for i in range(count)}


def same(folder, expected):
    with llmc.checkpoint.open(folder) as checkpoint:
        return set(checkpoint) == set(expected) and all(np.array_equal(checkpoint[n], expected[n]) for n in expected)


def temporaries(folder):
    return [name for name in os.listdir(folder) if ".tmp" in name]


@contextlib.contextmanager
def at_call(index, act):
    """Run `act` instead of the `index`-th call of the system; yields a list whose length is the number of calls."""
    calls = []
    saved = {name: getattr(os, name) for name in SYSTEM_CALLS}

    def watched(name):
        def call(*args, **options):
            calls.append(name)
            if len(calls) == index:
                act(name)
            return saved[name](*args, **options)

        return call

    for name in SYSTEM_CALLS:
        setattr(os, name, watched(name))
    try:
        yield calls
    finally:
        for name, function in saved.items():
            setattr(os, name, function)


def killed_at(index, work):
    """Do `work` in a child that is killed at its `index`-th call of the system; whether it was."""
    child = os.fork()
    if child == 0:
        try:
            with at_call(index, lambda name: os.kill(os.getpid(), signal.SIGKILL)):
                work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def fail(code):
    def act(name):
        if name != "close":
            raise OSError(code, os.strerror(code))

    return act


LIMITS = {"one file": 10**6, "shards": 40, "fewer shards": 90}


@pytest.mark.parametrize("after", LIMITS)
@pytest.mark.parametrize("before", LIMITS)
def test_a_kill_at_any_instant_of_a_save_leaves_the_old_or_the_new_checkpoint_whole(tmp_path, before, after):
    old, new = tensors(4, seed=1), tensors(4, seed=2)
    llmc.checkpoint.write(tmp_path / "old", old, max_shard_size=LIMITS[before])
    llmc.checkpoint.write(tmp_path / "new", new, max_shard_size=LIMITS[after])
    seen = []
    index = 1
    while True:
        folder = tmp_path / f"at{index}"
        shutil.copytree(tmp_path / "old", folder)
        killed = killed_at(index, lambda: llmc.checkpoint.write(folder, new, max_shard_size=LIMITS[after]))
        seen.append("new" if same(folder, new) else "old")
        assert seen[-1] == "new" or same(folder, old)
        llmc.checkpoint.write(folder, new, max_shard_size=LIMITS[after])
        assert sorted(os.listdir(folder)) == sorted(os.listdir(tmp_path / "new"))
        assert same(folder, new)
        if not killed:
            break
        index += 1
    assert seen == sorted(seen, reverse=True) and {"old", "new"} == set(seen)


def test_a_kill_during_a_first_save_leaves_no_checkpoint_or_a_whole_one(tmp_path):
    new = tensors(4, seed=2)
    index, killed = 1, True
    while killed:
        folder = tmp_path / f"at{index}"
        killed = killed_at(index, lambda: llmc.checkpoint.write(folder, new, max_shard_size=40))
        if os.path.exists(folder / "model.safetensors.index.json"):
            assert same(folder, new)
        index += 1
    assert same(folder, new) and index > 20


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("after", LIMITS)
@pytest.mark.parametrize("before", LIMITS)
def test_a_save_that_fails_raises_leaves_a_whole_checkpoint_and_no_temporaries(tmp_path, before, after, code):
    old, new = tensors(4, seed=1), tensors(4, seed=2)
    llmc.checkpoint.write(tmp_path / "old", old, max_shard_size=LIMITS[before])
    index = 1
    while True:
        folder = tmp_path / f"at{index}"
        shutil.copytree(tmp_path / "old", folder)
        with at_call(index, fail(code)) as calls:
            try:
                llmc.checkpoint.write(folder, new, max_shard_size=LIMITS[after])
            except OSError as error:
                assert error.errno == code
        assert same(folder, new) or same(folder, old), (index, calls[-1])
        if calls[index - 1 : index] not in (["rmdir"], ["unlink"], ["open"]):  # cleaning up itself failed
            assert not temporaries(folder)
        if len(calls) < index:
            break
        index += 1


def test_where_links_do_not_exist_the_old_or_the_new_shards_are_whole(tmp_path, monkeypatch):
    old, new = tensors(4, seed=1), tensors(4, seed=2)
    llmc.checkpoint.write(tmp_path, old, max_shard_size=40)

    def no_link(*_):
        raise PermissionError(errno.EPERM, "links are not permitted")

    monkeypatch.setattr(os, "link", no_link)
    llmc.checkpoint.write(tmp_path, new, max_shard_size=40)
    assert same(tmp_path, new) and len(os.listdir(tmp_path)) == 5
    monkeypatch.undo()
    llmc.checkpoint.write(tmp_path, old, max_shard_size=40)
    assert same(tmp_path, old) and "model-00001-of-00004.safetensors" in os.listdir(tmp_path)


def test_a_disk_that_is_too_small_is_said_before_anything_is_touched(tmp_path, monkeypatch):
    old = tensors(2, seed=1)
    llmc.checkpoint.write(tmp_path / "a", old)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    for folder in (tmp_path / "a", tmp_path / "b" / "c"):
        with pytest.raises(OSError, match="1,000 are free; nothing was touched") as caught:
            llmc.checkpoint.write(folder, tensors(2, seed=2))
        assert caught.value.errno == errno.ENOSPC
    assert same(tmp_path / "a", old) and os.listdir(tmp_path) == ["a"]


def test_a_file_limit_stops_a_save_and_keeps_the_old_checkpoint(tmp_path):
    """A real failing write, not a simulated one: the kernel refuses bytes beyond the limit."""
    llmc.checkpoint.write(tmp_path, tensors(2, seed=1))
    program = (
        "import resource, signal, sys, numpy as np, llmc.checkpoint\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "llmc.checkpoint.write(sys.argv[1], {'w': np.ones(1_000_000, np.float32)})\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True)
    assert "OSError: [Errno 27]" in ended.stderr
    assert os.listdir(tmp_path) == ["model.safetensors"] and same(tmp_path, tensors(2, seed=1))


def test_a_place_that_cannot_be_written_is_an_os_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        llmc.checkpoint.write(tmp_path / "file", tensors(1, 0))
    with pytest.raises(OSError):
        llmc.checkpoint.write(tmp_path / "file" / "below", tensors(1, 0))
    with pytest.raises(OSError):
        llmc.checkpoint.write("/proc/nowhere", tensors(1, 0))


def test_two_writers_of_one_folder_leave_one_of_the_two_checkpoints(tmp_path):
    choices = [tensors(4, seed) for seed in range(4)]
    threads = [threading.Thread(target=llmc.checkpoint.write, args=(tmp_path, choice)) for choice in choices]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert any(same(tmp_path, choice) for choice in choices) and os.listdir(tmp_path) == ["model.safetensors"]


# One file


def test_an_atomic_write_appears_when_it_is_closed(tmp_path):
    path = tmp_path / "x.txt"
    with atomic.atomic_write(path, "w") as file:
        file.write("ü\n")
        assert not path.exists()
    assert path.read_bytes() == "ü\n".encode() and os.listdir(tmp_path) == ["x.txt"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask()


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_an_atomic_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        with atomic.atomic_write(path) as file:
            file.write(b"new")
            raise KeyboardInterrupt
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["x.txt"]


@pytest.mark.parametrize("error, told", [
    (OSError(errno.ENOSPC, "No space left on device"), "state.json"),
    (OSError(errno.EIO, "Input/output error", "folder/.tmp-01234567-state.json/state.json"), "state.json"),
    (FileNotFoundError(errno.ENOENT, "No such file or directory", "elsewhere"), "elsewhere"),
])  # fmt: skip
def test_a_failed_write_names_the_file_that_was_wanted(tmp_path, error, told):
    path = tmp_path / told if told == "state.json" else told
    with pytest.raises(type(error)) as caught, atomic.atomic_write(tmp_path / "state.json"):
        raise error
    assert caught.value.filename == str(path) and str(caught.value).endswith(f"'{path}'")


def test_json_is_laid_out_as_hugging_face_does_and_holds_only_finite_numbers(tmp_path):
    path = tmp_path / "x.json"
    atomic.write_json(path, {"b": 1, "a": [1.5, None, "ü"]})
    assert path.read_text() == '{\n  "b": 1,\n  "a": [\n    1.5,\n    null,\n    "ü"\n  ]\n}\n'
    atomic.write_json(path, {"b": 1, "a": 2}, sort_keys=True)
    assert path.read_text() == '{\n  "a": 2,\n  "b": 1\n}\n'
    with pytest.raises(ValueError):
        atomic.write_json(path, {"loss": float("nan")})
    assert os.listdir(tmp_path) == ["x.json"] and "nan" not in path.read_text().lower()


# Folders


def fill(path, number):
    with atomic.staged_directory(path) as folder:
        os.mkdir(os.path.join(folder, "inner"))
        for name in ("a", "inner/b"):
            with open(os.path.join(folder, name), "w") as file:
                file.write(str(number))
        llmc.checkpoint.write_manifest(folder)


def number(path):
    llmc.checkpoint.verify(path)
    return int((path / "inner" / "b").read_text())


def test_a_staged_directory_appears_at_once_and_replaces_another(tmp_path):
    path = tmp_path / "new" / "checkpoint-1"
    fill(path, 1)
    assert number(path) == 1
    fill(path, 2)
    assert number(path) == 2 and os.listdir(tmp_path / "new") == ["checkpoint-1"]
    assert sorted(os.listdir(path)) == ["a", "inner", "manifest.json"]


def test_a_staged_directory_that_fails_leaves_the_old_one(tmp_path):
    path = tmp_path / "checkpoint-1"
    fill(path, 1)
    with pytest.raises(ZeroDivisionError):
        with atomic.staged_directory(path) as folder:
            open(os.path.join(folder, "a"), "w").close()
            1 / 0
    assert number(path) == 1 and os.listdir(tmp_path) == ["checkpoint-1"]


@pytest.mark.parametrize("exchange", [True, False])
def test_a_kill_at_any_instant_of_a_replacement_leaves_the_old_or_the_new_folder(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(atomic.ctypes, "CDLL", lambda *_, **__: None)
    index, killed = 1, True
    while killed:
        path = tmp_path / f"at{index}" / "best"
        fill(path, 1)
        killed = killed_at(index, lambda: fill(path, 2))
        assert path.exists() or not exchange
        atomic.sweep(path.parent)
        assert number(path) in (1, 2) and os.listdir(path.parent) == ["best"]
        index += 1
    assert number(path) == 2 and index > 10


def test_a_sweep_leaves_what_a_living_writer_writes_and_what_is_not_ours(tmp_path):
    for name in (".tmp-0123abcd-x", ".tmp-xyz-x", "x.tmp-1", ".tmp-0123abcd-"):
        os.mkdir(tmp_path / name)
    (tmp_path / ".tmp-0123abcd-file").write_text("")
    os.symlink(tmp_path, tmp_path / ".tmp-0123abce-link")
    with atomic.temporary_directory(tmp_path, "alive") as alive:
        atomic.sweep(tmp_path)
        assert os.path.isdir(alive) and ".tmp-0123abcd-x" not in os.listdir(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [
        ".tmp-0123abcd-", ".tmp-0123abcd-file", ".tmp-0123abce-link", ".tmp-xyz-x", "x.tmp-1",
    ]


# Manifests


@pytest.mark.parametrize(
    "damage, word",
    [
        (lambda path: os.remove(path / "manifest.json"), "no manifest.json"),
        (lambda path: os.remove(path / "inner" / "b"), "inner/b: the file is missing"),
        (lambda path: (path / "a").write_text("12"), "a: 2 bytes, .* says 1"),
        (lambda path: (path / "a").write_text("2"), "a: its SHA-256"),
        (lambda path: (path / "manifest.json").write_text(""), "empty"),
        (lambda path: (path / "manifest.json").write_text("{"), "not valid JSON"),
        (lambda path: (path / "manifest.json").write_text("[]"), "no list of files"),
        (lambda path: (path / "manifest.json").write_text('{"files": {"a": 1}}'), "not described"),
        (lambda path: (path / "manifest.json").write_text('{"files": {"../b": {}}}'), "missing"),
    ],
)
def test_a_folder_that_is_not_whole_does_not_verify(tmp_path, damage, word):
    path = tmp_path / "checkpoint-1"
    fill(path, 1)
    assert llmc.checkpoint.verify(path) is None
    damage(path)
    with pytest.raises(CheckpointError, match=word):
        llmc.checkpoint.verify(path)


def test_files_added_later_do_not_matter(tmp_path):
    fill(tmp_path / "checkpoint-1", 1)
    (tmp_path / "checkpoint-1" / "README.md").write_text("")
    llmc.checkpoint.verify(tmp_path / "checkpoint-1")


def test_a_manifest_covers_every_file_but_itself(tmp_path):
    fill(tmp_path / "x", 1)
    listed = json.loads((tmp_path / "x" / manifest.MANIFEST).read_text())["files"]
    assert list(listed) == ["a", "inner/b"] and listed["a"]["bytes"] == 1


def test_what_is_no_file_is_not_replaced_by_one(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, what in (("pipe", "a device or a pipe"), ("folder", "a folder")):
        with pytest.raises(OSError, match=f"{name}: {what}, no file to be replaced"):
            with atomic.atomic_write(tmp_path / name) as file:
                file.write(b"1")
    assert sorted(os.listdir(tmp_path)) == ["folder", "pipe"] and not (tmp_path / "pipe").is_file()
