"""The reader of torch's files: what torch saved is read without torch, and nothing in a file can run or hurt."""

import io
import os
import pickle
import re
import struct
import tarfile
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
from checkpoint_bytes import (
    MAGIC, ORDERED_DICT, call, group, mapping, number, pickled, storage, tensor, text, torch_legacy, torch_zip, word,
)
from conftest import require_peers
from fuzz_readers import fuzz

import llmc.checkpoint
from llmc.errors import CheckpointError

SIX = np.arange(6, dtype=np.float32)
RAW = {"0": SIX.tobytes()}


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "pytorch_model.bin")


def put(path, data):
    with open(path, "wb") as file:
        file.write(data)
    return path


def read(path, data):
    put(path, data)
    with llmc.checkpoint.open(path) as checkpoint:
        return {name: checkpoint[name] for name in checkpoint}


def refused(path, data, word=None):
    """The file is refused with its name, within a second, at a bounded price."""
    put(path, data)
    tracemalloc.start()
    begin = time.process_time()
    try:
        with pytest.raises(CheckpointError, match=word) as caught:
            llmc.checkpoint.open(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.process_time() - begin < 10  # tracemalloc slows it down
    assert peak < (8 << 20) + 2.2 * len(data) + 1e6
    assert str(caught.value).startswith(path)


# By hand, without torch


def test_a_hand_made_zip_is_read(path):
    arrays = read(path, torch_zip(mapping({"w": tensor()}), RAW))
    assert arrays["w"].tolist() == SIX.reshape(2, 3).tolist()


@pytest.mark.parametrize("top", ["archive", "pytorch_model", "ünï", "a b"])
def test_the_name_of_the_top_folder_does_not_matter(path, top):
    assert read(path, torch_zip(mapping({"w": tensor()}), RAW, top=top))["w"].sum() == 15


@pytest.mark.parametrize("function", ["_rebuild_tensor", "_rebuild_tensor_v2"])
def test_strides_and_offsets_count_elements(path, function):
    def of(offset, shape, stride):
        if function == "_rebuild_tensor_v2":
            return tensor(None, offset, shape, stride)
        return call(word("torch._utils", function), storage(), number(offset), group(*map(number, shape)),
                    group(*map(number, stride)))

    arrays = read(path, torch_zip(mapping({
        "transposed": of(0, (3, 2), (1, 3)),
        "second row": of(3, (3,), (1,)),
        "every other": of(1, (3,), (2,)),
        "expanded": of(2, (4, 2), (0, 0)),
        "windows": of(0, (4, 3), (1, 1)),
        "scalar": of(5, (), ()),
        "empty": of(0, (0, 7), (7, 1)),
        "axis of one": of(0, (1, 6), (2**62, 1)),
    }), RAW))
    assert arrays["transposed"].tolist() == SIX.reshape(2, 3).T.tolist()
    assert arrays["second row"].tolist() == [3, 4, 5]
    assert arrays["every other"].tolist() == [1, 3, 5]
    assert arrays["expanded"].tolist() == [[2, 2]] * 4
    assert arrays["windows"].tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]]
    assert arrays["scalar"] == 5 and arrays["scalar"].shape == ()
    assert arrays["empty"].shape == (0, 7)
    assert arrays["axis of one"].tolist() == [SIX.tolist()]


def test_big_endian_numbers_are_swapped(path):
    swapped = SIX.astype(">f4").tobytes()
    assert read(path, torch_zip(mapping({"w": tensor()}), {"0": swapped}, byteorder=b"big"))["w"].ravel().tolist() \
        == SIX.tolist()
    legacy = mapping({"w": tensor(storage(legacy=True))})
    assert read(path, torch_legacy(legacy, {"0": (6, swapped)}, little_endian=False))["w"].ravel().tolist() \
        == SIX.tolist()
    halves = mapping({"w": tensor(storage(kind="BFloat16Storage"))})
    raw = np.array([0x3F80, 0x4000, 0x4040, 0, 0, 0], ">u2").tobytes()
    assert read(path, torch_zip(halves, {"0": raw}, byteorder=b"big"))["w"].ravel()[:3].tolist() == [1, 2, 3]


