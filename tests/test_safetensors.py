"""The safetensors reader and writer: what the library writes is read, what it reads is written, the rest is refused."""

import json
import os
import struct
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from checkpoint_bytes import f32, safetensors as make

import llmc.checkpoint
from llmc.errors import CheckpointError, ConfigError, UnknownNameError

SIX = np.arange(6, dtype=np.float32)
GOOD = {"a": f32([2, 3], 0, 24)}


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "model.safetensors")


def put(path, data):
    with open(path, "wb") as file:
        file.write(data)
    return path


def arrays():
    random = np.random.default_rng(0)
    result = {
        f"{dtype}.{'x'.join(map(str, shape))}": np.asarray(random.normal(size=shape) * 9).astype(dtype)
        for dtype in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "c8")
        for shape in ((), (0, 3), (5,), (3, 4, 2))
    }
    result["bf16"] = random.normal(size=(3, 5)).astype(ml_dtypes.bfloat16)
    result['ü\n\x1f"\\/'] = np.zeros(2, np.float32)
    return result


def test_every_dtype_and_shape_survives_writing_and_reading(tmp_path):
    tensors = arrays()
    tensors["f8"] = np.ones(3, ml_dtypes.float8_e4m3fn)
    llmc.checkpoint.write(tmp_path, tensors)
    with llmc.checkpoint.open(tmp_path) as checkpoint:
        assert set(checkpoint) == set(tensors) and len(checkpoint) == len(tensors)
        for name, array in tensors.items():
            assert checkpoint[name].dtype == checkpoint.dtype(name) == array.dtype
            assert checkpoint[name].shape == checkpoint.shape(name) == array.shape
            assert checkpoint.nbytes(name) == array.nbytes
            assert checkpoint[name].tobytes() == array.tobytes()


def test_written_bytes_are_those_of_the_safetensors_library(tmp_path, path):
    tensors = arrays()
    llmc.checkpoint.write(tmp_path, tensors)
    with open(path, "rb") as file:
        assert file.read() == safetensors.numpy.save(tensors, {"format": "pt"})


def test_what_the_library_wrote_is_read(path):
    tensors = arrays()
    safetensors.numpy.save_file(tensors, path, {"format": "np", "b": "ü"})
    checkpoint = llmc.checkpoint.open(path)
    assert checkpoint.metadata == {"format": "np", "b": "ü"}
    assert {name: checkpoint[name].tobytes() for name in checkpoint} == {n: a.tobytes() for n, a in tensors.items()}


def test_whitespace_around_the_header_and_no_tensors_are_legal(path):
    put(path, make(b" \n{}\t ", b""))
    assert llmc.checkpoint.open(path).names() == []
    assert safetensors.numpy.load_file(path) == {}


def test_an_array_belongs_to_whoever_asked_for_it(path):
    put(path, make(GOOD, SIX.tobytes()))
    checkpoint = llmc.checkpoint.open(path)
    array = checkpoint["a"]
    array *= 2
    assert checkpoint["a"].ravel().tolist() == SIX.tolist()
    checkpoint.close()
    put(path, b"gone")
    assert array.ravel().tolist() == (2 * SIX).tolist()


def test_reading_from_a_closed_checkpoint_is_an_error(path):
    put(path, make(GOOD, SIX.tobytes()))
    with llmc.checkpoint.open(path) as checkpoint:
        pass
    with pytest.raises(CheckpointError, match="closed"):
        checkpoint["a"]


def test_an_unknown_name_lists_the_nearest(path):
    put(path, make(GOOD, SIX.tobytes()))
    checkpoint = llmc.checkpoint.open(path)
    for read in (checkpoint.__getitem__, checkpoint.shape, checkpoint.dtype, checkpoint.nbytes, checkpoint.file):
        with pytest.raises(UnknownNameError, match="nearest: a"):
            read("aa")


def test_tensors_that_start_at_odd_addresses_are_read(path):
    put(path, make(b'{"a":{"dtype":"F32","shape":[6],"data_offsets":[0,24]}}', SIX.tobytes()))
    assert llmc.checkpoint.open(path)["a"].tolist() == SIX.tolist()


WRONG_NUMBERS = (
    "true", "1.5", "1.0", "1e2", "-1", '"6"', "null", "[]", "{}", str(2**63), str(2**64), "9" * 30, "1" * 99,
)
WRONG_VALUES = ("true", "1.5", "7", "null", '"x"', "[]", "{}", "[[]]")


