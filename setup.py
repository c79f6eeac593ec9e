"""Builds the C core, once in float and once in double, and carries a private OpenBLAS beside it.

What the environment may decide (everything else is in pyproject.toml):
    CC, CFLAGS, LDFLAGS  as everywhere; CFLAGS come after the build's own flags
    LLMC_ISA=portable    build only the kernels that every processor runs
    LLMC_BLAS=...        system, none, or /path/to/libopenblas.so; by default the copy that scipy-openblas32 brings
"""

import ctypes
import ctypes.util
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CSRC = Path("csrc")
TABLE = CSRC / "kernels" / "table.c"  # includes every kernel; compiled once for each instruction set

FLAGS = ("-O3 -std=gnu11 -fopenmp-simd -fno-math-errno -fno-trapping-math -fvisibility=hidden -fPIC -pthread "
         "-Wall -Wextra -Wshadow").split()

INSTRUCTION_SETS = {
    "portable": [],
    "avx2": "-mavx2 -mfma -mf16c".split(),
    "avx512": "-mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mprefer-vector-width=512".split(),
}
INSTRUCTION_SETS["avx512_bf16"] = [*INSTRUCTION_SETS["avx512"], "-mavx512bf16", "-mavx512vnni", "-DLLMC_BFLOAT16"]
FLOAT_ONLY = {"avx512_bf16"}  # the double core is there to be exact

CORES = {  # module -> what it defines
    "_core": [],
    "_core64": ["-DLLMC_DOUBLE", "-DLLMC_TESTING"],  # checked against slopes, and made to run out of memory
}


def compiler():
    """The C compiler as a list of words: $CC, or the one Python was built with, or whichever there is."""
    asked = os.environ.get("CC")
    for command in [asked] if asked else [sysconfig.get_config_var("CC"), "cc", "gcc", "clang"]:
        if command and shutil.which(shlex.split(command)[0]):
            return shlex.split(command)
    raise SystemExit(f"llmc: there is no C compiler{f' {asked!r}' if asked else ''}; "
                     "on Debian and Ubuntu: apt-get install gcc libc6-dev")


def python_headers():
    """The folder of Python.h."""
    folder = sysconfig.get_path("include")
    if not Path(folder, "Python.h").exists():
        version = sysconfig.get_python_version()
        raise SystemExit(f"llmc: {folder}/Python.h is missing; "
                         f"on Debian and Ubuntu: apt-get install python{version}-dev")
    return folder


def numpy_headers():
    """The folder of NumPy's C headers."""
    try:
        import numpy
    except ImportError:
        raise SystemExit("llmc: building needs NumPy's headers: pip install numpy") from None
    return numpy.get_include()


def instruction_sets(cc):
    """The names of the kernel tables to build: what this processor's family and this compiler know."""
    asked = os.environ.get("LLMC_ISA")
    if asked not in (None, "", "portable"):
        raise SystemExit(f"llmc: LLMC_ISA={asked} is not a way to build; unset it, or say LLMC_ISA=portable")
    if asked or platform.machine().lower() not in ("x86_64", "amd64"):
        return ["portable"]

    def known(flags):
        probe = [*cc, *flags, "-x", "c", "-c", os.devnull, "-o", os.devnull]
        return subprocess.run(probe, capture_output=True).returncode == 0

    return [name for name, flags in INSTRUCTION_SETS.items() if known(flags)]


def ordinary_sources():
    """Every source that is compiled once: all but the table and the kernels it includes."""
    included = set(re.findall(r'^\s*#\s*include\s+"(?:kernels/)?(\w+\.c)"', TABLE.read_text(), re.M))
    kernels = {TABLE} | {TABLE.parent / name for name in included}
    return [path for path in sorted(CSRC.glob("*/*.c")) if path not in kernels]


class Unit:
    """One object file: the command that makes it, run again when the command or a file it read has changed."""

    def __init__(self, source, target, command):
        self.target, self.dependencies, self.recorded = (target.with_suffix(end) for end in (".o", ".d", ".command"))
        self.command = [*command, "-c", str(source)]

    def is_current(self):
        try:
            read = self.dependencies.read_text().partition(": ")[2].replace("\\\n", " ").split()
            made = self.target.stat().st_mtime
            return self.recorded.read_text() == shlex.join(self.command) and all(
                os.stat(path).st_mtime < made for path in read)
        except OSError:
            return False

    def compile(self, headers):
        if self.is_current():
            return
        self.target.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.target.with_suffix(f".{os.getpid()}.o")  # a build in another process never links half an object
        outputs = ["-MMD", "-MF", str(self.dependencies), "-MT", "unit", "-o", str(fresh)]
        # the headers are no part of what is recorded: in pip's isolated builds NumPy's folder is new every time
        subprocess.run([*self.command, *(f"-isystem{folder}" for folder in headers), *outputs], check=True)
        os.replace(fresh, self.target)
        self.recorded.write_text(shlex.join(self.command))


