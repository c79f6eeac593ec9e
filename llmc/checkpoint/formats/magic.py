"""What a file is, told by its first bytes."""

import re

# N, the header's length, is below 2**32 in every file that is read, so its upper half is zero.
_SAFETENSORS = re.compile(rb"[\s\S]{4}\0{4}[ \t\r\n]*\{")
_LEGACY = re.compile(rb"\x80[\x02-\x05](\x95[\s\S]{8})?\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19\.")
_PICKLE = re.compile(rb"\x80[\x02-\x05]")

_TEXTS = (
    (rb"version https://git-lfs", "a git-LFS pointer, not what it points to; run `git lfs pull`, or download it again"),
    (rb"<(!doctype|html|head|\?xml)", "an HTML page, not a checkpoint; the download was answered with a web page"),
    (rb"\{", "a JSON text, not weights; open the folder that holds it"),
)
_MAGICS = (
    (b"tjgg", "a GGML file (llama.cpp); fetch the model's safetensors files instead"),
    (b"lmgg", "a GGML file (llama.cpp); fetch the model's safetensors files instead"),
    (b"\x1f\x8b", "compressed with gzip; unpack it first"),
    (b"BZh", "compressed with bzip2; unpack it first"),
    (b"\xfd7zXZ\x00", "compressed with xz; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it first"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x89HDF", "an HDF5 file (Keras); fetch the safetensors files instead"),
    (b"\x93NUMPY", "a NumPy .npy file; open it with numpy.load"),
    (b"\x7fELF", "a program, not a checkpoint"),
)


def identify(head):
    """What a file that begins with `head` (512 bytes are enough) is.

    Returns
    -------
    kind : {"safetensors", "zip", "legacy", "gguf", None}
        The formats that are read here: safetensors, torch's zip, torch's stream of before 1.6, llama.cpp's.
    words : str or None
        For everything but safetensors that is recognised: words to put after "the file is", with the remedy.
    """
    if _SAFETENSORS.match(head):
        return "safetensors", None
    if head.startswith(b"PK\x03\x04"):
        return "zip", "a zip archive, as torch.save writes; if torch wrote it, name it .bin"
    if _LEGACY.match(head):
        return "legacy", "a checkpoint of torch before 1.6; name it .bin"
    if head.startswith(b"GGUF"):
        return "gguf", "a GGUF file (llama.cpp); name it .gguf, and open it by its own name"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for pattern, words in _TEXTS:
        if re.match(pattern, text):
            return None, words
    for start, words in _MAGICS:
        if head.startswith(start):
            return None, words
    if head[257:262] == b"ustar":
        return None, "a tar archive (torch's oldest format, or a packed folder); load it with torch and save it again"
    if _PICKLE.match(head):
        return None, "a plain pickle, which could run anything; load it where it was made and save it as safetensors"
    return None, None
