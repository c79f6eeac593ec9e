"""Writing a model with its tokenizer as one GGUF file, which llama.cpp and transformers open."""

import os

import numpy as np

from llmc.checkpoint.formats.gguf_file import PAIRED, names
from llmc.checkpoint.formats.gguf_header import Header
from llmc.checkpoint.formats.gguf_numbers import library
from llmc.config.gguf_fields import DIVISORS, IDS, written_fields
from llmc.errors import ConfigError
from llmc.system.atomic import require_space, sync, temporary_directory
from llmc.tokenizer.gguf_vocabulary import written_vocabulary

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "q8_0": "Q8_0"}
_GROUP = 32  # numbers that share a scale in q8_0


def save_gguf(path, config, tensors, shapes, tokenizer, dtype):
    """Write a GGUF file, which appears whole or not at all.

    Parameters
    ----------
    path : str
    config : Config
    tensors : mapping of str to array
        By Hugging Face's names; read one after the other.
    shapes : dict of str to tuple
    tokenizer : Tokenizer
    dtype : "float32", "float16", "bfloat16" or "q8_0"
        Of matrices; vectors are float32, and in q8_0 matrices too whose rows are no multiple of 32.

    Raises
    ------
    ConfigError
        When a GGUF file has no word for the family, its positions or the tokenizer.
    OSError
        When the place cannot be written to, or is full; what was there stays.
    """
    gguf = library()
    if dtype not in DTYPES:
        raise ConfigError(f"dtype={dtype!r}: a GGUF file is written in {', '.join(DTYPES)}")
    architecture, fields, divisors = written_fields(config)
    fields |= {"general.name": config.model_type, "general.file_type": int(gguf.LlamaFileType[_FILE_TYPES[dtype]])}
    fields |= {f"tokenizer.ggml.{key}": number for field, key in IDS.items()
               if (number := getattr(config, field)) is not None and isinstance(number, int)}  # fmt: skip
    fields |= written_vocabulary(tokenizer, config.vocab_size)
    if dtype == "q8_0":
        fields["general.quantization_version"] = gguf.GGML_QUANT_VERSION
    plans = _plans(gguf, architecture, config, shapes, dtype)
    parent, name = os.path.dirname(os.path.abspath(path)), os.path.basename(path)
    require_space(parent, sum(plan[-1] for plan in plans))
    with temporary_directory(parent, name) as folder:
        written = os.path.join(folder, name)
        _write(gguf, written, architecture, fields, plans, tensors, divisors)
        sync(written)
        os.replace(written, path)
    sync(parent)


def tokenizer_beside(path):
    """The tokenizer of the folder or file that a model lies in.

    Raises
    ------
    ConfigError
        When it lies in none, or none is there.
    """
    from llmc.tokenizer import Tokenizer

    if path is None:
        raise ConfigError("save_gguf: this model lies in no folder whose tokenizer could be taken; give tokenizer=")
    try:
        return Tokenizer.from_pretrained(path)
    except FileNotFoundError as error:
        raise ConfigError(f"save_gguf: no tokenizer where the model lies ({error}); give tokenizer=") from None


_FILE_TYPES = {"float32": "ALL_F32", "float16": "MOSTLY_F16", "bfloat16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}


def _plans(gguf, architecture, config, shapes, dtype):
    """(name in the file, ours, shape in the file, type, rows of a head or 0, transposed, bytes) of every tensor."""
    header = Header("", {"general.architecture": architecture, f"{architecture}.block_count": config.num_hidden_layers},
                    [None] * len(shapes))  # fmt: skip
    ours = {module: (theirs, part) for theirs, (module, part) in names(header).items()}
    plans = []
    for name, shape in shapes.items():
        module, _, leaf = name.rpartition(".")
        theirs, part = ours[module]
        transposed = config._family.in_out and len(shape) == 2 and part in ("qkv", "o", "up", "down")
        shape = shape[::-1] if transposed else shape
        wanted = DTYPES[dtype] if len(shape) > 1 and (dtype != "q8_0" or shape[-1] % _GROUP == 0) else "F32"
        kind = gguf.GGMLQuantizationType[wanted]
        group, size = gguf.GGML_QUANT_SIZES[kind]
        head = config.head_dim if part in PAIRED.get(architecture, {}) else 0
        plans.append((f"{theirs}.{leaf}", name, shape, kind, head, transposed, int(np.prod(shape)) // group * size))
    return plans


def _write(gguf, path, architecture, fields, plans, tensors, divisors):
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in fields.items():
        _add(writer, key, value)
    f32 = gguf.GGMLQuantizationType.F32
    if divisors is not None:
        writer.add_tensor_info(DIVISORS, divisors.shape, divisors.dtype, divisors.nbytes, f32)
    for theirs, _, shape, kind, *_, nbytes in plans:
        bytes_shape = gguf.quant_shape_to_byte_shape(shape, kind) if kind != f32 else shape
        writer.add_tensor_info(theirs, bytes_shape, np.dtype(np.float32 if kind == f32 else np.uint8), nbytes,
                               kind if kind != f32 else None)  # fmt: skip
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if divisors is not None:
            writer.write_tensor_data(divisors)
        for _, name, shape, kind, head, transposed, _ in plans:
            writer.write_tensor_data(_as_stored(gguf, np.asarray(tensors[name], np.float32), kind, head, transposed))
    finally:
        writer.close()


def _as_stored(gguf, array, kind, head, transposed):
    """The array in the file's layout and type."""
    array = array.T if transposed else array
    if head:
        array = array.reshape(-1, 2, head // 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
    return gguf.quants.quantize(np.ascontiguousarray(array), kind)


def _add(writer, key, value):
    """A field, of the type that llama.cpp expects of such a value."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
