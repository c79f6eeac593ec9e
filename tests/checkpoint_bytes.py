"""Checkpoint files made by hand, byte by byte, so that they can be made wrong."""

import io
import json
import struct
import zipfile

MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


def safetensors(header, data=b"", length=None):
    """A safetensors file; `header` is a dict, or the text itself."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def f32(shape, begin, end):
    """The header's words for a float32 tensor."""
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


# Pickle, protocol 2. Every function returns the bytes that leave one value on the stack.


def word(module, name):
    return f"c{module}\n{name}\n".encode()


def text(value):
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value):
    if isinstance(value, bytes):
        return value
    if 0 <= value < 256:
        return b"K" + bytes([value])
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def group(*values):
    return b"(" + b"".join(values) + b"t"


def call(function, *values):
    return function + group(*values) + b"R"


def mapping(items):
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def pickled(value, protocol=2):
    return b"\x80" + bytes([protocol]) + value + b"."


ORDERED_DICT = word("collections", "OrderedDict") + b")R"
FALSE = b"\x89"


def storage(key="0", numel=6, kind="FloatStorage", location="cpu", view=None, legacy=False):
    """A persistent id; `view` and `legacy` as in the format of before 1.6."""
    parts = [text("storage"), word("torch", kind), text(key), text(location), number(numel)]
    if legacy:
        parts.append(view or b"N")
    return group(*parts) + b"Q"


def tensor(of=None, offset=0, shape=(2, 3), stride=(3, 1), function="_rebuild_tensor_v2"):
    """A tensor; every argument may be bytes instead, to say something else."""

    def numbers(values):
        return values if isinstance(values, bytes) else group(*map(number, values))

    return call(
        word("torch._utils", function),
        storage() if of is None else of, number(offset), numbers(shape), numbers(stride), FALSE, ORDERED_DICT,
    )


def torch_zip(value, storages, top="archive", byteorder=b"little", extra=(), compression=zipfile.ZIP_STORED):
    """A torch zip file around the pickled `value`; `storages` maps keys to bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        archive.writestr(f"{top}/data.pkl", pickled(value))
        if byteorder is not None:
            archive.writestr(f"{top}/byteorder", byteorder)
        for key, raw in storages.items():
            archive.writestr(f"{top}/data/{key}", raw)
        archive.writestr(f"{top}/version", b"3\n")
        for name, raw in extra:
            archive.writestr(name, raw)
    return out.getvalue()


def torch_legacy(value, storages, little_endian=True, protocol=1001):
    """A file in torch's format of before 1.6; `storages` maps keys to (numel, bytes)."""
    flag = b"\x88" if little_endian else b"\x89"
    order = "<q" if little_endian else ">q"
    parts = [
        MAGIC,
        pickled(number(protocol)),
        pickled(mapping({"protocol_version": number(protocol), "little_endian": flag})),
        pickled(value),
        pickled(b"](" + b"".join(text(key) for key in storages) + b"e"),
    ]
    for numel, raw in storages.values():
        parts += [struct.pack(order, numel), raw]
    return b"".join(parts)
