"""The writer of torch's files: torch opens what is written without torch, and so do we."""

import os

import ml_dtypes
import numpy as np
import pytest
from conftest import require_peers

from llmc import checkpoint
from llmc.checkpoint.formats.dtypes import TORCH_STORAGE
from llmc.errors import CheckpointError

ARRAYS = {
    "matrix": np.arange(12, dtype=np.float32).reshape(3, 4), "strided": np.arange(24.0).reshape(4, 6)[::2, 1:4],
    "scalar": np.array(3.5, np.float16), "empty": np.zeros((0, 3), np.float32), "größe": np.ones(3, bool),
    **{f"as {dtype}": np.array([[1, 2, 3]]).astype(dtype) for dtype in TORCH_STORAGE.values()},
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "adapter_model.bin"


def test_what_is_written_is_read_bit_for_bit(path):
    checkpoint.write_torch(path, ARRAYS)
    with checkpoint.open(path) as stored:
        assert list(stored) == list(ARRAYS)
        for name, array in ARRAYS.items():
            assert stored[name].dtype == array.dtype and stored[name].shape == array.shape, name
            assert stored[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("mapped", [False, True])
def test_torch_opens_it_without_trusting_it(path, mapped):
    torch = require_peers().torch
    checkpoint.write_torch(path, ARRAYS)
    found = torch.load(path, weights_only=True, mmap=mapped)
    assert type(found) is dict and list(found) == list(ARRAYS)
    for name, tensor in found.items():
        array = ARRAYS[name]
        assert str(tensor.dtype).removeprefix("torch.") == array.dtype.name and tuple(tensor.shape) == array.shape
        assert tensor.is_contiguous() and not tensor.requires_grad
        assert tensor.data_ptr() % 64 == 0 or not tensor.numel() or not mapped
        values = array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array
        assert (tensor.to(torch.float32) if array.dtype == ml_dtypes.bfloat16 else tensor).numpy().tolist() \
            == values.tolist(), name


def test_the_same_tensors_give_the_same_file(path, tmp_path):
    checkpoint.write_torch(path, ARRAYS)
    (tmp_path / "other").mkdir()
    checkpoint.write_torch(tmp_path / "other" / path.name, ARRAYS)
    assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes()


def test_a_dtype_that_torch_lacks_is_refused_and_what_was_there_stays(path, tmp_path):
    checkpoint.write_torch(path, ARRAYS)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match="'b' is complex256, for which torch has no storage"):
        checkpoint.write_torch(path, {"a": np.ones(2), "b": np.ones(2, np.clongdouble)})
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


def test_a_full_disk_leaves_what_was_there(path, tmp_path, monkeypatch):
    checkpoint.write_torch(path, {"a": np.ones(2)})
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.write_torch(path, ARRAYS)
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]
