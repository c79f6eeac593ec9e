"""The safetensors reader: every length is checked against the file before it is believed."""

from llmc.checkpoint.formats import magic
from llmc.checkpoint.formats import strict_json
from llmc.checkpoint.formats.dtypes import SAFETENSORS, SUB_BYTE
from llmc.checkpoint.formats.entry import MAX_BYTES, Entry, check_shape
from llmc.errors import CheckpointError, quoted

MAX_HEADER = 100_000_000
FIELDS = {"dtype", "shape", "data_offsets"}


def read_safetensors(file):
    """The tensors and the metadata of a safetensors file.

    Parameters
    ----------
    file : RegularFile

    Returns
    -------
    entries : dict of str to Entry
        In the order of their bytes.
    metadata : dict of str to str

    Raises
    ------
    CheckpointError
        If any rule of the format is broken: the header's length, its JSON, a dtype, a shape, a hole or an overlap
        between tensors, bytes missing or left over at the end.
    """
    head = file.head()
    _, words = magic.identify(head)
    if words:
        file.fail(f"not safetensors: the file is {words}")
    if file.size < 8:
        file.fail(f"{file.size} bytes are too few for safetensors, which begins with 8 bytes of header length")
    length = int.from_bytes(head[:8], "little")
    if length > MAX_HEADER:
        file.fail(f"a header of {length} bytes is claimed, at most {MAX_HEADER} are allowed; this is not safetensors")
    if 8 + length > file.size:
        file.fail(f"a header of {length} bytes is claimed, {file.size - 8} are there; the file is cut short")
    header = strict_json.parse(file.read(8, length), f"{file.path}: header", file.budget)
    if not isinstance(header, dict):
        file.fail(f"the header is a JSON {type(header).__name__}, not an object")
    metadata = _metadata(file, header.pop("__metadata__", None))
    tensors = sorted((_tensor(file, name, info) for name, info in header.items()), key=lambda t: t[2:])
    return _lay_out(file, 8 + length, tensors), metadata


def _metadata(file, metadata):
    if metadata is None:
        return {}
    if not isinstance(metadata, dict):
        file.fail(f"__metadata__ is a {type(metadata).__name__}, not an object")
    for key, value in metadata.items():
        if not isinstance(value, str):
            file.fail(f"__metadata__ {quoted(key)} holds a {type(value).__name__}; only strings are allowed")
    return metadata


def _tensor(file, name, info):
    """(name, Entry at 0, begin, end), with everything checked that one tensor's words can show."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        file.fail(f"tensor name {quoted(name)} holds half a character (a lone surrogate)")
    where = f"{file.path}: tensor {quoted(name)}"
    if not isinstance(info, dict):
        raise CheckpointError(f"{where}: described by a {type(info).__name__}, not an object")
    if info.keys() != FIELDS:
        odd = sorted(info.keys() ^ FIELDS)[0]
        raise CheckpointError(f"{where}: field {quoted(odd)} is {'unknown' if odd in info else 'missing'}")
    dtype = info["dtype"]
    if not isinstance(dtype, str):
        raise CheckpointError(f"{where}: dtype is a {type(dtype).__name__}, not a string")
    if dtype not in SAFETENSORS:
        why = "packs several numbers into a byte, which is not read here" if dtype in SUB_BYTE else "is unknown"
        raise CheckpointError(f"{where}: dtype {quoted(dtype)} {why}; known: {', '.join(SAFETENSORS)}")
    dtype = SAFETENSORS[dtype]
    shape = tuple(_whole_numbers(info["shape"], f"{where}: shape"))
    offsets = _whole_numbers(info["data_offsets"], f"{where}: data_offsets")
    if len(offsets) != 2:
        raise CheckpointError(f"{where}: data_offsets holds {len(offsets)} numbers, not begin and end")
    begin, end = offsets
    if end < begin:
        raise CheckpointError(f"{where}: data_offsets end at {end}, before they begin at {begin}")
    nbytes = check_shape(shape, dtype, where)
    if nbytes != end - begin:
        raise CheckpointError(
            f"{where}: shape {list(shape)} of {dtype.name} takes {nbytes} bytes, its data_offsets hold {end - begin}"
        )
    return name, Entry(dtype, shape, 0), begin, end


def _whole_numbers(values, where):
    if not isinstance(values, list):
        raise CheckpointError(f"{where} is a {type(values).__name__}, not a list")
    for value in values:
        if type(value) is not int or not 0 <= value <= MAX_BYTES:
            raise CheckpointError(f"{where} holds {str(value)[:60]}, not a whole number from 0 to {MAX_BYTES}")
    return values


def _lay_out(file, data, tensors):
    """Entries at their place in the file, once the tensors are known to follow each other to its very end."""
    entries = {}
    last = 0
    for name, entry, begin, end in tensors:
        if begin != last:
            what = "overlaps the tensor before it" if begin < last else "leaves a hole before it"
            file.fail(f"tensor {quoted(name)} begins at byte {begin} of the data and {what}, which ends at {last}")
        file.budget.spend(200)
        entries[name] = Entry(entry.dtype, entry.shape, data + begin)
        last = end
    if data + last != file.size:
        what = "is cut short; fetch it again" if data + last > file.size else "has bytes left over at its end"
        file.fail(f"the tensors end at byte {data + last}, the file at {file.size}: it {what}")
    return entries
