"""The compiled core, with the kernels this process is to use.

LLMC_ISA forces an instruction set ("portable", "avx2", "avx512", "avx512_bf16"), LLMC_GEMM who does the float32
products ("own", "openblas"), and OMP_NUM_THREADS sets how many threads; they are read once, at import. Without them the
core takes the fastest kernels that the processor has, and every processor that the process may run on.
"""

import os
import sys
from pathlib import Path

from llmc.calls import public
from llmc import _core
from llmc.errors import ConfigError
from llmc.system.command import is_command


def openblas_path():
    """The OpenBLAS this build carries or was told of; None when it was built without."""
    folder = Path(__file__).parent / "_blas"
    try:
        told = (folder / "path.txt").read_text().strip()
    except OSError:
        return None
    if not told:
        return None
    carried = folder / told
    return str(carried) if carried.exists() else told


def choose(core):
    """Choose the kernels of `core` from the environment.

    Raises
    ------
    ConfigError
        When the environment asks for what this build or this processor lacks; the message lists what there is.
    """
    isa, gemm = os.environ.get("LLMC_ISA") or None, os.environ.get("LLMC_GEMM") or None
    if isa and isa not in core.offers():
        raise ConfigError(f"LLMC_ISA={isa}: this build on this processor has {', '.join(core.offers())}")
    if gemm not in (None, "own", "openblas"):
        raise ConfigError(f"LLMC_GEMM={gemm}: products are done by 'own' or by 'openblas'")
    core.choose(isa, gemm, openblas_path())


def threads_asked():
    """The number that OMP_NUM_THREADS begins with (it may be a list); None when it says nothing usable."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(int(first), 256) if first.isdigit() and int(first) else None


try:
    choose(_core)
except ConfigError as error:
    if not is_command(sys.argv, sys.orig_argv) or "--debug" in sys.argv:
        raise
    sys.exit(f"llmc: {error}")  # the package is imported before its command line can catch anything
if threads_asked():
    _core.set_num_threads(threads_asked())


@public
def set_num_threads(n):
    """Set how many threads compute, from now on; results have the same bits at any number.

    Parameters
    ----------
    n : int
        1 to 256, also more than there are cores.
    """
    try:
        _core.set_num_threads(n)
    except OverflowError:
        raise ConfigError(f"the number of threads is from 1 to 256, not {n}") from None


@public
def get_num_threads():
    """How many threads compute."""
    return _core.get_num_threads()
