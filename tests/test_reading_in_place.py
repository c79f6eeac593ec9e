"""Reading a checkpoint into memory that is there: right numbers, no memory besides, no crash when it shrinks."""

import os
import subprocess
import sys
from pathlib import Path

import checkpoint_bytes as make
import ml_dtypes
import numpy as np
import pytest

import llmc.checkpoint
from llmc.checkpoint.formats import entry
from llmc.errors import CheckpointError, ShapeError, UnknownNameError

CONFIG = dict(model_type="llama", vocab_size=8192, hidden_size=768, num_hidden_layers=2, num_attention_heads=12,
              num_key_value_heads=12, intermediate_size=2048, max_position_embeddings=64)
SIX = np.arange(6, dtype=np.float32)
LIMIT = 60  # seconds after which a child hangs

# Opens the folder that it is given and prints by how many bytes its resident memory has grown, at the peak.
OPEN = """
import sys, llmc
def kilobytes(field):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field))
config = llmc.Config.from_pretrained(sys.argv[1])
config.hidden_size, config.vocab_size, config.intermediate_size = 12, 12, 12
llmc.Model(config)
before = kilobytes("VmRSS")
model = llmc.Model.from_pretrained(sys.argv[1])
print((kilobytes("VmHWM") - before) * 1024)
"""


@pytest.fixture(scope="module")
def model():
    return llmc.Model(llmc.Config(**CONFIG))