def test_a_hand_made_legacy_file_is_read_with_its_storage_views(path):
    view = group(text("v"), number(2), number(3))
    value = mapping({
        "whole": tensor(storage(legacy=True)),
        "view": tensor(storage(legacy=True, view=view), 1, (2,), (1,)),
    })
    arrays = read(path, torch_legacy(value, {"0": (6, RAW["0"])}))
    assert arrays["whole"].tolist() == SIX.reshape(2, 3).tolist()
    assert arrays["view"].tolist() == [3, 4]


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "module"])
def test_a_nested_state_dict_is_found(path, key):
    value = mapping({key: mapping({"w": tensor()}), "epoch": number(3), "args": mapping({})})
    assert list(read(path, torch_zip(value, RAW))) == ["w"]


def test_plain_values_among_the_tensors_become_metadata(path):
    put(path, torch_zip(mapping({"w": tensor(), "step": number(7), "name": text("x")}), RAW))
    assert llmc.checkpoint.open(path).metadata == {"step": "7", "name": "x"}


def test_parameters_sizes_and_repeated_memo_entries_are_read(path):
    parameter = call(word("torch._utils", "_rebuild_parameter"), tensor(), b"\x88", ORDERED_DICT)
    with_state = call(word("torch._utils", "_rebuild_parameter_with_state"), tensor(), b"\x88", ORDERED_DICT, b"}")
    size = call(word("torch", "Size"), group(number(2), number(3)))
    of_size = call(word("torch._utils", "_rebuild_tensor_v2"), storage() + b"q\x05", number(0), size,
                   group(number(3), number(1)), b"\x89", ORDERED_DICT)
    again = call(word("torch._utils", "_rebuild_tensor_v2"), b"h\x05", number(0), group(number(6)),
                 group(number(1)), b"\x89", ORDERED_DICT)
    typed = call(word("torch._tensor", "_rebuild_from_type_v2"), word("torch._utils", "_rebuild_tensor_v2"),
                 word("torch.nn.parameter", "Parameter"),
                 group(storage(), number(0), group(number(6)), group(number(1)), b"\x89", ORDERED_DICT), b"}")
    value = mapping({"p": parameter, "s": with_state, "z": of_size, "a": again, "t": typed})
    arrays = read(path, torch_zip(value, RAW))
    assert all(array.sum() == 15 for array in arrays.values()) and len(arrays) == 5


def test_a_zip64_directory_is_read(path):
    data = torch_zip(mapping({"w": tensor()}), RAW)
    end = data.rfind(b"PK\x05\x06")
    _, _, _, _, total, size, start, _ = struct.unpack("<4s4H2IH", data[end:])
    end64 = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, total, total, size, start)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1)
    narrow = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    assert read(path, data[:end] + end64 + locator + narrow)["w"].sum() == 15


def test_zip64_sizes_of_an_entry_are_read(path):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a/data.pkl", pickled(mapping({"w": tensor()})))
        with archive.open("a/data/0", "w", force_zip64=True) as entry:
            entry.write(RAW["0"])
    assert read(path, out.getvalue())["w"].sum() == 15


# Hostile values of every argument of a tensor

WRONG = {
    "none": b"N", "true": b"\x88", "float": b"G" + struct.pack(">d", 1.0), "string": text("6"), "dict": b"}",
    "list": b"]", "negative": number(-1), "2**63": number(2**63), "2**64": number(2**64), "2**2000": number(2**2000),
    "class": word("torch", "FloatStorage"), "tensor": tensor(), "nan": b"G" + struct.pack(">d", float("nan")),
}

