"""From the value of a torch pickle to the entries of its tensors."""

from llmc.checkpoint.formats.entry import Entry, check_shape, count
from llmc.checkpoint.formats.pickle_values import Tensor
from llmc.errors import quoted

NESTED = ("state_dict", "model_state_dict", "model", "module")
EXPANSION_FLOOR = 16 << 20
PLAIN = (str, int, float, bool, type(None))


def read_state_dict(file, value, place, swapped):
    """The tensors of a state dict, each checked against the bytes its storage really has.

    Parameters
    ----------
    file : RegularFile
    value : object
        What the pickle machine built: a dict of tensors, or one that holds it under "state_dict" or "model".
    place : callable
        Gets a Storage, returns (first byte, number of bytes) of it in the file.
    swapped : bool
        Whether the numbers have the other byte order.

    Returns
    -------
    entries : dict of str to Entry
    metadata : dict of str to str
        Plain values that stood among the tensors.
    """
    tensors = _find(file, value)
    entries, metadata = {}, {}
    for name, item in tensors.items():
        if not isinstance(name, str):
            file.fail(f"the state dict has a {type(name).__name__} among its names")
        if isinstance(item, Tensor):
            entries[name] = _entry(file, name, item, place, swapped)
        elif isinstance(item, PLAIN):
            metadata[name] = str(item)
        else:
            file.fail(f"{quoted(name)} in the state dict is a {type(item).__name__}, not a tensor")
    return entries, metadata


def _find(file, value):
    if isinstance(value, Tensor):
        file.fail("it holds a single tensor without a name, not a state dict")
    if not isinstance(value, dict):
        file.fail(f"it holds a {type(value).__name__}, not a state dict")
    if not _has_tensors(value):
        for key in NESTED:
            inner = value.get(key)
            if isinstance(inner, dict) and _has_tensors(inner):
                return inner
        keys = ", ".join(quoted(key) for key in list(value)[:8])
        file.fail(f"no tensors in it, nor under {', '.join(map(repr, NESTED))}; it holds: {keys or 'nothing'}")
    return value


def _has_tensors(value):
    return any(isinstance(item, Tensor) for item in value.values())


def _entry(file, name, tensor, place, swapped):
    where = f"{file.path}: tensor {quoted(name)}"
    nbytes = check_shape(tensor.shape, tensor.dtype, where)
    start, available = place(tensor.storage)
    itemsize = tensor.dtype.itemsize
    if 0 in tensor.shape:
        return Entry(tensor.dtype, tensor.shape, start)
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides))
    if (last + 1) * itemsize > available:
        file.fail(
            f"tensor {quoted(name)}: its last element is number {last} of its storage, "
            f"which holds {available // itemsize} ({available} bytes)"
        )
    if nbytes > available and nbytes > max(EXPANSION_FLOOR, file.size):
        file.fail(
            f"tensor {quoted(name)}: shape {list(tensor.shape)} repeats {available} stored bytes into {nbytes}, "
            "more than the whole file; save it contiguous"
        )
    strides = tuple(stride * itemsize for stride in tensor.strides)
    return Entry(
        tensor.dtype,
        tensor.shape,
        start + tensor.offset * itemsize,
        None if _row_major(tensor.shape, tensor.strides) else _bounded(tensor.shape, strides),
        swapped and itemsize > 1,
    )


def _row_major(shape, strides):
    return all(
        size == 1 or stride == count(shape[axis + 1 :]) for axis, (size, stride) in enumerate(zip(shape, strides))
    )


def _bounded(shape, strides):
    """The strides, with those of axes of size 1 (which mean nothing and may be huge) set to 0."""
    return tuple(0 if size == 1 else stride for size, stride in zip(shape, strides))
