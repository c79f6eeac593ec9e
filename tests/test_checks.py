"""Checks of one value: what is taken, and the sentence in which anything else is refused."""

import decimal
import math

import numpy as np
import pytest

from llmc import ConfigError, DataError
from llmc.checks import LARGEST, flag, number, one_of, whole


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3)])
def test_a_whole_number_of_any_kind_comes_back_as_an_int(value):
    assert whole(value, "n") == 3 and type(whole(value, "n")) is int


@pytest.mark.parametrize("value", [3.0, "3", None, True, np.bool_(True), [3], np.array([3, 4]), decimal.Decimal(3)])
def test_what_is_no_whole_number_is_a_type_error(value):
    with pytest.raises(TypeError, match="^n is .*, not a whole number$"):
        whole(value, "n")
    with pytest.raises(ConfigError, match="^n is .*, not a whole number$"):
        whole(value, "n", mistyped=ConfigError)


@pytest.mark.parametrize("value, limits, what", [
    (-1, {}, "at least 0"), (LARGEST + 1, {}, f"at most {LARGEST}"), (1, {"least": 2}, "at least 2"),
    (9, {"most": 8}, "at most 8"), (-(10**30), {"most": None}, "at least 0"),
])  # fmt: skip
def test_a_whole_number_out_of_range_names_the_limit_it_is_beyond(value, limits, what):
    with pytest.raises(ConfigError, match=rf"^n is {value}.*, not a whole number of {what}$"):
        whole(value, "n", **limits)
    with pytest.raises(DataError):
        whole(value, "n", impossible=DataError, **limits)


def test_numbers_may_be_without_end():
    assert whole(10**300, "n", most=None) == 10**300 and number(10**300, "x") == 10**300


@pytest.mark.parametrize("value", [1, 0.5, np.float32(0.5), np.int16(1)])
def test_a_number_comes_back_as_python_has_it(value):
    assert number(value, "x") == value and type(number(value, "x")) in (int, float)


@pytest.mark.parametrize("limits, outside, what", [
    ({}, [math.nan, math.inf, 10**400], "a finite number"),
    ({"high": 1}, [1.1, math.nan], "a number at most 1"),
    ({"low": 0}, [-0.1, math.nan, math.inf], "a finite number of at least 0"),
    ({"low": 0, "open_low": True}, [0, -1], "a finite number above 0"),
    ({"low": 0, "high": 1}, [-1, 1.5, math.nan, 10**400], "a number from 0 to 1"),
    ({"low": 0, "high": 1, "open_low": True}, [0, 1.5], "a number above 0 and at most 1"),
    ({"low": 0, "high": 1, "open_high": True}, [1, -1], "a number of at least 0 and below 1"),
])  # fmt: skip
def test_a_number_out_of_range_is_told_the_range(limits, outside, what):
    for value in outside:
        with pytest.raises(ConfigError, match=rf"^x is .*, not {what}$"):
            number(value, "x", **limits)
    for value in ("1", None, True, 1j, [1]):
        with pytest.raises(TypeError, match=rf"^x is .*, not {what}$"):
            number(value, "x", **limits)


def test_a_value_too_long_for_a_line_is_cut():
    with pytest.raises(TypeError) as caught:
        number("9" * 5000, "x")
    assert len(str(caught.value)) < 250


def test_a_word_is_one_of_those_there_are():
    assert one_of("a", "word", ("a", "b")) == "a"
    for value in ("c", None, 1, ["a"]):
        with pytest.raises(ConfigError, match="^word is .*, not one of a, b$"):
            one_of(value, "word", ("a", "b"))


def test_a_flag_is_true_or_false():
    assert flag(np.bool_(True), "f") is True and flag(False, "f") is False
    for value in (1, None, "true"):
        with pytest.raises(TypeError, match="^f is .*, not true or false$"):
            flag(value, "f")
