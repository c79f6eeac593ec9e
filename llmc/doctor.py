"""doctor: what runs here, for whoever asks why something is slow or missing."""

import importlib.metadata
import os
import platform

from llmc.calls import public
from llmc.core import _core, get_num_threads, openblas_path
from llmc.system.free_memory import free_memory
from llmc.show.table import Table

_PACKAGES = ("llmc", "numpy", "ml_dtypes", "tokenizers", "huggingface_hub", "matplotlib", "torch",
             "transformers", "peft")  # fmt: skip


@public
def doctor():
    """A table of the processor, the kernels in use, threads, memory and versions.

    Returns
    -------
    Table
    """
    info = _core.info()
    rows = [
        ("processor", info["processor"]),
        ("processors for this process", info["processors"]),
        ("threads", get_num_threads()),
        ("instruction set", f"{info['instruction_set']} (of {', '.join(_core.offers())})"),
        ("products by", info["gemm"]),
        ("products in bfloat16", _bfloat16(info)),
        ("OpenBLAS", info["openblas"] or f"carried, not used: {openblas_path() or 'none'}"),
        ("OpenBLAS kernels", info["openblas_kernels"] or "-"),
        ("memory", _memory()),
        ("Python", platform.python_version()),
        ("system", platform.platform()),
    ]
    rows += [(name, _version(name)) for name in _PACKAGES]
    return Table(["what", "value"], [{"what": what, "value": str(value)} for what, value in rows])


def _bfloat16(info):
    if info["bfloat16"]:
        return "yes: precision='bfloat16' uses them"
    return f"no: {info['instruction_set']} has none; precision='bfloat16' computes in float32"


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _memory():
    free, whole = free_memory(), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{'unknown' if free is None else f'{free / 2**30:.1f} GiB'} free of {whole / 2**30:.1f}"