def peak(folder):
    done = subprocess.run([sys.executable, "-c", OPEN, folder], capture_output=True, text=True, timeout=LIMIT,
                          cwd=Path(__file__).resolve().parent.parent)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def write_torch_file(model, folder):
    """pytorch_model.bin and config.json, made without torch."""
    named = model.state_dict()
    values = {
        name: make.tensor(make.storage(name, array.size), 0, array.shape,
                          [stride // array.itemsize for stride in array.strides])
        for name, array in named.items()
    }  # fmt: skip
    model.config.save_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(
        make.torch_zip(make.mapping(values), {name: array.tobytes() for name, array in named.items()})
    )


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the peak is read from /proc")
@pytest.mark.parametrize("form, most", [("one file", 1.15), ("shards", 1.15), ("torch's", 1.15), ("bfloat16", 2.3)])
def test_opening_takes_no_more_memory_than_the_parameters(model, tmp_path, form, most):
    if form == "torch's":
        write_torch_file(model, tmp_path)
    else:
        model.save_pretrained(tmp_path, dtype="bfloat16" if form == "bfloat16" else "float32",
                              max_shard_size="20MB" if form == "shards" else "5GB")
    size = sum(path.stat().st_size for path in tmp_path.iterdir() if path.suffix in (".safetensors", ".bin"))
    assert size > (50 << 20)
    assert peak(tmp_path) <= most * size


def test_the_numbers_are_those_of_the_array_itself(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {
        np.dtype(dtype).name: (100 * rng.normal(size=(5, 7))).astype(dtype)
        for dtype in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int64, np.bool_)
    } | {"scalar": np.array(7, np.float32), "empty": np.empty((0, 3), np.float32)}
    llmc.checkpoint.write(tmp_path, tensors)
    with llmc.checkpoint.open(tmp_path) as files:
        for name in files:
            for dtype in (files.dtype(name), np.float32, np.float64):
                for out in (np.ones(files.shape(name), dtype), np.ones(files.shape(name)[::-1], dtype).T):
                    files.read_into(name, out)
                    assert np.array_equal(out, files[name].astype(dtype)), (name, dtype)


@pytest.mark.parametrize("block", [4, 16, 24, 1 << 18])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("byte_order", ["little", "big"])
@pytest.mark.parametrize("shape, strides, offset", [
    ((2, 3), (3, 1), 0), ((3, 2), (1, 3), 0), ((2, 2), (3, 1), 1), ((4, 5), (0, 1), 1), ((3, 3), (1, 1), 0),
    ((6,), (0,), 2), ((1, 2, 1, 3), (99, 3, 99, 1), 0), ((), (), 5), ((3, 1, 2), (2, 1, 1), 0), ((3,), (2,), 1),
])  # fmt: skip
def test_every_layout_of_torch_is_read_in_small_blocks(tmp_path, monkeypatch, shape, strides, offset, byte_order, dtype,
                                                       block):
    monkeypatch.setattr(entry, "BLOCK", block)
    raw = SIX.astype(">f4" if byte_order == "big" else "<f4").tobytes()
    value = make.mapping({"w": make.tensor(None, offset, shape, strides)})
    (tmp_path / "a.bin").write_bytes(make.torch_zip(value, {"0": raw}, byteorder=byte_order.encode()))
    expected = np.lib.stride_tricks.as_strided(SIX[offset:], shape, [4 * stride for stride in strides])
    with llmc.checkpoint.open(tmp_path / "a.bin") as files:
        out = np.full(shape, np.nan, dtype)
        files.read_into("w", out)
        assert np.array_equal(out, expected) and np.array_equal(files["w"], expected)


def test_a_file_cut_short_after_it_was_opened_is_an_error_and_no_crash(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(make.safetensors({"w": make.f32([1000], 0, 4000)}, bytes(4000)))
    with llmc.checkpoint.open(path) as files:
        os.truncate(path, 100)
        for dtype in (np.float32, np.float64):
            with pytest.raises(CheckpointError, match="a.safetensors: cut short while it was read.* ends at 100;"):
                files.read_into("w", np.empty(1000, dtype))
        with pytest.raises(CheckpointError, match="cut short while it was read"):
            files["w"]


def test_an_array_is_what_was_read_whatever_becomes_of_the_file(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(make.safetensors({"w": make.f32([2, 3], 0, 24)}, SIX.tobytes()))
    for name, write in (("a.bin", make.torch_zip), ("old.bin", lambda value, raw: make.torch_legacy(
            value, {"0": (6, raw["0"])}))):
        stored = make.storage(legacy=name == "old.bin")
        (tmp_path / name).write_bytes(write(make.mapping({"w": make.tensor(stored, 0, (2, 3), (3, 1))}),
                                            {"0": SIX.tobytes()}))
    for name in ("a.safetensors", "a.bin", "old.bin"):
        with llmc.checkpoint.open(tmp_path / name) as files:
            array = files["w"]
            with open(tmp_path / name, "r+b") as file:
                file.write(bytes(os.path.getsize(tmp_path / name)))
            os.truncate(tmp_path / name, 1)
            assert array.ravel().tolist() == SIX.tolist()


def test_a_legacy_file_of_long_names_is_read_through_its_window(tmp_path, monkeypatch):
    monkeypatch.setattr("llmc.checkpoint.formats.regular_file.WINDOW", 7)
    names = {"v" * 300: make.tensor(make.storage(legacy=True)), "w": make.tensor(make.storage(legacy=True))}
    (tmp_path / "a.bin").write_bytes(make.torch_legacy(make.mapping(names), {"0": (6, SIX.tobytes())}))
    with llmc.checkpoint.open(tmp_path / "a.bin") as files:
        assert list(files) == list(names) and files["w"].ravel().tolist() == SIX.tolist()


def test_what_cannot_be_filled_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(make.safetensors({"w": make.f32([2, 3], 0, 24)}, SIX.tobytes()))
    with llmc.checkpoint.open(path) as files:
        with pytest.raises(ShapeError, match=r"a.safetensors: w has shape \(2, 3\), the array to fill has \(3, 2\)"):
            files.read_into("w", np.empty((3, 2), np.float32))
        with pytest.raises(UnknownNameError, match="'v'"):
            files.read_into("v", np.empty((2, 3), np.float32))
    with pytest.raises(CheckpointError, match="the checkpoint is closed"):
        files.read_into("w", np.empty((2, 3), np.float32))


def test_a_checkpoint_leaves_no_file_open(tmp_path):
    llmc.checkpoint.write(tmp_path, {"a": SIX, "b": SIX}, max_shard_size=24)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with llmc.checkpoint.open(tmp_path) as files:
            files["a"]
        llmc.checkpoint.open(tmp_path)
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="empty"):
        llmc.checkpoint.open(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_every_tensor_says_its_role(model, tmp_path):
    model.save_pretrained(tmp_path)
    with llmc.checkpoint.open(tmp_path) as files:
        assert {files.role(name) for name in files} == {"embedding", "attention", "feed-forward", "norm", "head"}
        assert files.role("model.layers.0.self_attn.q_proj.weight") == "attention"
        with pytest.raises(UnknownNameError, match="nearest"):
            files.role("model.layers.0.self_attn.q_proj")