def header(entry='{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}', rest=""):
    return f'{{"a":{entry}{rest}}}'.encode()


def wrong_headers():
    for value in WRONG_NUMBERS:
        yield f"shape holds {value[:20]}", header(f'{{"dtype":"F32","shape":[{value},3],"data_offsets":[0,24]}}')
        yield f"begin is {value[:20]}", header(f'{{"dtype":"F32","shape":[2,3],"data_offsets":[{value},24]}}')
        yield f"end is {value[:20]}", header(f'{{"dtype":"F32","shape":[2,3],"data_offsets":[0,{value}]}}')
    for value in WRONG_VALUES:
        yield f"dtype is {value}", header(f'{{"dtype":{value},"shape":[2,3],"data_offsets":[0,24]}}')
        yield f"shape is {value}", header(f'{{"dtype":"F32","shape":{value},"data_offsets":[0,24]}}')
        yield f"data_offsets is {value}", header(f'{{"dtype":"F32","shape":[2,3],"data_offsets":{value}}}')
        yield f"entry is {value}", header(value)
        if value not in ("null", "{}"):
            yield f"metadata is {value}", header(rest=f',"__metadata__":{value}')
        if value != '"x"':
            yield f"metadata holds {value}", header(rest=f',"__metadata__":{{"x":{value}}}')
    for dtype in ("F4", "F6_E2M3", "F6_E3M2", "f32", "F32 ", "F128", "BF8", "", "U24"):
        yield f"dtype {dtype!r}", header(f'{{"dtype":"{dtype}","shape":[2,3],"data_offsets":[0,24]}}')
    for shape in ("[2,2]", "[]", "[0]", "[4294967296,4294967296,4]", "[9223372036854775807,2,0]", "[1,1,24]",
                  f"[{','.join(['1'] * 40)}]"):
        yield f"shape {shape[:40]}", header(f'{{"dtype":"F32","shape":{shape},"data_offsets":[0,24]}}')
    for offsets in ("[0]", "[0,24,24]", "[24,0]", "[0,20]", "[4,28]", "[8,24]"):
        yield f"offsets {offsets}", header(f'{{"dtype":"F32","shape":[2,3],"data_offsets":{offsets}}}')
    yield "no dtype", header('{"shape":[2,3],"data_offsets":[0,24]}')
    yield "no shape", header('{"dtype":"F32","data_offsets":[0,24]}')
    yield "no offsets", header('{"dtype":"F32","shape":[2,3]}')
    yield "unknown field", header('{"dtype":"F32","shape":[2,3],"data_offsets":[0,24],"strides":[1,2]}')
    yield "field twice", header('{"dtype":"F32","dtype":"F32","shape":[2,3],"data_offsets":[0,24]}')
    yield "name twice", header(rest=',"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}')
    yield "name twice, spelt otherwise", header(rest=',"\\u0061":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}')
    yield "metadata twice", header(rest=',"__metadata__":{},"__metadata__":{}')
    yield "half a character", header().replace(b'"a"', b'"\\ud800"')
    yield "overlap", header(rest=',"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}')
    yield "overlap at the end", header(rest=',"b":{"dtype":"F32","shape":[1],"data_offsets":[20,24]}')
    yield "hole", header(rest=',"b":{"dtype":"F32","shape":[1],"data_offsets":[28,32]}')
    yield "behind the end", header(rest=',"b":{"dtype":"F32","shape":[1],"data_offsets":[24,28]}')
    for name, raw in {
        "array": b"[]", "string": b'"a"', "number": b"7", "null": b"null", "nothing": b"", "spaces": b"    ",
        "not closed": b'{"a":', "not closed string": b'{"a', "trailing comma": header()[:-1] + b",}",
        "two documents": header() + b"{}", "no comma": header().replace(b',"shape"', b' "shape"'),
        "no colon": header().replace(b'"shape":', b'"shape" '), "single quotes": header().replace(b'"', b"'"),
        "comment": b"/**/" + header(), "leading zero": header().replace(b"24", b"024"),
        "plus": header().replace(b"24", b"+24"), "hexadecimal": header().replace(b"24", b"0x18"),
        "infinity": header().replace(b"24", b"Infinity"), "nan": header().replace(b"24", b"NaN"),
        "raw newline in a name": header().replace(b'"a"', b'"a\n"'), "bad escape": header().replace(b'"a"', b'"\\q"'),
        "key without quotes": b"{a:1}", "number as key": b"{1:1}", "zeros at the end": header() + b"\0\0",
        "byte order mark": b"\xef\xbb\xbf" + header(), "utf-16": header().decode().encode("utf-16"),
        "not utf-8": header().replace(b'"a"', b'"\xff"'), "overlong utf-8": header().replace(b'"a"', b'"\xc0\xaf"'),
        "cut utf-8": header()[:-1] + b"\xe2\x82", "arabic digits": header().decode().replace("24", "٢٤").encode(),
        "deep arrays": b'{"a":' + b"[" * 100_000, "deep objects": b'{"a":' * 100_000,
        "closed deep arrays": b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}", "word": b"{true}",
        "half a word": b'{"a":tru}',
    }.items():
        yield name, raw


