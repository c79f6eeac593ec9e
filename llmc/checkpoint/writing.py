"""The writer: safetensors, one file or shards, exactly as Hugging Face lays them out.

The library of that name is not used: it wants every tensor in memory in the dtype that is written, and knows neither
shards nor folders. Here tensors are converted block by block, and what was there is replaced at one instant.
"""

import json
import math
import os
import re
import secrets

import numpy as np

from llmc.calls import public
from llmc.system.atomic import require_space, sweep, sync, temporary_directory, write_json
from llmc.checkpoint.formats.dtypes import FLOATING, SAFETENSORS, SAFETENSORS_NAME, STORED_FLOATS
from llmc.checkpoint.reading import MAX_INDEX
from llmc.errors import CheckpointError, ConfigError
from llmc.system.small_file import read_small

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
CHUNK = 16 << 20
SPACE_FOR_FOLDERS = 1 << 16
_SHARD = re.compile(r"model(-[0-9a-f]{8})?-\d{5}-of-\d{5}\.safetensors")
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_RANK = {dtype: rank for rank, dtype in enumerate(SAFETENSORS.values())}


@public
def write(folder, tensors, dtype=None, max_shard_size="5GB", metadata=None):
    """Write tensors as `model.safetensors`, or as shards and an index where they are larger than `max_shard_size`.

    Tensor after tensor is written beside, flushed to the disk, and put in place when all are whole: the folder opens
    as it was or as it will be, at every instant. Weights of an earlier save are removed last.

    Parameters
    ----------
    folder : str or PathLike
        Made if it is not there.
    tensors : mapping of str to numpy.ndarray
        In the order in which they fill shards; a `Checkpoint` will do.
    dtype : str, optional
        "float32", "float16", "bfloat16" or "float64": what floating-point tensors are stored as, rounded to nearest
        even; None keeps each as it is.
    max_shard_size : int or str
        Bytes, or a number with KB, MB, GB or TB (powers of 1000).
    metadata : dict of str to str, optional
        What the files say about themselves; `{"format": "pt"}` if None.

    Raises
    ------
    ConfigError
        If `dtype` or `max_shard_size` is none.
    CheckpointError
        If a tensor has no place in the format, or a value that `dtype` cannot hold.
    OSError
        If the place cannot be written or the disk is too small; what was there is then as it was.
    """
    folder = os.fspath(folder)
    limit = parse_size(max_shard_size)
    target = _stored_dtype(dtype)
    plans = {name: _Plan(name, tensors[name], target) for name in tensors}
    if not plans:
        raise CheckpointError(f"{folder}: no tensors to write")
    metadata = {"format": "pt"} if metadata is None else dict(metadata)
    shards = split(plans, limit)
    headers = {file: _header(shard, metadata) for file, shard in shards.items()}
    need = sum(len(header) for header in headers.values()) + sum(plan.nbytes for plan in plans.values())
    if os.path.isdir(folder):
        sweep(folder)
    require_space(folder, need + SPACE_FOR_FOLDERS)
    os.makedirs(folder, exist_ok=True)
    with temporary_directory(folder, SINGLE) as temporary:
        for file, shard in shards.items():
            _write_file(os.path.join(temporary, file), headers[file], shard, tensors, target)
        if len(shards) == 1:
            os.replace(os.path.join(temporary, SINGLE), os.path.join(folder, SINGLE))
            names = {SINGLE}
        else:
            names = _publish_shards(folder, temporary, shards, plans)
    sync(folder)
    _remove(folder, INDEX if len(shards) == 1 else SINGLE)
    for name in os.listdir(folder):
        if name not in names and _SHARD.fullmatch(name):
            _remove(folder, name)
    sync(folder)


def parse_size(size):
    """Bytes of `size`, an int or a string like "5GB" (powers of 1000)."""
    if isinstance(size, str):
        match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([KMGT]B)\s*", size, re.IGNORECASE)
        if not match:
            raise ConfigError(f"max_shard_size {size!r} is no size; write a number and KB, MB, GB or TB, as in '5GB'")
        size = int(float(match[1]) * _UNITS[match[2].upper()])
    elif isinstance(size, bool) or not isinstance(size, (int, np.integer)):
        raise TypeError(f"max_shard_size is a {type(size).__name__}; write bytes, or a string like '5GB'")
    if size < 1:
        raise ConfigError(f"max_shard_size is {size} bytes; at least 1 is needed")
    return int(size)


def split(plans, limit):
    """{file name: {tensor name: plan}}: greedy, in order; a tensor above the limit stands alone."""
    shards, shard, filled = [], {}, 0
    for name, plan in plans.items():
        if plan.nbytes > limit:
            shards.append({name: plan})
            continue
        if filled + plan.nbytes > limit:
            shards.append(shard)
            shard, filled = {}, 0
        shard[name] = plan
        filled += plan.nbytes
    if shard:
        shards.append(shard)
    if len(shards) == 1:
        return {SINGLE: shards[0]}
    return {f"model-{i:05d}-of-{len(shards):05d}.safetensors": shard for i, shard in enumerate(shards, 1)}


