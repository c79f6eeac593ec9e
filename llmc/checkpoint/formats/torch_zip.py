"""The reader of torch's zip files (1.6 and later): stored entries, read where they lie."""

import struct
import sys

from llmc.checkpoint.formats.dtypes import TORCH_STORAGE
from llmc.checkpoint.formats.pickle_machine import PickleMachine
from llmc.checkpoint.formats.pickle_values import Global, Storage
from llmc.checkpoint.formats.state_dict import read_state_dict
from llmc.errors import quoted

_END = struct.Struct("<4s4H2IH")
_LOCATOR = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_STORED = 0
_ENCRYPTED = 1
_SIZES_FOLLOW = 8  # the local header's sizes may be zero


def read_torch_zip(file):
    """The tensors of a file that `torch.save` wrote in its zip format; see `read_state_dict`."""
    entries = _directory(file)
    top = _top(file, entries)
    swapped = _byte_order(file, entries, top) != sys.byteorder
    start, length = entries[f"{top}data.pkl"]
    machine = PickleMachine(file, file.read(start, length), _persistent_load, "data.pkl")
    value = machine.run()

    def place(storage):
        at, size = entries.get(f"{top}data/{storage.key}", (None, 0))
        if at is None:
            file.fail(f"storage {quoted(storage.key)} is named by data.pkl, but is not in the archive under {top}data/")
        wanted = storage.numel * (storage.dtype.itemsize if storage.dtype is not None else 1)
        if wanted != size:
            file.fail(f"storage {quoted(storage.key)}: data.pkl says {wanted} bytes, the archive holds {size}")
        return at, size

    return read_state_dict(file, value, place, swapped)


def _persistent_load(machine, pid):
    if len(pid) != 5 or pid[0] != "storage":
        machine.fail("a persistent id is not ('storage', type, key, location, numel)")
    return storage(machine, *pid[1:])


def storage(machine, kind, key, location, numel):
    """The Storage that a persistent id names."""
    name = kind.name if isinstance(kind, Global) else type(kind).__name__
    if not isinstance(kind, Global) or not name.endswith("Storage"):
        machine.fail(f"a storage's type is {name}, which is none")
    if not isinstance(key, str) or type(numel) is not int or not 0 <= numel < 2**63:
        machine.fail("a storage has no usable key or number of elements")
    return Storage(key, TORCH_STORAGE.get(name.removesuffix("Storage")), numel)