def hostile_tensors():
    for name, value in WRONG.items():
        yield f"offset {name}", tensor(None, value)
        yield f"size {name}", tensor(None, 0, group(value, number(3)))
        yield f"stride {name}", tensor(None, 0, (2, 3), group(value, number(1)))
        yield f"numel {name}", tensor(storage(numel=value))
        yield f"storage {name}", tensor(value)
        yield f"persistent id {name}", tensor(value + b"Q")
        floats, cpu = word("torch", "FloatStorage"), text("cpu")
        yield f"key {name}", tensor(group(text("storage"), floats, value, cpu, b"K\6") + b"Q")
        yield f"word {name}", tensor(group(value, floats, text("0"), cpu, b"K\6") + b"Q")
        if name != "class":
            yield f"kind {name}", tensor(group(text("storage"), value, text("0"), cpu, b"K\6") + b"Q")
        if name != "list":
            yield f"shape {name}", tensor(None, 0, value)
            yield f"strides {name}", tensor(None, 0, (2, 3), value)
        if name != "tensor":
            yield f"parameter of {name}", call(word("torch._utils", "_rebuild_parameter"), value, b"\x88", ORDERED_DICT)
            yield f"tensor is {name}", value if name in ("class", "dict", "list") else value + b"\x85"
        yield f"dtype {name}", call(
            word("torch._utils", "_rebuild_tensor_v3"), storage(), b"K\0", group(b"K\6"), group(b"K\1"), b"\x89",
            ORDERED_DICT, value,
        )
    yield "one element too many", tensor(None, 0, (7,), (1,))
    yield "offset one too far", tensor(None, 1)
    yield "stride one too wide", tensor(None, 0, (2, 3), (4, 1))
    yield "far offset", tensor(None, 2**62)
    yield "wrapping stride", tensor(None, 0, (3, 3), (2**62, 1))
    yield "wrapping product", tensor(None, 0, (2**32, 2**32, 4), (0, 0, 0))
    yield "product that wraps to zero", tensor(None, 0, (2**42 + 1, 2**42 + 1, 2**42 + 1), (0, 0, 0))
    yield "more sizes than strides", tensor(None, 0, (2, 3), (1,))
    yield "huge expansion", tensor(None, 0, (2**40,), (0,))
    yield "expansion above 16 MiB", tensor(None, 0, (5 << 20,), (0,))
    yield "too many dimensions", tensor(None, 0, (1,) * 33, (0,) * 33)
    yield "huge empty", tensor(None, 0, (0, 2**62, 8), (0, 0, 0))
    yield "storage too short", tensor(storage(numel=7))
    yield "storage too long", tensor(storage(numel=5), 0, (5,), (1,))
    yield "storage of another width", tensor(storage(kind="DoubleStorage"))
    yield "storage not in the archive", tensor(storage(key="1"))
    yield "storage outside", tensor(storage(key="../../etc/passwd"))
    yield "quantized storage", tensor(storage(kind="QInt8Storage"))
    yield "untyped storage", tensor(storage(kind="UntypedStorage", numel=24))
    yield "storage of a dtype", tensor(storage(kind="float32"))


@pytest.mark.parametrize("value", [pytest.param(value, id=name) for name, value in hostile_tensors()])
def test_a_tensor_that_is_not_one_is_refused(path, value):
    refused(path, torch_zip(mapping({"w": value}), RAW))


# Pickles that name, call or claim too much

REFUSED_NAMES = [
    ("os", "system"), ("posix", "system"), ("builtins", "eval"), ("__builtin__", "exec"), ("builtins", "getattr"),
    ("subprocess", "Popen"), ("torch", "load"), ("torch.storage", "_load_from_bytes"), ("torch.hub", "load"),
    ("numpy.core.multiarray", "_reconstruct"), ("torch._utils", "_rebuild_qtensor"), ("torch", "os.system"),
    ("torch._utils", "_rebuild_sparse_tensor"), ("collections", "OrderedDict.fromkeys"), ("copyreg", "_reconstructor"),
    ("torch._utils", "__import__"), ("torch.serialization", "os"), ("builtins", "set.__init__"), ("", ""),
    ("_codecs", "decode"), ("builtins", "map"), ("argparse", "Namespace"), ("__main__", "Model"),
    ("torch.nn.modules.linear", "Linear"),
]