class _Plan:
    """What one tensor will be in the file."""

    def __init__(self, name, array, target):
        if not isinstance(name, str):
            raise TypeError(f"a tensor is named by a {type(name).__name__}, not a string")
        if name == "__metadata__":
            raise CheckpointError("a tensor cannot be named '__metadata__'; safetensors keeps that word for itself")
        try:
            name.encode("utf-8")
        except UnicodeEncodeError:
            raise CheckpointError(f"tensor name {name!r} holds half a character (a lone surrogate)") from None
        if not isinstance(array, np.ndarray):
            raise TypeError(f"tensor {name!r} is a {type(array).__name__}, not a numpy.ndarray")
        native = array.dtype.newbyteorder("=")
        self.dtype = target if target is not None and native in FLOATING else native
        if self.dtype not in SAFETENSORS_NAME:
            raise CheckpointError(f"tensor {name!r}: safetensors has no dtype for {self.dtype.name}")
        self.shape = array.shape
        self.size = math.prod(array.shape)
        self.nbytes = self.size * self.dtype.itemsize


def _stored_dtype(dtype):
    if dtype is None:
        return None
    name = dtype if isinstance(dtype, str) else np.dtype(dtype).name
    if name not in STORED_FLOATS:
        raise ConfigError(f"dtype {name!r} is none that weights are stored in; known: {', '.join(STORED_FLOATS)}")
    return STORED_FLOATS[name]


def _file_order(shard):
    """The names as safetensors sorts them: widest alignment first, then by name."""
    return sorted(shard, key=lambda name: (-_RANK[shard[name].dtype], name))


def _header(shard, metadata):
    header = {"__metadata__": metadata} if metadata else {}
    at = 0
    for name in _file_order(shard):
        plan = shard[name]
        header[name] = {
            "dtype": SAFETENSORS_NAME[plan.dtype],
            "shape": list(plan.shape),
            "data_offsets": [at, at + plan.nbytes],
        }
        at += plan.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_file(path, header, shard, tensors, target):
    with open(path, "wb") as file:
        file.write(header)
        for name in _file_order(shard):
            for block in _blocks(tensors[name]):
                file.write(_bytes(name, block, shard[name].dtype))
        file.flush()
        os.fsync(file.fileno())


def _blocks(array):
    """`array` in row-major pieces of about CHUNK bytes."""
    if array.nbytes <= CHUNK or array.ndim == 0:
        yield array
        return
    rows = CHUNK * len(array) // array.nbytes
    if rows == 0:
        for row in array:
            yield from _blocks(row)
    else:
        for start in range(0, len(array), rows):
            yield array[start : start + rows]


def _bytes(name, block, dtype):
    with np.errstate(over="ignore", invalid="ignore"):
        stored = np.ascontiguousarray(block, dtype)
    if stored.dtype.itemsize < block.dtype.itemsize:
        overflown = np.isinf(stored) & np.isfinite(block).reshape(stored.shape)
        if overflown.any():
            value = block.reshape(stored.shape)[overflown][0]
            raise CheckpointError(f"tensor {name!r} holds {value}, which {dtype.name} cannot; save it as float32")
    return stored.reshape(-1).view(np.uint8).data


def _publish_shards(folder, temporary, shards, plans):
    """Put the shards in place; the index, replaced at one instant, is what decides which set is the checkpoint.

    Returns the names under which the shards stand.
    """
    index = os.path.join(folder, INDEX)
    live = os.path.exists(index) and not os.path.exists(os.path.join(folder, SINGLE))
    placed = []
    try:
        if live and any(os.path.exists(os.path.join(folder, file)) for file in shards):
            # The old set uses the names of the new one: an index points to the new files under names of their own
            # while the old files are replaced.
            token = secrets.token_hex(4)
            alias = {file: file.replace("model-", f"model-{token}-", 1) for file in shards}
            placed.extend(alias.values())
            linked = _link(folder, temporary, alias)
            sync(folder)
            write_json(index, _index(shards, plans, alias), sort_keys=True)
            if not linked:
                return set(alias.values())
        for file in shards:
            placed.append(file)
            os.replace(os.path.join(temporary, file), os.path.join(folder, file))
        sync(folder)
        write_json(index, _index(shards, plans, {}), sort_keys=True)
    except BaseException:
        for file in set(placed) - _named(index):
            _remove(folder, file)
        raise
    return set(shards)


def _named(index):
    """The files that the index points to; none if there is no index, or none worth the name."""
    try:
        return set(json.loads(read_small(index, MAX_INDEX, "an index"))["weight_map"].values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return set()


def _link(folder, temporary, alias):
    """Give each new file its second name; where the file system has no links, its only one, and return False."""
    try:
        for file, new in alias.items():
            os.link(os.path.join(temporary, file), os.path.join(folder, new))
    except OSError:
        for file, new in alias.items():
            os.replace(os.path.join(temporary, file), os.path.join(folder, new))
        return False
    return True


def _index(shards, plans, alias):
    return {
        "metadata": {
            "total_parameters": sum(plan.size for plan in plans.values()),
            "total_size": sum(plan.nbytes for plan in plans.values()),
        },
        "weight_map": {name: alias.get(file, file) for file, shard in shards.items() for name in shard},
    }


def _remove(folder, name):
    try:
        os.remove(os.path.join(folder, name))
    except FileNotFoundError:
        pass
