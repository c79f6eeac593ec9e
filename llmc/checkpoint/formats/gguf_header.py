"""The header of a GGUF file: its fields and where its tensors lie, every length checked before it is believed."""

import struct
from dataclasses import dataclass
from math import prod

import numpy as np

from llmc.checkpoint.formats.entry import MAX_BYTES
from llmc.checkpoint.formats.regular_file import Window
from llmc.errors import quoted

MAGIC = b"GGUF"
VERSIONS = (2, 3)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_LONGEST_NAME = 1 << 10  # bytes of a key, or of a tensor's name
_LARGEST_ALIGNMENT = 1 << 20
_DIMENSIONS = 4
_PIECE = 1 << 20  # bytes of texts that are read at a time


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor as it lies in the file: numbers of a type of ggml, quantised in groups along the last axis."""

    name: str
    shape: tuple  # outermost first, as an array has it
    kind: int  # ggml's number of the type
    start: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says: {key: number, str, bool, list of str, or array of numbers}, and its tensors."""

    path: str
    fields: dict
    tensors: list

    @property
    def architecture(self):
        """llama.cpp's word for the family."""
        return self.fields["general.architecture"]


class _Cursor:
    """Values read one behind the other."""

    def __init__(self, file):
        self._file, self._bytes, self.at = file, Window(file), 0

    def left(self):
        return self._file.size - self.at

    def take(self, count, what):
        if count > self.left():
            self._file.fail(f"{what} of {count} bytes is claimed at byte {self.at}, {self.left()} are left; the file "
                            "is cut short, or says what is not so")
        data = self._bytes[self.at : self.at + count]
        self.at += count
        return data

    def number(self, code, what):
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code), what))[0]

    def text(self, what, longest=None):
        length = self.number("Q", what)
        if longest is not None and length > longest:
            self._file.fail(f"{what} of {length} bytes is claimed at byte {self.at}, at most {longest} are read")
        data = self.take(length, what)
        self._file.budget.spend(length + 64)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            self._file.fail(f"{what} at byte {self.at - length} is not UTF-8 ({error.reason})")


    def texts(self, count, what):
        """`count` texts. Of a vocabulary there are a hundred thousand: they are cut out of large pieces."""
        found = []
        while len(found) < count:
            piece = self._file.read(self.at, min(_PIECE, self.left()))
            cut = _whole_texts(piece, count - len(found))
            self._file.budget.spend(64 * len(cut) + len(piece))
            if not cut:  # longer than a piece, or cut short
                found.append(self.text(what))
                continue
            try:
                found += [piece[first:last].decode("utf-8") for first, last in cut]
            except UnicodeDecodeError as error:
                self._file.fail(f"{what}: a text behind byte {self.at} is not UTF-8 ({error.reason})")
            self.at += cut[-1][1]
        return found


def _whole_texts(piece, most):
    """(first, last) byte of each of at most `most` texts that lie whole in `piece`, one behind the other."""
    found, at, size = [], 8, len(piece)
    while at <= size and len(found) < most:
        last = at + int.from_bytes(piece[at - 8 : at], "little")
        if last > size:
            break
        found.append((at, last))
        at = last + 8
    return found


def read_header(file):
    """The header of a GGUF file.

    Parameters
    ----------
    file : RegularFile

    Returns
    -------
    Header

    Raises
    ------
    CheckpointError
        Where a count, a length, a type, an offset or a name cannot be; the message has the byte or the key.
    ImportError
        Without the library `gguf`, which knows the sizes of ggml's types.
    """
    cursor = _Cursor(file)
    _check_version(file, cursor)
    tensors, fields = cursor.number("Q", "the count of tensors"), cursor.number("Q", "the count of fields")
    for count, least, what in ((fields, 13, "fields"), (tensors, 24, "tensors")):
        if count > cursor.left() // least:
            file.fail(f"{count} {what} are claimed, {cursor.left()} bytes are left for them")
    found = _fields(file, cursor, fields)
    architecture = found.get("general.architecture")
    if not isinstance(architecture, str):
        file.fail(f"general.architecture is {architecture!r}, which is no word")
    described = [_described(file, cursor) for _ in range(tensors)]
    return Header(file.path, found, _laid_out(file, cursor, described, _alignment(file, found)))


def _check_version(file, cursor):
    if cursor.take(4, "a magic") != MAGIC:
        file.fail("not a GGUF file: it does not begin with GGUF")
    version = cursor.number("I", "a version")
    if version in (each << 24 for each in VERSIONS):
        file.fail("a GGUF file of big-endian numbers; fetch the little-endian one")
    if version not in VERSIONS:
        file.fail(f"GGUF version {version}; {' and '.join(map(str, VERSIONS))} are read: convert the model again")