@pytest.mark.parametrize("module, name", REFUSED_NAMES)
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_name_that_no_tensor_needs_is_refused_by_name(path, module, name, protocol):
    named = word(module, name) if protocol == 2 else text(module) + text(name) + b"\x93"
    shown = f"{module.replace('__builtin__', 'builtins')}.{name}"
    for value in (named, call(named, text("echo")), named + b")\x81"):
        refused(path, torch_zip(mapping({"w": tensor(), "x": value}), RAW), re.escape(shown))
        refused(path, torch_legacy(mapping({"w": tensor(storage(legacy=True)), "x": value}), {}), re.escape(shown))


class Command:
    def __reduce__(self):
        return os.system, ("touch /tmp/llmc-was-here",)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_nothing_in_a_pickle_is_run(path, tmp_path, protocol):
    body = pickle.dumps({"w": Command()}, protocol)
    refused(path, zip_with_pickle(body), "system")
    refused(path, body, "plain pickle")
    refused(path, MAGIC + pickled(number(1001)) + pickled(mapping({"little_endian": b"\x88"})) + body, "system")
    assert not os.path.exists("/tmp/llmc-was-here")


def zip_with_pickle(body, **storages):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a/data.pkl", body)
        for key, raw in storages.items():
            archive.writestr(f"a/data/{key}", raw)
    return out.getvalue()