class BuildCore(build_ext):
    """build_ext with one object for each instruction set, dependencies on headers, and all processors at work."""

    def run(self):
        self.cc = compiler()
        self.headers = [python_headers(), numpy_headers()]
        os.environ["CC"] = shlex.join(self.cc)  # setuptools links with the same one
        self.tables = instruction_sets(self.cc)
        blas = find_blas()
        super().run()
        carry_blas(blas, Path("llmc" if self.inplace else f"{self.build_lib}/llmc", "_blas"))

    def build_extensions(self):
        have = [f"-DLLMC_HAVE_{name.upper()}" for name in self.tables if name != "portable"]
        units = {}
        for ext in self.extensions:
            module = ext.name.rpartition(".")[2]
            folder = Path("build", f"objects-{sysconfig.get_config_var('SOABI')}", module)
            command = [*self.cc, *FLAGS, f"-I{CSRC}", *have, *CORES[module], f"-DLLMC_MODULE={module}"]
            extra = shlex.split(os.environ.get("CFLAGS", ""))
            tables = [Unit(TABLE, folder / f"table_{name}.o",
                           [*command, *INSTRUCTION_SETS[name], f"-DLLMC_TABLE=kernels_{name}",
                            f'-DLLMC_TABLE_NAME="{name}"', *extra])
                      for name in self.tables if "-DLLMC_DOUBLE" not in CORES[module] or name not in FLOAT_ONLY]
            others = [Unit(source, folder / source.relative_to(CSRC), [*command, *extra])
                      for source in ordinary_sources()]
            units[ext.name] = tables + others
        with ThreadPoolExecutor(os.cpu_count()) as workers:
            longest_first = sorted((unit for each in units.values() for unit in each),
                                   key=lambda unit: not unit.target.name.startswith("table_"))
            try:
                list(workers.map(lambda unit: unit.compile(self.headers), longest_first))
            except subprocess.CalledProcessError as error:
                workers.shutdown(cancel_futures=True)
                raise SystemExit(f"llmc: the compiler refused {error.cmd[error.cmd.index('-c') + 1]} (see above)") from None
        self.compiler.force = True  # linking is quick, and a source that went away leaves no trace in a time stamp
        for ext in self.extensions:
            path = Path(self.get_ext_fullpath(ext.name))
            path.parent.mkdir(parents=True, exist_ok=True)
            self.compiler.link_shared_object([str(unit.target) for unit in units[ext.name]], str(path),
                                             libraries=["m", "dl", "pthread"])

    def get_outputs(self):
        folder = Path(self.build_lib, "llmc", "_blas")
        return [*super().get_outputs(), *(str(path) for path in folder.glob("*"))]


def find_blas():
    """The OpenBLAS to use: (what path.txt says, files to carry along)."""
    asked = os.environ.get("LLMC_BLAS", "")
    if asked == "none":
        return "", []
    if asked not in ("", "system"):
        path = Path(asked).absolute()
        if not path.is_file():
            raise SystemExit(f"llmc: LLMC_BLAS={asked}: there is no such file")
        check_blas(str(path))
        return str(path), []
    package = importlib.util.find_spec("scipy_openblas32") if not asked else None
    if package:
        root = Path(package.origin).parent
        libraries = sorted([*root.glob("lib/*.so*"), *root.parent.glob("scipy_openblas32.libs/*.so*")])
        licenses = sorted(root.parent.glob("scipy_openblas32-*.dist-info/**/LICENSE*"))
        library = next(path.name for path in libraries if "openblas" in path.name)
        return library, libraries + licenses
    name = ctypes.util.find_library("openblas")
    if name:
        check_blas(name)
        return name, []
    raise SystemExit(
        f"llmc: there is no OpenBLAS {'on' if asked else 'in a package or on'} the system. One of these helps:\n"
        "    pip install scipy-openblas32              (then build again without LLMC_BLAS)\n"
        "    apt-get install libopenblas0-pthread      (then build again with LLMC_BLAS=system)\n"
        "    LLMC_BLAS=/path/to/libopenblas.so\n"
        "    LLMC_BLAS=none                            (builds without: slower multiplication)")


def check_blas(name):
    """Refuse a library that is no OpenBLAS, or one whose threads do not go together with ours."""
    try:
        library = ctypes.CDLL(name)
        prefix = "scipy_" if hasattr(library, "scipy_cblas_sgemm") else ""
        library[f"{prefix}cblas_sgemm"]
        parallel = library[f"{prefix}openblas_get_parallel"]()
    except (OSError, AttributeError) as error:
        raise SystemExit(f"llmc: {name} is no OpenBLAS: {error}") from None
    if parallel != 1:  # 0: wrong results under concurrent callers; 2: hangs in a forked child
        kind = "without threads" if parallel == 0 else "with OpenMP"
        raise SystemExit(f"llmc: {name} is an OpenBLAS built {kind}, which gives wrong results or hangs under llmc's "
                         "threads; take the one built with pthreads: apt-get install libopenblas0-pthread")


def carry_blas(blas, folder):
    """Fill llmc/_blas. path.txt names the library: a file beside it, one of the system, or (empty) none."""
    name, files = blas
    folder.mkdir(parents=True, exist_ok=True)
    for stale in set(folder.iterdir()) - {folder / path.name for path in files}:
        stale.unlink()
    for path in files:
        fresh = folder / f"{path.name}.{os.getpid()}"  # replaced, never overwritten: a process may have it loaded
        shutil.copyfile(path, fresh)
        os.replace(fresh, folder / path.name)
    (folder / "path.txt").write_text(name + "\n")


setup(
    ext_modules=[Extension(f"llmc.{module}", [str(path) for path in [TABLE, *ordinary_sources()]],
                           depends=[str(path) for path in sorted(CSRC.glob("*/*.[ch]"))]) for module in CORES],
    cmdclass={"build_ext": BuildCore},
)
