"""The README: what stands in it runs as it is pasted, and says what is so."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from llmc.cli import COMMANDS
from llmc.cli.parser import Parser

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="the README is a clone's")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_python_of_the_readme_runs_from_top_to_bottom_in_one_process(tmp_path):
    code = "\n".join(["import llmc; llmc.set_num_threads(1)", *blocks("python")])
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, text=True, capture_output=True, timeout=900)
    assert done.returncode == 0, done.stderr
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"out", "copy", "adapter", "another", "lim.png", "scenes.yaml", "on-scenes", "read.png"}
    assert "trainable params: " in done.stdout


def test_every_command_line_of_the_readme_is_understood():
    import importlib
    import shlex

    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("llmc ")]
    assert len(lines) > 10
    for line in lines:
        name, *words = shlex.split(line, comments=True)[1:]
        parser = Parser(name, COMMANDS[name], "")
        importlib.import_module(f"llmc.cli.{name.replace('-', '_')}").arguments(parser)
        parser.parse(words)


def test_the_readme_says_where_it_runs_and_what_is_skipped_without_torch():
    from conftest import WITHOUT

    assert "\nIt runs on Linux, x86-64, with Python 3.10 and up.\n" in README
    assert f"… passed, … skipped ({WITHOUT.format('torch')})" in README
    extra = re.search(r"^peers = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL)[1]
    assert re.findall(r'"(\w+)==[\d.]+"', extra) == ["torch", "transformers", "peft"]