def _top(file, entries):
    """The one folder, with its slash, under which everything stands."""
    tops = [name[: -len("data.pkl")] for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(tops) != 1:
        file.fail(f"a zip archive with {len(tops)} data.pkl in it; torch.save writes one")
    top = tops[0]
    if f"{top}constants.pkl" in entries:
        file.fail("a TorchScript archive (it has constants.pkl): a program, no state dict; save model.state_dict()")
    return top


def _byte_order(file, entries, top):
    start, length = entries.get(f"{top}byteorder", (0, 0))
    if length > 16:
        file.fail(f"byteorder is {length} bytes long")
    order = file.read(start, length) if length else b"little"
    if order not in (b"little", b"big"):
        file.fail(f"byteorder is {order!r}, neither little nor big")
    return order.decode()


def _directory(file):
    """{entry name: (first byte of its data, bytes)} of the archive, every number checked against the file."""
    start, end, total = _find_directory(file)
    entries, spans, at = {}, [], start
    for _ in range(total):
        name, offset, data, size, at = _entry(file, at, start, end)
        if name in entries:
            file.fail(f"the archive holds {quoted(name)} twice")
        entries[name] = data, size
        spans.append((offset, data + size, name))
    if at != end:
        file.fail(f"the zip directory ends at byte {at}, {end} was announced")
    spans.sort()
    for (_, before, first), (begin, _, second) in zip(spans, spans[1:]):
        if begin < before:
            file.fail(f"{quoted(first)} and {quoted(second)} in the archive overlap")
    return entries


def _entry(file, at, start, end):
    """(name, first byte of its local header, first byte of its data, bytes, where the next begins) of the entry at `at`
    of the directory, which lies in [start, end)."""
    head = _unpack(file, _CENTRAL, at, b"PK\x01\x02", "a directory entry", end)
    flags, method, packed, size, name_length, extra_length, comment_length, offset = (
        head[3], head[4], head[8], head[9], head[10], head[11], head[12], head[16],
    )  # fmt: skip
    at += _CENTRAL.size
    tail = at + name_length + extra_length + comment_length
    if tail > end:
        file.fail(f"the zip directory is cut short at byte {at}")
    try:
        name = file.read(at, name_length).decode("utf-8")
    except UnicodeDecodeError:
        file.fail(f"the name of the archive's entry at byte {at} is not UTF-8")
    size, packed, offset = _wide(file, name, at + name_length, extra_length, size, packed, offset)
    file.budget.spend(300 + name_length)
    if method != _STORED or packed != size:
        file.fail(f"{quoted(name)} in the archive is compressed; torch stores tensors as they are")
    if flags & _ENCRYPTED:
        file.fail(f"{quoted(name)} in the archive is encrypted")
    return name, offset, _data_start(file, name, offset, size, flags, name_length, start), size, tail


def _unpack(file, layout, at, signature, what, end):
    if at < 0 or at + layout.size > end:
        file.fail(f"{what} of the zip archive at byte {at} lies outside; the file is damaged or cut short")
    values = layout.unpack(file.read(at, layout.size))
    if values[0] != signature:
        file.fail(f"{what} of the zip archive was expected at byte {at} and is not there; the file is damaged")
    return values


def _find_directory(file):
    """(first byte, end, number of entries) of the central directory."""
    tail_start = max(0, file.size - _END.size - 0xFFFF)
    tail = file.read(tail_start, file.size - tail_start)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0:
        file.fail("a zip archive without its directory: the file is cut short; fetch it again")
    at += tail_start
    _, disk, first_disk, here, total, size, start, comment = _unpack(
        file, _END, at, b"PK\x05\x06", "the end", file.size
    )
    if at + _END.size + comment != file.size:
        file.fail(f"the zip archive ends at byte {at + _END.size + comment}, the file at {file.size}")
    end = at
    locator = at - _LOCATOR.size
    if locator >= 0 and file.read(locator, 4) == b"PK\x06\x07":
        _, disk, where, _ = _unpack(file, _LOCATOR, locator, b"PK\x06\x07", "the zip64 locator", file.size)
        _, record, _, _, disk, first_disk, here, total, size, start = _unpack(
            file, _END64, where, b"PK\x06\x06", "the zip64 end", locator
        )
        if record + 12 != locator - where:
            file.fail(f"the zip64 end of the archive claims {record + 12} bytes, {locator - where} are there")
        end = where
    if disk or first_disk or here != total:
        file.fail("the zip archive is split over several files")
    if start + size != end:
        file.fail(f"the zip directory of {size} bytes at {start} does not end at byte {end}")
    if total * _CENTRAL.size > size:
        file.fail(f"the zip directory claims {total} entries in {size} bytes")
    return start, end, total


def _wide(file, name, at, length, size, packed, offset):
    """The three numbers, with those that say 0xFFFFFFFF taken from the zip64 field."""
    narrow = 0xFFFFFFFF
    if narrow not in (size, packed, offset):
        return size, packed, offset
    end = at + length
    while at + 4 <= end:
        kind, count = struct.unpack("<2H", file.read(at, 4))
        at += 4
        if at + count > end:
            break
        if kind == 1:
            wide = iter(struct.unpack(f"<{count // 8}Q", file.read(at, count // 8 * 8)))
            numbers = [next(wide, None) if number == narrow else number for number in (size, packed, offset)]
            if None not in numbers:
                return numbers
        at += count
    file.fail(f"{quoted(name)} in the archive lacks the zip64 numbers it refers to")


def _data_start(file, name, offset, size, flags, name_length, directory):
    """The first byte of an entry's data, which only its local header knows (torch pads there)."""
    head = _unpack(file, _LOCAL, offset, b"PK\x03\x04", f"the header of {quoted(name)}", directory)
    method, packed, unpacked, local_name, extra = head[3], head[7], head[8], head[9], head[10]
    data = offset + _LOCAL.size + local_name + extra
    if method != _STORED or local_name != name_length or file.read(offset + _LOCAL.size, local_name) != name.encode():
        file.fail(f"{quoted(name)}: the archive's directory and its header at byte {offset} disagree")
    if not flags & _SIZES_FOLLOW and not {packed, unpacked} <= {size, 0xFFFFFFFF}:
        file.fail(f"{quoted(name)}: the archive's directory says {size} bytes, its header at byte {offset} {unpacked}")
    if data + size > directory:
        file.fail(f"{quoted(name)} would end at byte {data + size} of the archive, behind its data at {directory}")
    return data
