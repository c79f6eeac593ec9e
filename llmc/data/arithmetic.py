"""Arithmetic: expressions over a prime field as token ids, and what they come to (the task of Feng et al., 2023)."""

import math
import re

from llmc.calls import public
from llmc.checks import whole
from llmc.errors import ConfigError, DataError, shown

SYMBOLS = ("<pad>", "<cls>", "<eos>", "+", "-", "*", "/", "(", ")", "=")
PAD, CLS, EOS, PLUS, MINUS, TIMES, OVER, OPEN, CLOSE, EQUALS = range(len(SYMBOLS))
ZERO = len(SYMBOLS)  # the id of 0; behind it the other numbers

_WORD = re.compile(r"\s*(<\w+>|\d+|\S)")
_BINDS = {PLUS: 1, MINUS: 1, TIMES: 2, OVER: 2}


def field(modulus):
    """A modulus, checked: the numbers below it are a field when it is prime."""
    modulus = whole(modulus, "modulus", 2)
    divisor = next((each for each in range(2, math.isqrt(modulus) + 1) if modulus % each == 0), None)
    if divisor:
        raise ConfigError(f"modulus is {modulus}, a multiple of {divisor}; a prime is needed, so that all division "
                          f"but by 0 has one result")
    return modulus


@public
def vocabulary(modulus=11):
    """The tokens, each where its id says: <pad> <cls> <eos> + - * / ( ) = and the numbers below `modulus`.

    Returns
    -------
    list of str
    """
    return [*SYMBOLS, *map(str, range(field(modulus)))]


@public
def encode(text, modulus=11):
    """The ids of a text; numbers are tokens as wholes, spaces are skipped.

    Parameters
    ----------
    text : str
        `"(7+5)/(6+4*3-2*7)="`
    modulus : int
        A prime.

    Returns
    -------
    list of int

    Raises
    ------
    DataError
        For what is no token; the message says where it stands.
    """
    modulus = field(modulus)
    if not isinstance(text, str):
        raise TypeError(f"encode takes a text, not {type(text).__name__}")
    ids = []
    for match in _WORD.finditer(text.rstrip()):
        word = match[1]
        if word in SYMBOLS:
            ids.append(SYMBOLS.index(word))
        elif word.isascii() and word.isdigit() and len(word) <= 10 and int(word) < modulus:
            ids.append(ZERO + int(word))
        else:
            raise DataError(f"{shown(text)}: {shown(word)} at character {match.start(1)} is no token; there are "
                            f"+ - * / ( ) = and the numbers from 0 to {modulus - 1}")
    return ids


@public
def decode(ids, modulus=11):
    """The text of ids, without <pad> and <eos>.

    Parameters
    ----------
    ids : iterable of int
    modulus : int
        A prime.

    Returns
    -------
    str

    Raises
    ------
    DataError
        For an id that is none of the vocabulary.
    """
    return "".join(_word(each) for each in _checked(ids, field(modulus)) if each not in (PAD, EOS))


@public
def evaluate(expression, modulus=11):
    """What an expression comes to in the field of `modulus`: * and / before + and -, else from left to right.

    Parameters
    ----------
    expression : str or iterable of int
        A text or ids; an `=` may stand at its end.
    modulus : int
        A prime.

    Returns
    -------
    int

    Raises
    ------
    DataError
        For what is no expression, and for a division by 0.
    """
    modulus = field(modulus)
    ids = encode(expression, modulus) if isinstance(expression, str) else _checked(expression, modulus)
    ids = [each for each in ids if each not in (PAD, EOS)]
    return _value(ids[:-1] if ids and ids[-1] == EQUALS else ids, modulus)


def _word(number):
    return SYMBOLS[number] if number < ZERO else str(number - ZERO)


def _checked(ids, modulus):
    """Ids as a list of int, each of the vocabulary."""
    if isinstance(ids, (str, bytes)) or not hasattr(ids, "__iter__"):
        raise TypeError(f"ids are whole numbers in a row, not {type(ids).__name__}")
    return [whole(each, "a token id", 0, ZERO + modulus - 1, impossible=DataError) for each in ids]


def _value(ids, modulus):
    """The value of the ids of an expression, by two stacks: numbers, and what waits for its right side."""
    numbers, waiting = [], []

    def wrong(why):
        return DataError(f"{shown(''.join(map(_word, ids)))}: {why}")

    def apply():
        operator, right, left = waiting.pop(), numbers.pop(), numbers.pop()
        if operator == OVER and right == 0:
            raise wrong("a division by 0 has no value")
        numbers.append(operate(left, operator, right, modulus))

    number_next = True
    for place, each in enumerate(ids):
        if number_next != (each >= ZERO or each == OPEN):
            raise wrong(f"a number {'has to stand' if number_next else 'cannot stand'} at token {place}")
        if each >= ZERO:
            numbers.append(each - ZERO)
        elif each == OPEN:
            waiting.append(each)
        elif each == CLOSE:
            while waiting and waiting[-1] != OPEN:
                apply()
            if not waiting:
                raise wrong(f"nothing is open where ) closes at token {place}")
            waiting.pop()
        elif each in _BINDS:
            while waiting and _BINDS.get(waiting[-1], 0) >= _BINDS[each]:
                apply()
            waiting.append(each)
        else:
            raise wrong(f"{_word(each)} at token {place} is no part of an expression")
        number_next = each in _BINDS or each == OPEN
    if number_next:
        raise wrong("a number has to stand at its end")
    while waiting:
        if waiting[-1] == OPEN:
            raise wrong("a ( is not closed")
        apply()
    return numbers[0]


def operate(left, operator, right, modulus):
    """One operation on two numbers of the field."""
    if operator == PLUS:
        return (left + right) % modulus
    if operator == MINUS:
        return (left - right) % modulus
    return left * (right if operator == TIMES else pow(right, -1, modulus)) % modulus
