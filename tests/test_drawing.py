"""The drawing of an architecture: read from its plan, and the page that shows it for every family."""

import importlib.util
from pathlib import Path

import llmc

DOCS = Path(__file__).resolve().parent.parent / "docs"


def test_the_page_of_drawings_is_what_the_families_draw():
    spec = importlib.util.spec_from_file_location("make_families", DOCS / "make_families.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (DOCS / "families.md").read_text() == module.page(), "run python docs/make_families.py"


def test_norms_are_drawn_where_they_stand():
    def lines(**kinds):
        return llmc.Architecture(31, 16, 2, 2, **kinds).drawing().splitlines()

    def at(found, text):
        return next(i for i, line in enumerate(found) if text in line)

    inside = lines()
    assert at(inside, "input_layernorm") < at(inside, "q_proj") < at(inside, "o_proj") < at(inside, "+◀")
    out = lines(norm_place="out")
    assert at(out, "o_proj") < at(out, "post_attention_layernorm") < at(out, "+◀")
    added = lines(norm_place="sum")
    assert at(added, "+◀") < at(added, "post_attention_layernorm") < at(added, "gate_proj")


def test_layers_that_differ_are_drawn_apart():
    text = llmc.Architecture(31, 16, 4, 2, sliding_window=[3, None, 3, 3]).drawing()
    assert "blocks 0, 2-3 of 4" in text and "block 1 of 4" in text
    assert text.count("a window of 3") == 1


def test_drawing_takes_no_memory_for_parameters():
    config = llmc.Config("llama", hidden_size=16384, intermediate_size=65536, num_hidden_layers=128)
    assert "65536 → 16384" in config.drawing()
