"""The reader of torch's files: which of its formats a file is in."""

from llmc.checkpoint.formats import magic
from llmc.checkpoint.formats.torch_legacy import read_torch_legacy
from llmc.checkpoint.formats.torch_zip import read_torch_zip


def read_torch(file):
    """The (entries, metadata) of a `.bin`, `.pt`, `.pth` or `.ckpt` file, with nothing executed.

    As those of `read_safetensors`; plain values are the metadata. A CheckpointError says that the file is damaged,
    names anything but tensors and plain values, or is in another format.
    """
    kind, words = magic.identify(file.head())
    if kind == "zip":
        return read_torch_zip(file)
    if kind == "legacy":
        return read_torch_legacy(file)
    if kind == "safetensors":
        words = "a safetensors file; name it .safetensors"
    file.fail(f"not a checkpoint of torch: the file is {words or 'in no format that is known here'}")
