"""The house plan, enforced: what may include what, the map, the stub, and the size of a file."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
TABLE = CSRC / "kernels" / "table.c"

MAY_INCLUDE = {  # layer -> the layers below it that it may see; includes only point down
    "base": {"base"},
    "kernels": {"base", "kernels"},
    "plan": {"base", "plan"},
    "ops": {"base", "kernels", "plan", "ops"},
    "blocks": {"base", "plan", "ops", "blocks"},
    "engine": {"base", "kernels", "engine"},
    "weights": {"base", "kernels", "plan", "engine", "weights"},
    "models": {"base", "plan", "ops", "blocks", "engine", "weights", "models"},
    "runs": {"base", "kernels", "plan", "ops", "blocks", "engine", "weights", "models", "runs"},
    "binding": {"base", "kernels", "plan", "ops", "blocks", "engine", "weights", "models", "runs", "binding"},
}
SOURCES = sorted(path.relative_to(CSRC) for path in CSRC.rglob("*.[ch]"))
LONGEST_FILE = 500  # lines
SPELLS_INSTRUCTIONS = {  # the compiler has no products of bfloat16, and widens int8 number by number
    "kernels/bfloat16.h", "kernels/dot_bfloat16.h", "kernels/dot_int8.h", "kernels/pack_bfloat16.h", "kernels/widen.h"}


def code(path):
    """The text of a C file without its comments and strings."""
    comment_or_string = r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"'
    return re.sub(comment_or_string, lambda m: '""' if m[0][0] == '"' else " ", (CSRC / path).read_text(), flags=re.S)


def includes(path):
    """The (kind, name) of every #include of a C file; kind is '"' for ours, '<' for the system's."""
    return re.findall(r'^\s*#\s*include\s*(["<])([^">]+)[">]', (CSRC / path).read_text(), re.M)


def including(name):
    """The files of csrc/ that include a system header whose name begins so."""
    return [path for path in SOURCES if any(kind == "<" and found.startswith(name) for kind, found in includes(path))]


def test_every_source_lies_in_a_layer():
    assert {path.parts[0] for path in SOURCES} <= set(MAY_INCLUDE)
    assert all(len(path.parts) == 2 for path in SOURCES)


def test_includes_point_only_down():
    ours = [(path, name) for path in SOURCES for kind, name in includes(path) if kind == '"']
    assert "\n".join(f"{path}: {name}" for path, name in ours if not (CSRC / name).is_file()) == ""
    assert "\n".join(f"{path}: {name}" for path, name in ours
                     if name.split("/")[0] not in MAY_INCLUDE[path.parts[0]]) == ""


def test_only_the_kernel_table_includes_sources():
    assert [path for path in SOURCES if any(name.endswith(".c") for _, name in includes(path))] \
        == [TABLE.relative_to(CSRC)]


def test_file_names_are_unique():
    folders = {}
    for path in SOURCES:
        folders.setdefault(path.stem, set()).add(path.parent)
    assert {stem: where for stem, where in folders.items() if len(where) > 1} == {}


def test_file_names_of_the_package_are_unique():
    """Folders, __init__ and __main__ do not count; a command may carry the name of what it shows."""
    folders = {}
    for path in sorted((ROOT / "llmc").rglob("*.py")):
        if not path.stem.startswith("__") and path.parent.name != "cli":
            folders.setdefault(path.stem, []).append(str(path.relative_to(ROOT)))
    assert [paths for paths in folders.values() if len(paths) > 1] == []


def package_imports():
    """{folder of the package: the folders and files at the top of the package that its files import}."""
    top, found = ROOT / "llmc", {}
    for path in top.rglob("*.py"):
        names = [f"{node.module}.{name.name}" for node in ast.walk(ast.parse(path.read_text()))
                 if isinstance(node, ast.ImportFrom) and node.module for name in node.names]
        rooms = {name.split(".")[1] for name in names if name.startswith("llmc.")}
        if path.parent != top:
            found.setdefault(path.relative_to(top).parts[0], set()).update(rooms)
    return {folder: rooms - {folder} for folder, rooms in found.items()}


def test_folders_of_the_package_import_in_no_circle():
    left = package_imports()
    while free := [folder for folder, rooms in left.items() if not rooms & left.keys()]:
        for folder in free:
            del left[folder]
    assert left == {}


def test_what_people_look_at_is_drawn_by_a_folder_that_knows_no_subject():
    assert package_imports()["show"] <= {"checkpoint", "errors", "system"}


def test_only_the_binding_sees_python():
    assert {path.parts[0] for path in including("Python.h")} <= {"binding"}
    assert not [path for path in SOURCES if path.parts[0] != "binding" and re.search(r"\bPy[A-Z_]\w*", code(path))]


