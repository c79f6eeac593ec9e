"""Fuzzing of the checkpoint readers: `python tests/fuzz_readers.py --seconds 600 --seed 1 --reader zip`.

Good files are damaged at random, with a bias to what readers trust (lengths, offsets, opcodes, brackets). A reader may
return tensors or raise CheckpointError (FileNotFoundError for an index). Anything else, more than a second, or more
memory than 8 MiB and twice the file is a finding: its bytes are saved and the run ends with status 1. What our
safetensors reader takes, the safetensors library must take too, with the same tensors.
"""

import argparse
import json
import os
import random
import struct
import sys
import tempfile
import time
import tracemalloc

import numpy as np
import safetensors.numpy

sys.path[:0] = [os.path.dirname(os.path.abspath(__file__)), os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]

import checkpoint_bytes as make  # noqa: E402

import llmc.checkpoint  # noqa: E402
from llmc.errors import CheckpointError  # noqa: E402

MEASURED = 16  # memory is measured for one input of so many, because measuring is slow
SLOW = 1.0
NUMBERS = [0, 1, 2, 7, 8, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1,
           2**63, 2**64 - 1]
WORDS = [
    b'"', b"{", b"}", b"[", b"]", b",", b":", b"null", b"true", b"-1", b"1e9", b"1.0", b" ", b'\\u0000', b"\\",
    b'"F32"', b'"BF16"', b'"I64"', b'"shape"', b'"data_offsets"', b'"dtype"', b'"__metadata__"', b'"a"', b'"w":{}',
    b"[0,0]", b"../", b"part.safetensors", b'"weight_map"',
]
OPCODES = [
    b"(", b"t", b"R", b"Q", b"q\0", b"h\0", b"h\1", b"h\2", b"r\0\0\0\1", b"\x85", b"\x86", b"\x87", b"}", b"]", b")",
    b"u", b"s", b"e", b"a", b"b", b".", b"N", b"K\0", b"K\6", b"\x8a\x08", b"\x8a\1\xff", b"\x8b", b"0", b"1", b"2",
    b"\x81", b"\x8f", b"\x90", b"\x93", b"\x94", b"X\0\0\0\0", b"\x88", b"G\x7f\xf8\0\0\0\0\0\0",
    make.word("torch", "FloatStorage"), make.word("torch", "UntypedStorage"), make.word("torch", "bfloat16"),
    make.word("torch", "Size"), make.word("torch", "device"), make.word("builtins", "set"),
    make.word("builtins", "bytearray"), make.word("builtins", "complex"), make.word("_codecs", "encode"),
    make.word("os", "system"), make.word("torch._utils", "_rebuild_tensor"),
    make.word("torch._utils", "_rebuild_tensor_v3"), make.word("torch._utils", "_rebuild_parameter"),
    make.word("torch._tensor", "_rebuild_from_type_v2"), make.storage(), make.storage(legacy=True), make.tensor(),
    make.ORDERED_DICT,
]
TEXT_CHANGES = (0, 2, 3, 5, 5, 6, 7, 7, 8)  # those that mostly leave UTF-8 what it is
MARKS = [b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", make.MAGIC, b"\0" * 8, b"\xff" * 8]


def seeds():
    """{reader: [(suffix, parts, build, tokens)]}: `build(*parts)` is a good file, `tokens` are its language."""
    six = np.arange(6, dtype=np.float32).tobytes()
    names = {"a": make.f32([2, 3], 0, 24), "b.weight": {"dtype": "I64", "shape": [], "data_offsets": [24, 32]}}
    header = json.dumps({"__metadata__": {"format": "pt"}, **names, "z": make.f32([0, 2], 32, 32)}).encode()
    index = json.dumps({"metadata": {"total_size": 24}, "weight_map": {"a": "part.safetensors"}}).encode()
    parts = {"w": make.tensor(), "t": make.tensor(None, 0, (3, 2), (1, 3)), "e": make.tensor(None, 2, (4,), (0,))}
    parameter = make.call(make.word("torch._utils", "_rebuild_parameter"), make.tensor(), b"\x88", make.ORDERED_DICT)
    nested = make.mapping({"state_dict": make.mapping({"p": parameter}) + b"q\0", "x": b"h\0"})
    old = {name: make.tensor(make.storage(legacy=True)) for name in "uv"}
    view = make.group(make.text("v"), make.number(2), make.number(3))
    old["view"] = make.tensor(make.storage(legacy=True, view=view), 0, (3,), (1,))

    def legacy(value, raw):
        return make.torch_legacy(value, {"0": (6, raw)})

    def archive(value, raw):
        return make.torch_zip(value, {"0": raw})

    return {
        "safetensors": [
            (".safetensors", (header, six + bytes(8)), make.safetensors, WORDS),
            (".safetensors", (b"{}", b""), make.safetensors, WORDS),
        ],
        "index": [(".safetensors.index.json", (index,), bytes, WORDS)],
        "zip": [
            (".bin", (make.mapping(parts), six), archive, OPCODES),
            (".bin", (nested, six), archive, OPCODES),
        ],
        "legacy": [(".bin", (make.mapping(old), six), legacy, OPCODES)],
    }


def damaged(rng, seed, others):
    """A file of `seed` with changes in a part, so that what stands around it fits, in the whole file, or in both."""
    _, parts, build, tokens = seed
    parts = list(parts)
    where = rng.random()
    if where < 0.8:
        parts[0] = changed(rng, parts[0], others, tokens)
    whole = build(*parts)
    return changed(rng, whole, others, MARKS + tokens) if where > 0.6 else whole


def changed(rng, data, others, tokens):
    """`data` after a few random changes."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 6))):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 2, 4, 8, 40)))
        kind = rng.choice(TEXT_CHANGES) if tokens is WORDS else rng.randrange(9)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = rng.randrange(256)
        elif kind == 2:
            del data[at:end]
        elif kind == 3:
            data[at:at] = data[at:end] * rng.choice((1, 2, 50))
        elif kind == 4:
            layout = rng.choice(("<B", "<H", "<I", "<Q", ">I"))
            raw = struct.pack(layout, rng.choice(NUMBERS) % 256 ** struct.calcsize(layout))
            data[at : at + len(raw)] = raw
        elif kind == 5:
            digits = [i for i, byte in enumerate(data) if 48 <= byte < 58]
            if digits:
                place = rng.choice(digits)
                data[place : place + 1] = str(rng.choice(NUMBERS)).encode()
        elif kind == 6:
            data[at:at] = rng.choice(tokens) * rng.choice((1, 1, 1, 3, 500))
        elif kind == 7:
            data[at:end] = rng.choice(tokens)
        else:
            other = rng.choice(others)
            start = rng.randrange(len(other) + 1)
            data[at:end] = other[start : start + 40]
        data = data[:200_000]
    return bytes(data)


def read(path):
    """All arrays of a checkpoint; every byte of them has been looked at."""
    with llmc.checkpoint.open(path) as checkpoint:
        arrays = {name: checkpoint[name] for name in checkpoint}
        for name, array in arrays.items():
            assert array.shape == checkpoint.shape(name) and array.nbytes == checkpoint.nbytes(name)
            out = np.empty(array.shape, array.dtype)
            checkpoint.read_into(name, out)
            assert out.tobytes() == array.tobytes()
    return arrays


def processor_seconds(path):
    """What reading it takes without anything measured beside, and without what other programs take."""
    begin = time.process_time()
    try:
        read(path)
    except (CheckpointError, FileNotFoundError):
        pass
    return time.process_time() - begin


def finding(path, data, measure):
    """(what was wrong with how the readers took `data`, or None; whether they took it)"""
    with open(path, "wb") as file:
        file.write(data)
    arrays = None
    if measure:
        tracemalloc.start()
    begin = time.monotonic()  # the processor time of a process takes longer to ask for than most inputs take
    try:
        arrays = read(path)
    except CheckpointError as error:
        if path not in str(error) and os.path.dirname(path) not in str(error):
            return f"the message does not name the file: {error}", False
        if len(str(error)) > 3000:
            return f"the message is {len(str(error))} characters long", False
    except FileNotFoundError:
        if not path.endswith(".json"):
            return "FileNotFoundError", False
    except Exception as error:
        return f"{type(error).__name__}: {error}", False
    finally:
        seconds = time.monotonic() - begin
        peak = tracemalloc.get_traced_memory()[1] if measure else 0
        tracemalloc.stop()
    if seconds > SLOW and (seconds := processor_seconds(path)) > SLOW:
        return f"{seconds:.1f} seconds", False
    if peak > (9 << 20) + 2 * len(data) + (64 << 20 if arrays else 0):  # copies of an expanded tensor are ours
        return f"{peak} bytes of memory for {len(data)} bytes of file", False
    if arrays is not None and path.endswith(".safetensors"):
        try:
            theirs = safetensors.numpy.load(data)
        except Exception as error:
            return f"taken here, refused by the safetensors library: {type(error).__name__}: {error}", True
        if {name: array.tobytes() for name, array in arrays.items()} != {n: a.tobytes() for n, a in theirs.items()}:
            return "other tensors than the safetensors library reads", True
    return None, arrays is not None


def fuzz(seed, inputs, seconds, folder, reader=None):
    """Try one reader, or all, until `inputs` or `seconds` are used up.

    Returns
    -------
    count, taken : int
        Inputs tried, and those that were opened.
    found : (str, bytes, str) or None
        The suffix, the bytes and the words of a finding.
    """
    rng = random.Random(seed)
    good = [seed for name, its in seeds().items() if reader in (None, name) for seed in its]
    others = [build(*parts) for its in seeds().values() for _, parts, build, _ in its]
    with open(os.path.join(folder, "part.safetensors"), "wb") as file:
        file.write(make.safetensors({"a": make.f32([6], 0, 24)}, bytes(24)))
    end = time.monotonic() + seconds
    count = taken = 0
    while count < inputs and time.monotonic() < end:
        seed = rng.choice(good)
        suffix, data = seed[0], damaged(rng, seed, others)
        words, opened = finding(os.path.join(folder, "model" + suffix), data, count % MEASURED == 0)
        count += 1
        taken += opened
        if words:
            return count, taken, (suffix, data, words)
    return count, taken, None


def main(arguments=None):
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--inputs", type=int, default=10**9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", choices=seeds(), help="one reader; without it, all")
    options = parser.parse_args(arguments)
    begin = time.monotonic()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a disk takes longer than the readers
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        count, taken, found = fuzz(options.seed, options.inputs, options.seconds, folder, options.reader)
    print(f"{options.reader or 'all'}: {count} inputs, {taken} of them opened, in {time.monotonic() - begin:.0f} s, "
          f"seed {options.seed}")
    if found is None:
        return 0
    suffix, data, words = found
    path = f"finding-{options.seed}{suffix}"
    with open(path, "wb") as file:
        file.write(data)
    print(f"{path}: {words}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