def bombs():
    yield "tuples doubled", b")" + b"q\0h\0\x86" * 20_000
    yield "tuples nested", b")" + b"\x85" * 500_000
    yield "tuple as a key", b"})" + b"q\0h\0\x86" * 100 + b"K\1s"
    yield "tuple in a set", b"\x8f()" + b"q\0h\0\x86" * 100 + b"\x90"
    yield "tuple in a made set", call(word("builtins", "set"), b"](" + b")" + b"q\0h\0\x86" * 100 + b"e")
    yield "lists nested", b"](" * 50_000 + b"e" * 50_000
    yield "lists doubled", b"]q\0" + b"(h\0h\0e" * 50_000
    yield "list extended by itself", b"]q\0(" + b"K\1" * 1000 + b"e" + b"(" + b"h\0" * 1000 + b"e"
    yield "dicts", b"}" * 500_000
    yield "dicts remembered", b"".join(b"}r" + struct.pack("<I", i) + b"0" for i in range(200_000))
    yield "marks", b"(" * 500_000
    yield "stack", b"K\1" * 500_000
    yield "strings remembered", b"".join(b"X\0\0\0\0r" + struct.pack("<I", i) + b"0" for i in range(200_000))
    yield "names", word("torch", "FloatStorage") * 50_000
    yield "ordered dicts", (word("collections", "OrderedDict") + b"q\0") + b"h\0)R0" * 200_000
    yield "doubled by dup", b"}" + b"2\x86" * 200_000
    yield "long", b"\x8b" + struct.pack("<I", 2**31 - 1)
    yield "negative long", b"\x8b" + struct.pack("<i", -1)
    yield "long that is there", b"\x8b" + struct.pack("<I", 300_000) + b"\xff" * 300_000
    yield "string", b"X" + struct.pack("<I", 2**32 - 1)
    yield "wide string", b"\x8d" + struct.pack("<Q", 2**63)
    yield "wider string", b"\x8d" + struct.pack("<Q", 2**64 - 1)
    yield "bytes", b"B" + struct.pack("<I", 2**32 - 1)
    yield "wide bytes", b"\x8e" + struct.pack("<Q", 2**40)
    yield "byte array", b"\x96" + struct.pack("<Q", 2**40)
    yield "frame", b"\x95" + struct.pack("<Q", 2**40)
    yield "claimed bytearray", call(word("builtins", "bytearray"), number(2**32))
    yield "small claimed bytearray", call(word("builtins", "bytearray"), number(200))
    yield "bytearray of a list", call(word("builtins", "bytearray"), b"]")
    yield "text encoded", word("_codecs", "encode") + b"q\0" + text("x" * 1000) + b"\x85q\1" + b"h\0h\1R" * 60_000
    yield "codec", call(word("_codecs", "encode"), text("x"), text("zip"))
    yield "complex of a string", call(word("builtins", "complex"), text("1"))
    yield "complex of a huge number", call(word("builtins", "complex"), number(2**2000))
    yield "size of itself", word("torch", "Size") + b"N\x85R"
    yield "dict of pairs that are none", call(word("collections", "OrderedDict"), b"](K\1e")
    yield "dict of unhashable keys", call(word("collections", "OrderedDict"), b"]((](K\1tte")
    yield "type of itself", call(word("torch._tensor", "_rebuild_from_type_v2"),
                                 word("torch._tensor", "_rebuild_from_type_v2"), b"N", b")", b"}")
    yield "type called", call(word("torch.nn.parameter", "Parameter"), b"N")
    yield "wrong number of arguments", word("torch._utils", "_rebuild_tensor_v2") + b")R"
    yield "too many arguments", word("torch._utils", "_rebuild_tensor_v2") + b"(" + b"N" * 1000 + b"tR"
    yield "call of a number", b"K\1)R"
    yield "call without a tuple", word("torch", "Size") + b"]R"
    yield "call of a dtype", word("torch", "float32") + b")R"
    yield "append to a dict", b"}K\1a"
    yield "item of a list", b"]K\1K\1s"
    yield "item of a tensor", tensor() + b"K\1K\1s"
    yield "key without a value", b"}(K\1u"
    yield "build of a dict", b"}}b"
    yield "build of a tensor", tensor() + b"}b"
    yield "build with a number", ORDERED_DICT + b"K\1b"
    yield "no mark", b"t"
    yield "pop of nothing", b"0"
    yield "pop through a mark", b"K\1(0"
    yield "memo never written", b"h\7"
    yield "memo of nothing", b"q\0"
    yield "old number", b"I1\n"
    yield "old long", b"L" + b"9" * 100_000 + b"L\n"
    yield "old string", b"S'x'\n"
    yield "old instance", b"(ios\nsystem\n"
    yield "old object", b"(" + word("os", "system") + b"o"
    yield "extension", b"\x82\1"
    yield "next buffer", b"\x97"
    yield "unknown opcode", b"\xff"
    yield "persistent id in text", b"P0\n"
    yield "no text", b"X\1\0\0\0\xff"
    yield "name without an end", b"ctorch" + b"x" * 100_000
    yield "stack global of numbers", b"K\1K\1\x93"
    yield "stack global of long names", text("x" * 9999) + text("y" * 9999) + b"\x93"
    yield "two values", b"K\1K\1"
    yield "open mark", b"K\1("
    yield "nothing", b""


@pytest.mark.parametrize("value", [pytest.param(value, id=name) for name, value in bombs()])
def test_a_hostile_pickle_is_refused_quickly_at_a_small_price(path, value):
    refused(path, torch_zip(value, RAW))
    refused(path, torch_legacy(value, {}))


@pytest.mark.parametrize("protocol", [0, 1, 6, 255])
def test_a_protocol_that_torch_does_not_write_is_refused(path, protocol):
    refused(path, zip_with_pickle(pickled(mapping({"w": tensor()}), protocol), **RAW), "protocol")