def test_numpy_is_included_by_one_file():
    assert len(including("numpy/")) == 1


def test_only_the_files_of_one_instruction_set_have_intrinsics():
    instruction = r"\b_mm\d*_|__builtin_ia32_(?!pause\b)"  # a pause computes nothing
    sources = [path for path in SOURCES if path.as_posix() not in SPELLS_INSTRUCTIONS]
    assert [str(path) for path in sources if re.search(instruction, code(path))] == []
    assert [name for path in sources for _, name in includes(path) if re.search(r"intrin|arm_neon", name)] == []


def test_kernels_neither_allocate_nor_thread():
    parts = [Path(name) for kind, name in includes(TABLE.relative_to(CSRC)) if kind == '"']
    headers = [path for path in SOURCES if path.parts[0] == "kernels" and path.suffix == ".h"]
    forbidden = r"\b(malloc|calloc|realloc|free|alloca|aligned_alloc|posix_memalign|mmap|abort|exit|pthread_\w+)\s*\("
    for path in {*parts, *headers}:
        assert not re.search(forbidden, code(path)), f"csrc/{path}"
        assert not any(name == "pthread.h" for _, name in includes(path)), f"csrc/{path}"


def test_the_map_lists_every_file_and_no_other():
    text = (CSRC / "README.md").read_text()
    named = {stem + end for stem, ends in re.findall(r"\b(\w+)\.(c|h|\[ch\])(?!\w)", text)
             for end in ((".c", ".h") if ends == "[ch]" else (f".{ends}",))}
    there = {path.name for path in SOURCES}
    assert named == there, f"only in the map: {sorted(named - there)}; not in the map: {sorted(there - named)}"


OURS = sorted([*ROOT.glob("llmc/**/*.py"), *ROOT.glob("llmc/**/*.pyi"), *ROOT.glob("tests/**/*.py"),
               *(CSRC / path for path in SOURCES)])


def test_no_file_is_a_heap():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in OURS
               if path.relative_to(ROOT).parts[0] != "tests"}  # a test file may be a long list
    assert {path: length for path, length in lengths.items() if length > LONGEST_FILE} == {}


def test_every_file_says_first_what_it_is():
    begins = {str(path.relative_to(ROOT)): path.read_text().lstrip()[:4] for path in OURS}
    assert {path for path, text in begins.items() if not text.startswith(("/*", '"""', 'r"""'))} == set()


def test_lines_fit_a_screen():
    assert [f"{path.relative_to(ROOT)}:{number}" for path in [*OURS, *(ROOT / "tests" / "c").glob("*.[ch]")]
            for number, line in enumerate(path.read_text().splitlines(), 1) if len(line) > 120] == []


def test_nothing_is_left_for_later():
    words = "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"])
    assert [str(path.relative_to(ROOT)) for path in OURS if re.search(rf"\b({words})\b", path.read_text())] == []


def test_no_path_of_one_machine_is_written_down():
    own = [path for end in ("*.py", "*.md", "*.toml", "*.sh", "*.[ch]", "*.ipynb", "*.pyi")
           for folder in ("llmc", "csrc", "tests", "benchmarks", "notebooks") for path in (ROOT / folder).rglob(end)]
    own += [path for path in ROOT.iterdir() if path.is_file() and path.suffix in (".py", ".md", ".toml", ".sh")]
    machine = re.compile(r"(?<![\w.}~-])/(?:work|home|root|Users)/")
    assert [str(path.relative_to(ROOT)) for path in own
            if path != Path(__file__).resolve() and machine.search(path.read_text())] == []


def public(names):
    return {name for name in names if not name.startswith("_")}


def stub_names(body):
    """The public names that a stub's statements define, and those of its classes as "Class.name"."""
    names = set()
    for statement in body:
        if isinstance(statement, ast.AnnAssign):
            names.add(statement.target.id)
        elif isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            names.add(statement.name)
        elif isinstance(statement, ast.Assign):
            names.update(target.id for target in statement.targets)
        if isinstance(statement, ast.ClassDef):
            names.update(f"{statement.name}.{name}" for name in public(stub_names(statement.body)))
    return names


def test_the_stub_names_what_the_core_has():
    import llmc._core as core

    stub = ast.parse((ROOT / "llmc" / "_core.pyi").read_text()).body
    there = public(vars(core))
    there |= {f"{name}.{member}" for name in there if isinstance(vars(core)[name], type)
              and vars(core)[name].__module__.startswith("llmc._core") for member in public(vars(vars(core)[name]))}
    assert public(stub_names(stub)) == there
