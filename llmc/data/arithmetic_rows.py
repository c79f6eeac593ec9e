"""Rows of the arithmetic task: from a number outwards, each step replacing a number by an operation of its value."""

import random

from llmc.data.arithmetic import CLOSE, EOS, EQUALS, MINUS, OPEN, OVER, PLUS, TIMES, ZERO

_PATIENCE = 10_000  # draws without a new row, after which the rows that are left are listed


def draw_rows(operands, samples, seed, modulus, excluded):
    """Rows that differ from each other.

    Parameters
    ----------
    operands, samples, seed, modulus : int
    excluded : set of tuple
        Rows that do not come.

    Returns
    -------
    list of tuple of int
        Fewer than `samples` only when there are no more.
    """
    generator = random.Random(seed)
    draw = _Drawing(generator.random, modulus)
    found, failed = {}, 0  # a dict keeps the order
    while len(found) < samples:
        row = draw.row(operands)
        if row in found or row in excluded:
            failed += 1
            if failed > _PATIENCE:
                left = sorted({*all_rows(operands, modulus)} - excluded - found.keys())
                generator.shuffle(left)
                return [*found, *left[: samples - len(found)]]
        else:
            found[row], failed = None, 0
    return list(found)


def most_rows(operands, modulus):
    """A number that rows of so many operands do not exceed: the ways to choose the steps, some of which meet."""
    zero = 5 * modulus - 2  # operations whose value is 0; of others there are fewer
    ways = modulus
    for numbers in range(1, operands):
        ways *= numbers * zero
    return ways


def all_rows(operands, modulus):
    """Every row, some of them more than once."""
    for value in range(modulus):
        yield from _grown(([ZERO + value],), operands - 1, modulus)


def _grown(history, steps, modulus):
    if not steps:
        yield _chain(history)
        return
    expression = history[-1]
    for place, token in enumerate(expression):
        if token >= ZERO:
            for operation in _operations(token - ZERO, modulus):
                yield from _grown((*history, _replaced(expression, place, *operation)), steps - 1, modulus)


def _operations(value, modulus):
    """Every operation (a, operator, b) with this value."""
    for a in range(modulus):
        yield a, PLUS, (value - a) % modulus
        yield a, MINUS, (a - value) % modulus
        if a:
            yield a, TIMES, value * pow(a, -1, modulus) % modulus
        elif not value:
            yield from ((a, TIMES, b) for b in range(modulus))
        if a and value:
            yield a, OVER, a * pow(value, -1, modulus) % modulus
        elif not a and not value:
            yield from ((a, OVER, b) for b in range(1, modulus))


class _Drawing:
    """Draws rows; `uniform` gives numbers from 0 up to 1."""

    def __init__(self, uniform, modulus):
        self._uniform, self._modulus = uniform, modulus

    def row(self, operands):
        history = [[ZERO + self._below(self._modulus)]]
        for _ in range(operands - 1):
            expression = history[-1]
            places = [place for place, token in enumerate(expression) if token >= ZERO]
            place = places[self._below(len(places))]
            history.append(_replaced(expression, place, *self._operation(expression[place] - ZERO)))
        return _chain(history)

    def _operation(self, value):
        """Its first number and operator are drawn until there is a second number."""
        modulus = self._modulus
        while True:
            a, operator = self._below(modulus), PLUS + self._below(4)
            if operator == PLUS:
                return a, operator, (value - a) % modulus
            if operator == MINUS:
                return a, operator, (a - value) % modulus
            if operator == TIMES and a:
                return a, operator, value * pow(a, -1, modulus) % modulus
            if operator == OVER and a and value:
                return a, operator, a * pow(value, -1, modulus) % modulus
            if not a and not value:
                return a, operator, self._below(modulus) if operator == TIMES else 1 + self._below(modulus - 1)

    def _below(self, limit):
        return int(self._uniform() * limit)


def _replaced(expression, place, a, operator, b):
    """The expression with an operation in the place of a number, in brackets where its value needs them."""
    before = expression[place - 1] if place else None
    after = expression[place + 1] if place + 1 < len(expression) else None
    sum_within = operator in (PLUS, MINUS) and (before in (MINUS, TIMES) or after in (TIMES, OVER))
    operation = [ZERO + a, operator, ZERO + b]
    if before == OVER or sum_within:
        operation = [OPEN, *operation, CLOSE]
    return expression[:place] + operation + expression[place + 1 :]


def _chain(history):
    """`expression = … = value <eos>` of expressions that grew from the value."""
    row = []
    for expression in reversed(history):
        row += expression
        row.append(EQUALS)
    row[-1] = EOS
    return tuple(row)
