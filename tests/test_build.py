"""The build: what the package carries, how quickly it imports, and what it says where something is missing."""

import json
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

import llmc

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(llmc.__file__).resolve().parent


PLAIN = {name: value for name, value in os.environ.items() if not name.startswith("LLMC_")}


def python(code, *arguments, cwd=ROOT):
    """What `code` prints in a fresh interpreter, read as JSON."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=PLAIN, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of what a build reads, and of nothing that a build has made."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("csrc", "llmc"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.so", "_blas", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "install.sh"):
        shutil.copy(ROOT / name, folder)
    return folder


def run(clone, *command, **environment):
    return subprocess.run(command, env={**PLAIN, **environment}, cwd=clone, capture_output=True, text=True)


def build(clone, **environment):
    return run(clone, sys.executable, "setup.py", "build_ext", "--inplace", **environment)


def test_import_takes_a_few_times_what_numpys_takes():
    """Processor time, the best of five, in units of the import of NumPy that is part of it: seconds depend on the
    processor and on who shares it. Where NumPy takes 0.07 s, the limit is a quarter of a second."""
    code = ("import json, time; t = time.process_time(); import numpy; u = time.process_time(); import llmc; "
            "print(json.dumps([u - t, time.process_time() - t]))")
    assert min(whole / numpy for numpy, whole in (python(code) for _ in range(5))) <= 3.6


def test_import_brings_neither_torch_nor_a_plotting_library():
    code = "import json, sys, llmc; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    assert not {"torch", "transformers", "peft", "matplotlib", "scipy_openblas32"} & set(python(code))


def test_a_carried_openblas_has_its_license_beside_it():
    carried = list(PACKAGE.glob("_blas/*openblas*.so*"))
    assert not carried or "OpenBLAS" in (PACKAGE / "_blas" / "LICENSE.txt").read_text()


def test_the_openblas_that_was_built_in_loads_without_the_package_it_came_from():
    """path.txt names a file beside it, or a library of the system, or (built with LLMC_BLAS=none) nothing."""
    folder = PACKAGE / "_blas"
    name = (folder / "path.txt").read_text().strip()
    code = ("import ctypes, sys; lib = ctypes.CDLL(sys.argv[1] or None); "
            "print([s for s in ('scipy_cblas_sgemm', 'cblas_sgemm') if hasattr(lib, s)])")
    library = folder / name if name and (folder / name).is_file() else name
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code, library], capture_output=True, text=True)
    assert not name or "sgemm" in done.stdout, done.stderr


def test_the_package_says_its_license_in_one_way():
    text = (ROOT / "pyproject.toml").read_text()
    assert 'license = "MIT"\nlicense-files = ["LICENSE"]\n' in text and "License ::" not in text
    assert "the llmc authors" in (ROOT / "LICENSE").read_text()


def test_a_wheel_weighs_twelve_megabytes_at_most():
    files = [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyi"), *PACKAGE.glob("_core*.so"), *PACKAGE.glob("_blas/*")]
    assert sum(len(zlib.compress(path.read_bytes(), 6)) for path in files) <= 12e6


@pytest.mark.parametrize("module", ["_core", "_core64"])
def test_the_core_exports_its_init_function_alone(module):
    library, = PACKAGE.glob(f"{module}.*.so")
    symbols = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    assert [line.split()[-1] for line in symbols.splitlines()] == [f"PyInit_{module}"]


def test_the_package_says_that_it_is_typed():
    assert (PACKAGE / "py.typed").is_file()
    assert (PACKAGE / "_core.pyi").is_file()


@pytest.mark.parametrize("environment, says", [
    ({"CC": "no-such-compiler"}, "apt-get install gcc"),
    ({"LLMC_BLAS": "/no/such/libopenblas.so"}, "no such file"),
    ({"LLMC_BLAS": sys.executable}, "is no OpenBLAS"),
    ({"LLMC_ISA": "avx9"}, "LLMC_ISA=avx9"),
])
def test_the_build_says_in_words_what_is_missing(clone, environment, says):
    done = build(clone, **environment)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("llmc: ")
    assert says in done.stderr


def test_the_build_asks_for_an_openblas_where_there_is_none(clone):
    hide = ("import sys, ctypes.util; sys.modules['scipy_openblas32'] = None; "
            "ctypes.util.find_library = lambda name: None")
    run_setup = "sys.argv = ['setup.py', 'build_ext', '--inplace']; exec(open('setup.py').read())"
    done = run(clone, sys.executable, "-c", f"{hide}; {run_setup}")
    assert done.returncode == 1
    assert "apt-get install libopenblas0-pthread" in done.stderr and "pip install scipy-openblas32" in done.stderr


def test_install_says_first_that_python_is_missing(clone):
    done = run(clone, "sh", "install.sh", PYTHON="no-such-python")
    assert done.returncode == 1 and not (clone / ".venv").exists()
    assert "Python 3.10" in done.stderr and "apt-get install" in done.stderr


def test_install_says_first_that_a_compiler_is_missing(clone, tmp_path):
    for name in ("sh", "dirname", "cat", "find", "id", "mktemp", "rm", "tail"):
        (tmp_path / name).symlink_to(shutil.which(name))
    done = run(clone, "sh", "install.sh", PYTHON=sys.executable, PATH=str(tmp_path), CC="")
    assert done.returncode == 1 and not (clone / ".venv").exists()
    assert "gcc" in done.stderr and "apt-get install" in done.stderr


def test_a_build_without_instruction_sets_and_openblas_gives_the_same_logits(clone):
    done = build(clone, LLMC_ISA="portable", LLMC_BLAS="none")
    assert done.returncode == 0, done.stderr
    code = """
import sys; sys.path.insert(0, sys.argv[1])
import json, llmc, numpy as np
config = llmc.Config(model_type="llama", vocab_size=61, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                     num_key_value_heads=2, intermediate_size=48, max_position_embeddings=32)
logits = llmc.Model(config, seed=0)(np.arange(20)[None] % 61)
print(json.dumps([llmc.__file__, logits.ravel().tolist()]))"""
    answers = []
    for folder in (clone, ROOT):
        where, logits = python(code, folder, cwd="/")
        assert Path(where).is_relative_to(folder)
        answers.append(logits)
    assert max(abs(a - b) for a, b in zip(*answers, strict=True)) <= 1e-5