def _fields(file, cursor, count):
    fields = {}
    for _ in range(count):
        key = cursor.text("a key", _LONGEST_NAME)
        if key in fields:
            file.fail(f"field {quoted(key)} stands there twice")
        file.budget.spend(256)
        fields[key] = _value(file, cursor, cursor.number("I", f"the type of {quoted(key)}"), quoted(key))
    return fields


def _value(file, cursor, kind, key):
    if kind == _STRING:
        return cursor.text(key)
    if kind == _ARRAY:
        return _array(file, cursor, key)
    if kind not in _SCALARS:
        file.fail(f"field {key} has type {kind}, which GGUF has not")
    return cursor.number(_SCALARS[kind], key)


def _array(file, cursor, key):
    kind, count = cursor.number("I", key), cursor.number("Q", key)
    if kind == _STRING:
        if count > cursor.left() // 8:
            file.fail(f"field {key}: {count} texts are claimed, {cursor.left()} bytes are left for them")
        return cursor.texts(count, key)
    if kind not in _SCALARS:
        what = "arrays in an array, which no model needs" if kind == _ARRAY else f"values of type {kind}"
        file.fail(f"field {key} holds {what}")
    dtype = np.dtype(_SCALARS[kind]).newbyteorder("<")
    data = cursor.take(count * dtype.itemsize, f"an array {key}")
    file.budget.spend(2 * len(data))
    return np.frombuffer(data, dtype)


def _alignment(file, fields):
    alignment = fields.get("general.alignment", 32)
    if type(alignment) is not int or not 0 < alignment <= _LARGEST_ALIGNMENT or alignment & (alignment - 1):
        file.fail(f"general.alignment is {alignment!r}; it is a power of two up to {_LARGEST_ALIGNMENT}")
    return alignment


def _described(file, cursor):
    """A tensor's words: name, shape, type, offset behind the header."""
    name = cursor.text("a tensor's name", _LONGEST_NAME)
    dimensions = cursor.number("I", f"the dimensions of {quoted(name)}")
    if not 1 <= dimensions <= _DIMENSIONS:
        file.fail(f"tensor {quoted(name)} has {dimensions} dimensions; 1 to {_DIMENSIONS} are possible")
    shape = tuple(cursor.number("Q", f"the shape of {quoted(name)}") for _ in range(dimensions))[::-1]
    kind, offset = cursor.number("I", f"the type of {quoted(name)}"), cursor.number("Q", f"the place of {quoted(name)}")
    if 0 in shape or prod(shape) > MAX_BYTES:
        file.fail(f"tensor {quoted(name)} has shape {list(shape)}, which no tensor has")
    file.budget.spend(512)
    return name, shape, kind, offset


def _laid_out(file, cursor, described, alignment):
    """The tensors at their places in the file, each whole within it and none over another."""
    data = -(-cursor.at // alignment) * alignment
    tensors, names = [], set()
    for name, shape, kind, offset in described:
        if name in names:
            file.fail(f"tensor {quoted(name)} stands there twice")
        names.add(name)
        group, size = _group(file, name, kind)
        if shape[-1] % group:
            file.fail(f"tensor {quoted(name)}: rows of {shape[-1]} numbers are no whole groups of {group}")
        nbytes = prod(shape) // group * size
        if offset % alignment:
            file.fail(f"tensor {quoted(name)} begins at byte {offset} of the data, which is no multiple of {alignment}")
        if data + offset + nbytes > file.size:
            file.fail(f"tensor {quoted(name)} takes bytes {data + offset} to {data + offset + nbytes}, the file ends "
                      f"at {file.size}; it is cut short: fetch it again")
        tensors.append(Stored(name, shape, kind, data + offset, nbytes))
    in_order = sorted(tensors, key=lambda tensor: (tensor.start, tensor.nbytes))
    for one, two in zip(in_order, in_order[1:]):
        if one.start + one.nbytes > two.start:
            file.fail(f"tensor {quoted(two.name)} lies over {quoted(one.name)}")
    return tensors


def _group(file, name, kind):
    """(numbers, bytes) of a group of a type."""
    from llmc.checkpoint.formats.gguf_numbers import library

    sizes = library().GGML_QUANT_SIZES
    if kind not in sizes:
        file.fail(f"tensor {quoted(name)} is stored in type {kind} of ggml, which the library gguf does not know")
    return sizes[kind]
