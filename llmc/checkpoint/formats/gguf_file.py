"""The GGUF reader: llama.cpp's names and layouts, told as Hugging Face's for the families that there are."""

import numpy as np

from llmc.checkpoint.formats.dtypes import STORED_FLOATS
from llmc.checkpoint.formats.entry import Entry
from llmc.checkpoint.formats.gguf_header import read_header
from llmc.checkpoint.formats.gguf_numbers import GgufEntry, library
from llmc.errors import quoted
from llmc.families import row_of

FAMILIES = {"llama": "llama", "gpt2": "gpt2"}  # general.architecture: model_type
PAIRED = {"llama": {"q": "head_count", "k": "head_count_kv"}}  # parts whose rows lie in pairs, and what counts heads
_FLOAT32 = 0


def read_gguf(file):
    """The tensors and the metadata of a GGUF file.

    Those of a family that is here have Hugging Face's names and layout: rows of queries and keys in halves, matrices
    of GPT-2 stored inputs first. Others have the file's own.

    Parameters
    ----------
    file : RegularFile

    Returns
    -------
    entries : dict of str to GgufEntry or Entry
    metadata : dict of str to str
        The fields that are one value.

    Raises
    ------
    CheckpointError
        When the file is not what it says.
    ImportError
        Without the library `gguf`.
    """
    header = read_header(file)
    known = names(header)
    entries = {}
    for stored in header.tensors:
        stem, _, leaf = stored.name.rpartition(".")
        name, part = known.get(stem, (stem, None))
        entries[f"{name}.{leaf}" if stem else leaf] = _entry(file, header, stored, part)
    metadata = {key: str(value) for key, value in header.fields.items() if not isinstance(value, (list, np.ndarray))}
    return entries, metadata


def names(header):
    """{llama.cpp's module: (Hugging Face's module, its part)} of a family that is here; else empty."""
    if header.architecture not in FAMILIES:
        return {}
    gguf, layers = library(), header.fields.get(f"{header.architecture}.block_count", 0)
    layers = min(layers, len(header.tensors)) if isinstance(layers, int) else 0
    kind = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}[header.architecture]
    table = gguf.get_tensor_name_map(kind, layers)
    found = {}
    for module, part in modules(FAMILIES[header.architecture], layers):
        if (name := table.get_name(module)) is not None:
            found[name] = module, part
    return found


def modules(model_type, layers):
    """(dotted path, part) of every module that has weights, in a family's own words."""
    words = row_of(model_type).modules
    root = words["root"]
    for part in ("embed", "positions", "final_norm"):
        if part in words:
            yield f"{root}.{words[part]}", part
    yield words["head"], "head"
    for layer in range(layers):
        block = f"{root}.{words['block']}.{layer}"
        for part, name in words.items():
            if part.startswith(("attention_norm", "feed_forward_norm")):
                yield f"{block}.{name}", part
            elif part in ("q", "k", "v", "qkv", "o"):
                yield f"{block}.{words['attention']}.{name}", part
            elif part in ("gate", "up", "down"):
                yield f"{block}.{words['feed_forward']}.{name}", part


def _entry(file, header, stored, part):
    heads = header.fields.get(f"{header.architecture}.attention.{_counted(header, part)}")
    if _counted(header, part) == "head_count_kv" and heads is None:
        heads = header.fields.get(f"{header.architecture}.attention.head_count")
    transposed = len(stored.shape) == 2 and part in ("qkv", "o", "up", "down") and _in_out(header)
    if heads is None and not transposed and stored.kind == _FLOAT32:
        return Entry(STORED_FLOATS["float32"], stored.shape, stored.start)
    group = library().GGML_QUANT_SIZES[stored.kind][0]
    if len(stored.shape) == 1 and group > 1:
        file.fail(f"tensor {quoted(stored.name)} is a vector in groups of {group}, which no model has")
    head = 1
    if heads is not None:
        head = stored.shape[0] // heads if isinstance(heads, int) and heads > 0 else 0
        if not head or stored.shape[0] % heads or head % 2:
            file.fail(f"tensor {quoted(stored.name)} has {stored.shape[0]} rows, which are not {heads} heads of an "
                      "even number each")
    row = stored.shape[-1] if len(stored.shape) > 1 else 1
    shape = stored.shape[::-1] if transposed else stored.shape
    return GgufEntry(stored.kind, shape, stored.start, row, head, transposed)


def _counted(header, part):
    return PAIRED.get(header.architecture, {}).get(part)


def _in_out(header):
    return header.architecture in FAMILIES and row_of(FAMILIES[header.architecture]).in_out
