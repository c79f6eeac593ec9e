"""What people look at: scales of colours, heat maps on a page and in a picture, the page itself, files of pictures."""

import matplotlib.image
import numpy as np
import pytest
from html_page import Page

import llmc
from llmc.show import bar, page, picture
from llmc.show.colours import fixed, rising, signed
from llmc.show.grid import CORNER, GONE, SKIPPED, Cell, Grid, brief
from llmc.show.page_map import heat_map
from llmc.show.sheet import CELL, Sheet

MARKS = {CORNER: "of note", SKIPPED: "not there", GONE: "not known"}
GRID = Grid(
    ["q", "<v>", "all"],
    {(0, "q"): Cell("0.q", 0.5, tip='so "much"'), (0, "<v>"): Cell("0.v", None, GONE), (2, "all"): Cell("2", 2.0),
     (2, "q"): Cell("2.q", None, SKIPPED), (2, "<v>"): Cell("2.v", 3.0, corner=True, foot="4 → 2")},
    [Cell("embed.tokens", 1.0, foot="8 → 9")],
    bold="all",
)  # fmt: skip


# --- colours ---------------------------------------------------------------------------------------------------------
def test_a_rising_scale_tells_small_and_large_values_apart_alike():
    scale = rising([None, 0.0, 0.01, 0.1, 1.0])
    places = [scale.place(value) for value in (0.0, 0.01, 0.1, 1.0)]
    assert places[0] == 0 and places[-1] == 1
    assert np.diff(places).min() > 0.1
    assert scale.place(5.0) == 1


def test_a_signed_scale_has_nothing_in_the_middle():
    scale = signed([-2.0, 0.5])
    assert scale.place(0.0) == 0.5 and scale.place(-2.0) == 0 and scale.place(2.0) == 1
    assert scale.place(0.5) + scale.place(-0.5) == pytest.approx(1)
    assert scale.colour(0.0) == "#f6f6f6"


def test_a_fixed_scale_is_linear_and_knows_its_end():
    assert [fixed(4.0).place(value) for value in (0, 1, 2, 8)] == [0, 0.25, 0.5, 1]
    assert fixed(1.0, signed=True).place(-0.5) == 0.25
    assert [value for value, _ in fixed(1.0).ticks()] == [0, 0.25, 0.5, 0.75, 1]


@pytest.mark.parametrize("make", [rising, signed])
@pytest.mark.parametrize("values", [[], [None], [0.0], [1e-30, 1e30]])
def test_a_scale_of_little_or_of_everything_has_colours_and_ticks(make, values):
    scale = make(values)
    assert all(len(scale.colour(value)) == 7 and 0 <= scale.place(value) <= 1 for value in (0.0, 1e-30, 1.0, 1e30))
    places = [place for _, place in scale.ticks()]
    assert places == sorted(places) and 0 in [value for value, _ in scale.ticks()]


def test_text_is_read_on_every_colour():
    scale = rising([1.0])
    assert scale.ink(0.0) == "#1f2430" and scale.ink(1.0) == "#ffffff"


# --- heat maps -------------------------------------------------------------------------------------------------------
def test_a_grid_has_its_layers_in_order_and_what_is_below_its_columns():
    assert GRID.layers == [0, 2] and GRID.cell(1, "q") is None
    assert [GRID.foot(part) for part in GRID.parts] == ["", "", ""]
    assert Grid(["v"], {(5, "v"): Cell("5.v", 1.0, foot="4 → 2"), (7, "v"): Cell("7.v", 1.0)}, []).foot("v") == "4 → 2"


def test_numbers_fit_a_cell():
    numbers = [None, 0, 1, -0.5, 0.0471, 12.34, 123.4, 54321, 1e-7, -3e-9, 9999.4, 0.0951]
    assert [brief(x) for x in numbers] == ["", "0", "1.00", "-0.50", "0.047", "12.3", "123", "5e4", "1e-7", "-3e-9",
                                           "9999", "0.10"]  # fmt: skip