@pytest.mark.parametrize(
    "value, word",
    [
        (number(7), "holds a int"),
        (tensor(), "single tensor"),
        (b"}", "holds: nothing"),
        (mapping({"epoch": number(3)}), "'epoch'"),
        (b"]", "list"),
        (b"}(K\1" + tensor() + b"u", "int among its names"),
        (mapping({"w": tensor(), "optimizer": mapping({})}), "'optimizer' in the state dict is a dict"),
    ],
)
def test_a_pickle_without_a_state_dict_says_what_it_holds(path, value, word):
    refused(path, torch_zip(value, RAW), word)


# Archives that lie

GOOD = torch_zip(mapping({"w": tensor()}), RAW)
CENTRAL = GOOD.index(b"PK\x01\x02")
END = GOOD.rindex(b"PK\x05\x06")


def patched(at, layout, value, data=GOOD):
    raw = struct.pack(layout, value)
    return data[:at] + raw + data[at + len(raw) :]


def central(name, data=GOOD):
    """Where the directory's entry of `name` begins."""
    return data.rindex(b"PK\x01\x02", 0, data.rindex(name))


def local(name, data=GOOD):
    return data.rindex(b"PK\x03\x04", 0, data.index(name))


def lying_archives():
    pkl, raw = b"archive/data.pkl", b"archive/data/0"
    for value in (1, 2**31, 2**32 - 2, 2**32 - 1):
        for name in (pkl, raw):
            yield f"size of {name} {value}", patched(central(name) + 24, "<I", value)
            yield f"packed size of {name} {value}", patched(central(name) + 20, "<I", value)
            yield f"both sizes of {name} {value}", patched(
                central(name) + 20, "<I", value, patched(central(name) + 24, "<I", value)
            )
            yield f"offset of {name} {value}", patched(central(name) + 42, "<I", value)
            yield f"local size of {name} {value}", patched(local(name) + 22, "<I", value % (2**32 - 1))
        yield f"directory size {value}", patched(END + 12, "<I", value)
        yield f"directory start {value}", patched(END + 16, "<I", value)
    for value in (1, 0xFFFF):
        for name in (pkl, raw):
            yield f"name of {name} {value}", patched(central(name) + 28, "<H", value)
            yield f"extra of {name} {value}", patched(central(name) + 30, "<H", value)
            yield f"comment of {name} {value}", patched(central(name) + 32, "<H", value)
            yield f"local name of {name} {value}", patched(local(name) + 26, "<H", value)
        yield f"local extra {value}", patched(local(raw) + 28, "<H", 0xFFFF)
        yield f"number of entries {value}", patched(END + 10, "<H", value, patched(END + 8, "<H", value))
        yield f"entries on this disk {value}", patched(END + 8, "<H", value)
        yield f"disk {value}", patched(END + 4, "<H", value)
        yield f"first disk {value}", patched(END + 6, "<H", value)
        yield f"comment {value}", patched(END + 20, "<H", value)
    yield "no entries", patched(END + 10, "<H", 0, patched(END + 8, "<H", 0))
    yield "encrypted", patched(central(raw) + 8, "<H", 1)
    yield "method", patched(central(raw) + 10, "<H", 8)
    yield "local method", patched(local(raw) + 8, "<H", 8)
    yield "no directory", GOOD[:CENTRAL]
    yield "no end", GOOD[:END]
    yield "bytes behind", GOOD + b"\0"
    yield "bytes before the directory", GOOD[:CENTRAL] + b"\0" + GOOD[CENTRAL:]
    yield "central signature", patched(central(raw), "<I", 0)
    yield "local signature", patched(local(raw), "<I", 0) if local(raw) else GOOD[:-1]
    yield "other local name", GOOD.replace(b"archive/data/0", b"archive/data/1", 1)
    yield "name not utf-8", GOOD.replace(b"archive/data/0", b"archive/data/\xff")
    yield "two entries at one place", patched(central(raw) + 42, "<I", local(pkl))
    yield "compressed", torch_zip(mapping({"w": tensor()}), {"0": bytes(24)}, compression=zipfile.ZIP_DEFLATED)
    yield "no pickle", torch_zip(mapping({"w": tensor()}), RAW).replace(b"data.pkl", b"dato.pkl")
    yield "two pickles", torch_zip(mapping({"w": tensor()}), RAW, extra=[("b/data.pkl", b"")])
    yield "program", torch_zip(mapping({"w": tensor()}), RAW, extra=[("archive/constants.pkl", b"\x80\x02).")])
    yield "byte order", torch_zip(mapping({"w": tensor()}), RAW, byteorder=b"middle")
    yield "long byte order", torch_zip(mapping({"w": tensor()}), RAW, byteorder=b"little" * 999)
    for at in (4, 8, 24, 32, 40, 48):
        yield f"zip64 end {at}", zip64(at)
    yield "zip64 locator", zip64(None, 2**63)
    yield "zip64 locator at itself", zip64(None, END + 56)


