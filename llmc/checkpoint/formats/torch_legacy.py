"""The reader of torch's format of before 1.6: pickles one after another, then the numbers."""

import sys

from llmc.checkpoint.formats.pickle_machine import PickleMachine
from llmc.checkpoint.formats.pickle_values import Storage
from llmc.checkpoint.formats.regular_file import Window
from llmc.checkpoint.formats.state_dict import read_state_dict
from llmc.checkpoint.formats.torch_zip import storage
from llmc.errors import quoted

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001


def read_torch_legacy(file):
    """The tensors of a file that torch wrote before 1.6 (or with the new format switched off)."""
    roots = {}
    machine = PickleMachine(file, Window(file), lambda machine, pid: _persistent_load(machine, pid, roots))
    if machine.run() != _MAGIC:
        file.fail("the magic number of torch's old format is wrong")
    protocol = machine.run(machine.at)
    if type(protocol) is not int or protocol != _PROTOCOL:
        file.fail(f"torch's old format has protocol {_PROTOCOL}; another is claimed")
    system = machine.run(machine.at)
    little = system.get("little_endian") if isinstance(system, dict) else None
    if type(little) is not bool:
        file.fail("torch's old format does not say its byte order")
    value = machine.run(machine.at)
    keys = machine.run(machine.at)
    places = _places(file, keys, roots, machine.at, "little" if little else "big")

    def place(part):
        start, available = places[part.key]
        itemsize = roots[part.key]
        if (part.first + part.numel) * itemsize > available:
            file.fail(
                f"storage {quoted(part.key)}: elements {part.first} to {part.first + part.numel} are used, "
                f"{available // itemsize} are there"
            )
        return start + part.first * itemsize, part.numel * itemsize

    return read_state_dict(file, value, place, swapped=little != (sys.byteorder == "little"))


def _persistent_load(machine, pid, roots):
    if len(pid) != 6 or pid[0] != "storage":
        machine.fail("a persistent id is not ('storage', type, key, location, numel, view)")
    root = storage(machine, *pid[1:5])
    itemsize = root.dtype.itemsize if root.dtype is not None else 1
    if roots.setdefault(root.key, itemsize) != itemsize:
        machine.fail(f"storage {quoted(root.key)} is used with two element sizes")
    view = pid[5]
    if view is None:
        return root
    if not isinstance(view, tuple) or len(view) != 3:
        machine.fail("a storage view is not (key, offset, size)")
    _, first, numel = view
    if type(first) is not int or type(numel) is not int or not 0 <= first <= first + numel <= root.numel:
        machine.fail(f"a view lies outside its storage {quoted(root.key)} of {root.numel} elements")
    return Storage(root.key, root.dtype, numel, first)


def _places(file, keys, roots, at, byte_order):
    """{storage key: (first byte, bytes)}: behind the pickles, each storage as its length and its numbers."""
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        file.fail("the list of storages is no list of names")
    places = {}
    for key in keys:
        if key not in roots or key in places:
            why = "twice" if key in places else "for no tensor"
            file.fail(f"storage {quoted(key)} stands in the list of storages {why}")
        numel = int.from_bytes(file.read(at, 8), byte_order)
        nbytes = numel * roots[key]
        if at + 8 + nbytes > file.size:
            file.fail(f"storage {quoted(key)} has {nbytes} bytes from byte {at + 8} on, the file ends at {file.size}")
        places[key] = at + 8, nbytes
        at += 8 + nbytes
    missing = [key for key in roots if key not in places]
    if missing:
        file.fail(f"storage {quoted(missing[0])} is used by a tensor but not in the list of storages")
    if at != file.size:
        file.fail(f"the storages end at byte {at}, the file at {file.size}")
    return places
