"""The core without Python under the compiler's sanitizers: tests/c is compiled with it and run.

Skipped only where the compiler carries no sanitizers; under LLMC_REQUIRE_PEERS=1 that is a failure.
"""

import os
import re
import shlex
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llmc import _core

ROOT = Path(__file__).resolve().parent.parent
CSRC, DRIVER = ROOT / "csrc", ROOT / "tests" / "c"
TABLE = CSRC / "kernels" / "table.c"
FLAGS = (f"-g -O1 -std=gnu11 -fopenmp-simd -fno-math-errno -fno-trapping-math -fno-omit-frame-pointer -pthread "
         f"-fno-sanitize-recover=all -DLLMC_TESTING -I{CSRC} -I{DRIVER}").split()  # fmt: skip
AVX512 = "-mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mprefer-vector-width=512".split()


def call(command):
    return subprocess.run(command, capture_output=True, text=True)


def compiler():
    return shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")


def require_sanitizer(name, folder):
    """Compile and run nothing with it; skip where that fails."""
    (folder / "nothing.c").write_text("int main(void) { return 0; }\n")
    program = folder / "nothing"
    made = call([*compiler(), f"-fsanitize={name}", str(folder / "nothing.c"), "-o", str(program)])
    if made.returncode == 0 and call([program]).returncode == 0:
        return
    if os.environ.get("LLMC_REQUIRE_PEERS") == "1":
        pytest.fail(f"LLMC_REQUIRE_PEERS=1, but {compiler()[0]} has no -fsanitize={name}: {made.stderr}")
    pytest.skip(f"{compiler()[0]} has no -fsanitize={name}")


def sources():
    """The core's sources but for the binding and what the table includes, and the driver's."""
    included = set(re.findall(r'^\s*#\s*include\s+"kernels/(\w+\.c)"', TABLE.read_text(), re.M))
    own = [path for path in CSRC.glob("*/*.c") if path.parent.name != "binding" and path != TABLE]
    alone = [path for path in own if not (path.parent == TABLE.parent and path.name in included)]
    return alone + list(DRIVER.glob("*.c"))


def build(folder, sanitizer, numbers, tables):
    """The driver as a program, every object compiled with the sanitizer."""
    command = [*compiler(), *FLAGS, f"-fsanitize={sanitizer}", *numbers]
    if "avx512" in tables:
        command.append("-DLLMC_HAVE_AVX512")
    units = [[*command, "-c", str(path), "-o", str(folder / f"{path.stem}.o")] for path in sources()]
    for name in tables:
        named = [f"-DLLMC_TABLE=kernels_{name}", f'-DLLMC_TABLE_NAME="{name}"', *(AVX512 if name == "avx512" else [])]
        units.insert(0, [*command, *named, "-c", str(TABLE), "-o", str(folder / f"table_{name}.o")])
    program = folder / "driver"
    link = [*command, *(unit[-1] for unit in units), "-ldl", "-lm", "-o", str(program)]
    with ThreadPoolExecutor(2) as workers:
        for made in workers.map(call, units):
            assert made.returncode == 0, made.stderr
    made = call(link)
    assert made.returncode == 0, made.stderr
    return program


def run(program, *tests):
    """Run the driver's tests of these names (all without any) and require that nothing is reported."""
    options = {"ASAN_OPTIONS": "detect_stack_use_after_return=1", "TSAN_OPTIONS": "halt_on_error=1"}
    done = subprocess.run([program, *tests], capture_output=True, text=True, timeout=300, env={**os.environ, **options})
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_core_in_double_is_clean_under_address_and_undefined(tmp_path):
    require_sanitizer("address,undefined", tmp_path)
    tables = ["portable", *(["avx512"] if "avx512" in _core.offers() else [])]
    run(build(tmp_path, "address,undefined", ["-DLLMC_DOUBLE"], tables))


def test_the_core_in_float_is_clean_under_address_and_undefined(tmp_path):
    require_sanitizer("address,undefined", tmp_path)
    run(build(tmp_path, "address,undefined", [], ["portable"]), "training", "inside")


def test_threads_do_not_race(tmp_path):
    require_sanitizer("thread", tmp_path)
    run(build(tmp_path, "thread", ["-DLLMC_DOUBLE"], ["portable"]), "pool", "training")