def zip64(at, where=None):
    _, _, _, _, total, size, start, _ = struct.unpack("<4s4H2IH", GOOD[END:])
    end64 = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, total, total, size, start)
    if at is not None:
        end64 = patched(at, "<Q", 2**63 + 1, end64)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, END if where is None else where, 1)
    return GOOD[:END] + end64 + locator + GOOD[END:]


@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in lying_archives()])
def test_an_archive_that_lies_is_refused(path, data):
    assert data != GOOD
    refused(path, data)


def test_an_entry_that_stands_twice_is_refused(path):
    with pytest.warns(UserWarning, match="Duplicate"):
        data = torch_zip(mapping({"w": tensor()}), RAW, extra=[("archive/data/0", bytes(24))])
    refused(path, data, "twice")


def test_every_truncation_of_either_format_is_refused(path):
    legacy = torch_legacy(mapping({"w": tensor(storage(legacy=True))}), {"0": (6, RAW["0"])})
    assert read(path, legacy)["w"].sum() == 15
    for whole in (GOOD, legacy):
        for end in range(len(whole)):
            put(path, whole[:end])
            with pytest.raises(CheckpointError):
                llmc.checkpoint.open(path)


LEGACY = {
    "protocol": dict(protocol=1000),
    "key twice": dict(keys=["0", "0"]),
    "key of no tensor": dict(keys=["0", "1"]),
    "key missing": dict(keys=[]),
    "more numbers than bytes": dict(numel=7),
    "fewer numbers than claimed": dict(numel=5),
    "negative": dict(numel=-1),
    "huge": dict(numel=2**62),
}


@pytest.mark.parametrize("name", LEGACY)
def test_a_legacy_file_that_lies_is_refused(path, name):
    wrong = LEGACY[name]
    value = mapping({"w": tensor(storage(legacy=True))})
    storages = {key: (wrong.get("numel", 6), RAW["0"]) for key in wrong.get("keys", ["0"])}
    data = torch_legacy(value, storages, protocol=wrong.get("protocol", 1001))
    if name == "key twice":
        data = torch_legacy(value, {"0": (6, RAW["0"]), "00": (6, RAW["0"])}).replace(text("00"), text("0"))
    refused(path, data)


@pytest.mark.parametrize("first, numel", [(4, 3), (7, 0), (-1, 2), (2**62, 2**62), (0, 7)])
def test_a_legacy_view_outside_its_storage_is_refused(path, first, numel):
    view = group(text("v"), number(first), number(numel))
    value = mapping({"w": tensor(storage(legacy=True, view=view), 0, (1,), (1,))})
    refused(path, torch_legacy(value, {"0": (6, RAW["0"])}), "view")


def test_the_oldest_format_a_tar_is_refused_in_words(path):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    refused(path, out.getvalue(), "tar archive")