def test_a_heat_map_on_a_page_shows_every_cell_and_says_what_its_marks_mean():
    read = Page(heat_map(GRID, rising([0.5, 3.0]), MARKS))
    kinds = [value for name, value in read.attributes if name == "class"]
    assert {GONE, SKIPPED, CORNER, "bold"} <= set(kinds)
    assert {"0", "2", "0.50", "3.00", "×", "8 → 9", *MARKS.values()} <= set(read.texts)
    assert ("title", 'so "much"') in read.attributes


def test_a_heat_map_in_a_picture_keeps_its_size(tmp_path):
    sheet = Sheet(6.0, 3.0)
    sheet.heat_map(1.0, 1.0, GRID, rising([0.5, 3.0]))
    sheet.outside(1.0, 2.0, GRID, rising([1.0]))
    sheet.scale(1.0, 2.6, rising([3.0]), "metric")
    sheet.key(3.5, 2.6, MARKS)
    sheet.save(tmp_path / "map.png")
    pixels = matplotlib.image.imread(tmp_path / "map.png")
    assert pixels.shape[:2] == (3 * picture.DPI, 6 * picture.DPI)
    inside = pixels[int((1 + CELL[1] / 4) * picture.DPI), int((1 + CELL[0] / 8) * picture.DPI)]
    assert [round(255 * x) for x in inside[:3]] == [int(rising([0.5, 3.0]).colour(0.5)[i : i + 2], 16)
                                                    for i in (1, 3, 5)]  # fmt: skip


# --- pages -----------------------------------------------------------------------------------------------------------
def test_a_page_is_whole_and_shows_names_as_text():
    hostile = "<script>alert(1)</script>"
    figure, axes = picture.chart(2, 1, lines="x")
    axes.plot([0, 1], [1, 0])
    read = Page(page.page(
        hostile, page.heading(hostile, hostile), page.tabs("t", {hostile: page.quiet(hostile), "b": ""}),
        page.section(hostile, page.bullets([hostile]), page.folded(hostile, page.verbatim([hostile, "b"]))),
        page.table([hostile, "n"], [(hostile, 0.25), ((1, 2), None)]), page.picture(figure, hostile)))
    assert not {"script", "link", "iframe"} & set(read.tags)
    assert read.texts.count(hostile) == 10 and ("alt", hostile) in read.attributes
    assert {"0.25", "[1, 2]"} <= set(read.texts)
    sources = [value for name, value in read.attributes if name in ("src", "href")]
    assert len(sources) == 1 and sources[0].startswith("data:image/png;base64,iVBOR")


def test_the_style_of_a_fragment_touches_nothing_else_in_a_notebook():
    read = Page(page.fragment(page.quiet("a")))
    rules = "".join(read.texts).partition("</style>")[0]
    assert all(line.startswith(".llmc ") for line in rules.splitlines() if line.endswith(("{", "}")) and line[0] != "}")


def test_numbers_of_a_table_have_the_format_that_is_asked_for():
    assert {"+0.25", "-1.00"} <= set(Page(page.table(["a", "b"], [(0.25, -1)], form="+.2f")).texts)


# --- pictures --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ending, begins", [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".SVG", b"<?xml")])
def test_the_ending_says_what_a_picture_is(tmp_path, ending, begins):
    picture.save(picture.blank(1, 1), tmp_path / f"a{ending}")
    assert (tmp_path / f"a{ending}").read_bytes().startswith(begins)


@pytest.mark.parametrize("name", ["a.gif", "png", "a.png.txt", ""])
def test_another_ending_is_refused_in_words(tmp_path, name):
    with pytest.raises(llmc.ConfigError, match=r"a picture is drawn as \.png, \.pdf or \.svg"):
        picture.save(picture.blank(1, 1), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


# --- bars ------------------------------------------------------------------------------------------------------------
def test_where_no_bar_is_seen_a_long_analysis_says_how_long_it_will_take(monkeypatch, capsys):
    now = iter([0.0, 100.0])
    monkeypatch.setattr(bar.time, "monotonic", lambda: next(now))
    with bar.Passes("cka", 8, None) as passes:
        for _ in range(3):
            passes.step()
    assert capsys.readouterr().err == "cka: 8 forward passes, about 05:00 left\n"


def test_times_are_written_as_a_bar_does():
    assert [bar.clock(seconds) for seconds in (0, 59.6, 3725)] == ["00:00", "01:00", "1:02:05"]