# What the safetensors library lets pass, and we do not: it keeps the last of two equal keys, and skips unknown ones.
STRICTER = ("name twice", "name twice, spelt otherwise", "unknown field", "metadata twice", "field twice")


@pytest.mark.parametrize("name, raw", [pytest.param(*pair, id=pair[0]) for pair in wrong_headers()])
def test_a_wrong_header_is_refused_with_the_file_named(path, name, raw):
    put(path, make(raw, SIX.tobytes()))
    with pytest.raises(CheckpointError) as caught:
        llmc.checkpoint.open(path)
    assert str(caught.value).startswith(path)
    if name not in STRICTER:
        with pytest.raises((safetensors.SafetensorError, ValueError, OverflowError)):
            safetensors.numpy.load_file(path)


@pytest.mark.parametrize(
    "data, word",
    [
        (b"", "empty"),
        (b"\0", "too few"),
        (b"\x02\0\0\0\0\0\0", "too few"),
        (struct.pack("<Q", 100_000_001) + b"{}", "claimed"),
        (struct.pack("<Q", 2**64 - 1) + b"{}", "claimed"),
        (struct.pack("<Q", 2**63) + b"{}", "claimed"),
        (struct.pack("<Q", 3) + b"{}", "cut short"),
        (make(GOOD, SIX.tobytes()[:-1]), "cut short"),
        (make(GOOD), "cut short"),
        (make(GOOD, SIX.tobytes() + b"\0"), "left over"),
        (make({}, b"\0"), "left over"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n", "git-LFS pointer"),
        (b"\n <!DOCTYPE html><html>", "HTML page"),
        (b"<html><head>", "HTML page"),
        (b"GGUF\x03\0\0\0", "GGUF"),
        (b"\x1f\x8b\x08" + bytes(20), "gzip"),
        (b"BZh91AY&SY", "bzip2"),
        (b"PK\x03\x04" + bytes(60), "zip archive"),
        (b"\x80\x02}q\x00.", "pickle"),
        (b"\x80\x04\x95" + bytes(20), "pickle"),
        (b'{"error": "not found"}', "JSON"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x93NUMPY\x01\0", "npy"),
        (b"x" * 257 + b"ustar" + bytes(300), "tar archive"),
    ],
)
def test_a_file_of_another_kind_or_cut_short_is_named(path, data, word):
    put(path, data)
    with pytest.raises(CheckpointError, match=word) as caught:
        llmc.checkpoint.open(path)
    assert str(caught.value).startswith(path)


def test_every_truncation_and_every_appended_byte_is_refused(path):
    whole = make(GOOD, SIX.tobytes())
    for end in range(len(whole)):
        put(path, whole[:end])
        with pytest.raises(CheckpointError):
            llmc.checkpoint.open(path)


def test_a_fifo_and_a_folder_do_not_block(tmp_path):
    os.mkfifo(tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="regular file"):
        llmc.checkpoint.open(tmp_path / "x.safetensors")
    with pytest.raises(FileNotFoundError, match=r"none of model\.safetensors, .* the folder holds x\.safetensors"):
        llmc.checkpoint.open(tmp_path)


@pytest.mark.parametrize(
    "raw",
    [
        b"{" + b",".join(b'"%d":{}' % i for i in range(300_000)) + b"}",
        b'{"a":[' + b"[]," * 400_000 + b"[]]}",
        b'{"a":[' + b"0," * 500_000 + b"0]}",
        b'{"a":[' + b"1.5," * 500_000 + b"0]}",
        '{"€":1}'.encode() + b" " * 5_000_000,
        b"{" + b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i for i in range(100_000)) + b"}",
    ],
    ids=["objects", "arrays", "numbers", "floats", "wide text", "empty tensors"],
)
def test_a_header_cannot_cost_more_than_8_mib_and_twice_the_file(path, raw):
    put(path, make(raw))
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError):
            llmc.checkpoint.open(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < (8 << 20) + 2.2 * len(raw) + 1e6


def test_floats_are_rounded_to_nearest_even_and_integers_kept(tmp_path):
    exact = np.array([1.0, 1.00390625, 1.01171875, -2.5, np.inf, -np.inf, 0.0, -0.0, 1e-40], np.float32)
    llmc.checkpoint.write(tmp_path, {"x": exact, "i": np.arange(3), "t": exact[None, :].T}, dtype="bfloat16")
    checkpoint = llmc.checkpoint.open(tmp_path)
    assert checkpoint["x"][:4].tolist() == [1.0, 1.0, 1.015625, -2.5]
    assert checkpoint["x"].tobytes() == exact.astype(ml_dtypes.bfloat16).tobytes() == checkpoint["t"].tobytes()
    assert checkpoint.dtype("i") == np.int64


def test_large_strided_swapped_and_read_only_arrays_are_written_row_major(tmp_path, monkeypatch):
    monkeypatch.setattr(llmc.checkpoint.writing, "CHUNK", 64)
    base = np.random.default_rng(0).normal(size=(7, 30, 11)).astype(np.float32)
    base.flags.writeable = False
    tensors = {
        "row": base, "transposed": base.T, "every other": base[::2, :, ::-1], "swapped": base.astype(">f4"),
        "expanded": np.broadcast_to(base[0, 0], (5, 11)), "thin": base.reshape(1, -1), "scalar": base[0, 0, 0, ...],
        "half": base.astype(np.float16).T,
    }
    llmc.checkpoint.write(tmp_path, tensors)
    with llmc.checkpoint.open(tmp_path) as checkpoint:
        for name, array in tensors.items():
            assert np.array_equal(checkpoint[name], array), name


def test_a_value_that_the_dtype_cannot_hold_is_refused_by_name(tmp_path):
    llmc.checkpoint.write(tmp_path, {"w": SIX})
    with pytest.raises(CheckpointError, match="'w' holds 70000.0, which float16 cannot"):
        llmc.checkpoint.write(tmp_path, {"w": np.full((2, 3), 70000, np.float32)}, dtype="float16")
    assert os.listdir(tmp_path) == ["model.safetensors"]
    assert llmc.checkpoint.open(tmp_path)["w"].tolist() == SIX.tolist()


@pytest.mark.parametrize(
    "tensors, dtype, error",
    [
        ({}, None, CheckpointError),
        ({"__metadata__": SIX}, None, CheckpointError),
        ({"a": np.zeros(2, "c16")}, None, CheckpointError),
        ({"a": np.array(["x"])}, None, CheckpointError),
        ({"a": np.array([None])}, None, CheckpointError),
        ({"\ud800": SIX}, None, CheckpointError),
        ({"a": [1.0]}, None, TypeError),
        ({1: SIX}, None, TypeError),
        ({"a": SIX}, "int8", ConfigError),
        ({"a": SIX}, "fp32", ConfigError),
    ],
)
def test_what_has_no_place_in_the_format_is_refused_before_anything_is_written(tmp_path, tensors, dtype, error):
    with pytest.raises(error):
        llmc.checkpoint.write(tmp_path / "new", tensors, dtype=dtype)
    assert not os.path.exists(tmp_path / "new")


def test_a_checkpoint_can_be_rewritten_in_its_own_place(tmp_path):
    llmc.checkpoint.write(tmp_path, {"a": SIX, "b": SIX * 2})
    with llmc.checkpoint.open(tmp_path) as checkpoint:
        llmc.checkpoint.write(tmp_path, checkpoint, dtype="float16")
        assert checkpoint["b"].dtype == np.float32
    assert llmc.checkpoint.open(tmp_path)["b"].tolist() == (SIX * 2).tolist()


def test_no_metadata_can_be_written(tmp_path):
    llmc.checkpoint.write(tmp_path, {"a": SIX}, metadata={})
    assert llmc.checkpoint.open(tmp_path).metadata == {}
    with open(tmp_path / "model.safetensors", "rb") as file:
        assert "__metadata__" not in json.loads(file.read()[8:].split(b"}}")[0] + b"}}")