@pytest.mark.parametrize(
    "data, word",
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "git-LFS"),
        (b"<!doctype html>", "HTML"),
        (b"GGUF" + bytes(99), "GGUF"),
        (b"\x1f\x8b" + bytes(99), "gzip"),
        (struct.pack("<Q", 2) + b"{}", "safetensors file; name it"),
        (b"\x80\x02}.", "plain pickle"),
        (b"random bytes", "no format"),
        (b"PK\x05\x06" + bytes(18), "empty zip"),
        (MAGIC, "cut short"),
    ],
)
def test_a_file_of_another_kind_is_named(path, data, word):
    refused(path, data, word)


def test_a_file_of_any_name_is_told_by_its_first_bytes(tmp_path):
    for data in (GOOD, torch_legacy(mapping({"w": tensor(storage(legacy=True))}), {"0": (6, RAW["0"])})):
        assert read(tmp_path / "weights", data)["w"].sum() == 15
    refused(str(tmp_path / "weights"), b"text", "no format")


@pytest.mark.parametrize("seed", range(4))
def test_a_seeded_share_of_the_fuzzing_finds_nothing(tmp_path, seed):
    count, taken, found = fuzz(seed, 1000, 60, str(tmp_path))
    assert found is None
    assert taken > 10 and count > 100


# Live against torch


def state_dict(torch):
    torch.manual_seed(0)
    base = torch.randn(6, 8)
    result = {
        "plain": torch.randn(3, 4), "transposed": torch.randn(4, 5).t(), "scalar": torch.tensor(3.5),
        "permuted": torch.randn(2, 3, 4).permute(2, 0, 1), "expanded": torch.randn(1, 4).expand(3, 4), "whole": base,
        "sliced": base[1:5, 2:7], "step": base[::2, ::3], "chunk": base.chunk(3)[1], "windows": base.unfold(0, 3, 1),
        "empty": torch.zeros(0, 3), "parameter": torch.nn.Parameter(torch.randn(2, 2)),
        "bool": torch.tensor([True, False]), "complex": torch.randn(3, dtype=torch.complex64),
    }
    for name in ("float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "uint16", "uint32",
                 "float8_e4m3fn", "float8_e5m2"):
        result[name] = (torch.randn(3, 5) * 9).abs().to(getattr(torch, name))
    result["alias"] = result["float16"]
    return result


def raw(torch, value):
    value = value.detach().contiguous()
    return (value.reshape(-1).view(torch.uint8) if value.numel() else value).numpy().tobytes()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("ordered", [True, False])
def test_what_torch_saved_is_read_bit_for_bit(path, protocol, zipped, ordered):
    torch = require_peers().torch
    values = state_dict(torch)
    if ordered:
        import collections

        values = collections.OrderedDict(values)
        values._metadata = collections.OrderedDict({"": {"version": 1}})
    torch.save(values, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    arrays = read(path, open(path, "rb").read())
    assert list(arrays) == list(values)
    for name, value in values.items():
        assert arrays[name].shape == tuple(value.shape), name
        assert arrays[name].dtype.name == str(value.dtype).removeprefix("torch."), name
        assert arrays[name].tobytes() == raw(torch, value), name


def test_a_module_that_torch_saved_is_read_from_any_wrapping(path):
    torch = require_peers().torch
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    for value in (module.state_dict(), {"state_dict": module.state_dict(), "epoch": 3, "lr": 0.1},
                  {"model": dict(module.named_parameters())}):
        for zipped in (True, False):
            torch.save(value, path, _use_new_zipfile_serialization=zipped)
            with llmc.checkpoint.open(path) as checkpoint:
                assert {n: checkpoint[n].tolist() for n in checkpoint} == {
                    n: p.tolist() for n, p in module.state_dict().items()
                }


def test_whole_modules_and_quantized_tensors_are_refused_by_the_name_they_use(path):
    torch = require_peers().torch
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.linear\.Linear"):
        llmc.checkpoint.open(path)
    torch.save({"w": torch.eye(3).to_sparse()}, path)
    with pytest.raises(CheckpointError, match="sparse"):
        llmc.checkpoint.open(path)
