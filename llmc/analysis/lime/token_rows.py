"""Token rows: the occurrences of some tokens in texts, as many of each, and what they are in every layer."""

from dataclasses import replace

import numpy as np

from llmc.analysis.lime.representations import gathered
from llmc.analysis.lime.separability import require_rows
from llmc.checks import whole
from llmc.errors import DataError


def token_rows(model, given, tokens, of, count, least):
    """Representations of tokens.

    Parameters
    ----------
    model : Model
    given : list of Text
    tokens : list of int
    of : str
    count : int or None
        The most rows of a token.
    least : int
        The fewest that will do.

    Returns
    -------
    rows : (L, len(tokens) * n, width) float32
        One token after the other as listed, each in reading order: its first n occurrences, n being those of the rarest
        token, or `count` where that is fewer.
    n : int

    Raises
    ------
    DataError
        When a token does not occur, or fewer than `least` times.
    """
    most = None if count is None else whole(count, "count", 1)
    found = {token: sum(int(np.count_nonzero(text.ids[text.chosen] == token)) for text in given) for token in tokens}
    for token, occurrences in found.items():
        if not occurrences:
            raise DataError(f"token {token} does not occur in the text; give more text, or another token")
    n = min(min(found.values()), most or min(found.values()))
    require_rows({token: min(occurrences, n) for token, occurrences in found.items()}, least, "token")
    chosen, left = [], dict.fromkeys(tokens, n)
    for text in given:
        chosen.append(replace(text, chosen=_first_of(text, left)))
    order = np.concatenate([text.ids[text.chosen] for text in chosen])
    rows = np.concatenate([np.flatnonzero(order == token) for token in tokens])
    return gathered(model, chosen, of)[:, rows], n


def _first_of(text, left):
    """Which tokens of a text are taken; `left`, what is still to be taken of each, falls."""
    taken = np.zeros(text.ids.shape, bool)
    for token, count in left.items():
        places = np.argwhere(text.chosen & (text.ids == token))[:count]
        taken[places[:, 0], places[:, 1]] = True
        left[token] = count - len(places)
    return taken
