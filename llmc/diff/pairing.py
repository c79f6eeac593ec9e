"""Pairing: which tensor of one side is which of the other, and how the two stand differently."""

import fnmatch
import math
import re
from dataclasses import replace

from llmc.checkpoint.names import bare_name
from llmc.checkpoint.roles import role
from llmc.diff.pair import Pair
from llmc.diff.same_numbers import match_by_numbers
from llmc.diff.sides import is_float
from llmc.diff.view import View
from llmc.errors import ConfigError, UnknownNameError, nearest, shown

# A fused tensor's name, and those of its pieces, in the order of its rows.
FUSED = (("qkv_proj", ("q_proj", "k_proj", "v_proj")), ("W_pack", ("q_proj", "k_proj", "v_proj")),
         ("gate_up_proj", ("gate_proj", "up_proj")))


def pairs_of(base, tuned, match="*", rename=None):
    """The pairs that two sides are made of: the base's in its order, then what only the tuned one has.

    Parameters
    ----------
    base, tuned : Side
    match : str
        A glob of names, either side's.
    rename : dict of str to str, optional
        {regular expression: replacement} that make a tuned name of a base's.

    Returns
    -------
    list of Pair

    Raises
    ------
    UnknownNameError
        When no name matches.
    ConfigError
        When a regular expression is none.
    """
    pairs = _Pairing(base, tuned).all(_renamer(rename))
    chosen = [pair for pair in pairs if any(fnmatch.fnmatchcase(name, match) for name in _names(pair))]
    if pairs and not chosen:
        names = list(dict.fromkeys(name for pair in pairs for name in _names(pair)))
        raise UnknownNameError(f"match {match!r}: no tensor of either side is called so; "
                               f"{nearest(match, names[:2000]) or f'there are {len(pairs)} others'}")
    return chosen


def _names(pair):
    return [name for name in (pair.name, pair.tuned_name) if name]


class _Pairing:
    """The names of both sides that have no counterpart yet."""

    def __init__(self, base, tuned):
        self.base, self.tuned = base, tuned
        self.left, self.right = dict.fromkeys(base.names()), dict.fromkeys(tuned.names())
        self.order = {name: at for at, name in enumerate(self.left)}
        self.tuned_order = {name: at for at, name in enumerate(self.right)}
        self.found = []  # (place, Pair)

    def all(self, rename):
        """Every pair, by place."""
        self._pair_named(rename)
        self._pair_named(lambda name: name)
        self._pair_bare()
        for fused, pieces in FUSED:
            self._pair_fused(fused, pieces)
        self._pair_tied()
        self._pair_by_numbers()
        for name in self.left:
            self._add(name, Pair(View(self.base, name), None))
        for name in self.right:
            self.found.append((self._behind(name), Pair(None, View(self.tuned, name))))
        return [pair for _, pair in sorted(self.found, key=lambda found: found[0])]

    def _add(self, name, pair):
        self.found.append((self.order[name], pair))

    def _take(self, name, other):
        """Pair two names that stand alone."""
        del self.left[name], self.right[other]
        self._add(name, compared(View(self.base, name), View(self.tuned, other)))

    def _pair_named(self, rename):
        for name in list(self.left):
            if (other := rename(name)) in self.right:
                self._take(name, other)

    def _pair_bare(self):
        """By the names without what wrappers add; one that several have is left alone."""
        here, there = ({}, {})
        for names, found in ((self.left, here), (self.right, there)):
            for name in names:
                found.setdefault(bare_name(name), []).append(name)
        for bare, names in here.items():
            if len(names) == 1 == len(there.get(bare, ())):
                self._take(names[0], there[bare][0])

    def _pair_fused(self, fused, pieces):
        """A fused tensor of one side with its pieces on the other, either way."""
        for whole, others, word in ((self.right, self.left, "fused"), (self.left, self.right, "split")):
            whole_side, side = (self.tuned, self.base) if word == "fused" else (self.base, self.tuned)
            known = {bare_name(name): name for name in others}
            for name in list(whole):
                stem, dot, leaf = name.rpartition(".")
                if stem.rpartition(".")[2] != fused:
                    continue
                names = [known.get(bare_name(f"{stem[: -len(fused)]}{piece}{dot}{leaf}")) for piece in pieces]
                if all(names) and (views := _pieces(whole_side, name, side, names)):
                    del whole[name]
                    for each, view in zip(names, views):
                        del others[each]
                        self._add_piece(name, each, view, word)

    def _add_piece(self, whole, name, view, word):
        if word == "fused":
            pair = compared(View(self.base, name), view, word)
            self._add(name, pair)
        else:
            self._add(whole, compared(view, View(self.tuned, name), word))

    def _pair_tied(self):
        """A head that one side alone stores with the other's embedding, under the head's name."""
        for names, side, other in ((self.left, self.base, self.tuned), (self.right, self.tuned, self.base)):
            heads = [name for name in names if role(name) == "head" and name.endswith(".weight")]
            embedding = _embedding(other, other.shape, side.shape(heads[0])) if len(heads) == 1 else None
            if embedding is None or any(role(name) == "head" and name.endswith(".weight") for name in other.names()):
                continue
            head = heads[0]
            del names[head]
            if side is self.base:
                self._add(head, compared(View(side, head), View(other, embedding), "tied"))
            else:
                pair = compared(View(other, embedding), View(side, head), "tied")
                pair.title = head
                self.found.append((self._behind(head), pair))

    def _behind(self, name):
        """The place of a tensor that the tuned side alone has."""
        return len(self.order) + self.tuned_order[name]

    def _pair_by_numbers(self):
        for name, other in match_by_numbers(self.base, list(self.left), self.tuned, list(self.right)):
            self._take(name, other)


def _embedding(side, shape, head_shape):
    """The name of the token embedding of a side: of those of the head's width, the one with most rows."""
    names = [name for name in side.names() if role(name) == "embedding" and name.endswith(".weight")
             and len(shape(name)) == 2 and shape(name)[1:] == head_shape[1:]]
    return max(names, key=lambda name: shape(name)[0], default=None)


def _pieces(side, name, other, names):
    """Views of the pieces of a fused tensor, one for each of the other side's; None where sizes say otherwise."""
    axis = 1 if side.lies_in_out(name) else 0
    sizes = [_outputs(other, each) for each in names]
    shape = side.shape(name)
    if not 1 <= len(shape) <= 2 or None in sizes or sum(sizes) != shape[axis]:
        return None
    at, views = 0, []
    for size in sizes:
        views.append(View(side, name, piece=(axis, at, at + size)))
        at += size
    return views


def _outputs(side, name):
    shape = side.shape(name)
    if not 1 <= len(shape) <= 2:
        return None
    return shape[1] if side.lies_in_out(name) else shape[0]


def compared(base, tuned, word=None):
    """The Pair of two views, in the base's layout, with what of their structure names, shapes and dtypes say."""
    pair = Pair(base, tuned)
    if word:
        pair.add(word)
    elif base.name != tuned.name:
        pair.add("renamed")
    if base.dtype != tuned.dtype:
        pair.add("dtype")
    if is_float(base.dtype) != is_float(tuned.dtype) or "c" in (base.dtype.kind, tuned.dtype.kind):
        pair.comparable = False
        return pair
    return _shaped(pair)


def _shaped(pair):
    """The pair with its tuned view in the base's layout, and both cut to the part that they share."""
    here, there = pair.base.shape, pair.tuned.shape
    if here == there:
        return pair
    if len(here) == len(there) == 2 and (here == there[::-1] or _differ(here, there) == 2 > _differ(here, there[::-1])):
        pair = _turned(pair)
        there = pair.tuned.shape
    if here == there:
        return pair
    if len(here) == len(there) and _differ(here, there) == 1:
        axis = next(axis for axis, size in enumerate(here) if size != there[axis])
        pair.added = [other - size for size, other in zip(here, there)]
        common = min(here[axis], there[axis])
        pair.base, pair.tuned = (replace(view, cut=(axis, common)) for view in (pair.base, pair.tuned))
        pair.add("resized")
    elif math.prod(here) == math.prod(there):
        pair.tuned = replace(pair.tuned, form=here)
        pair.add("reshaped")
    else:
        pair.comparable = False
    return pair


def _turned(pair):
    pair.tuned = pair.tuned.turned()
    pair.add("transposed")
    return pair


def _differ(here, there):
    return sum(one != other for one, other in zip(here, there))


def _renamer(rename):
    """What a base's name becomes by `rename`; without it no name becomes any."""
    rules = []
    for pattern, replacement in (rename or {}).items():
        if not isinstance(pattern, str) or not isinstance(replacement, str):
            raise TypeError(f"rename is {{regular expression: replacement}} of texts, not {shown(rename)}")
        try:
            rules.append((re.compile(pattern), replacement))
        except re.error as error:
            raise ConfigError(f"rename {shown(pattern)} is not a regular expression: {error}") from None

    def renamed(name):
        made = name
        for pattern, replacement in rules:
            try:
                made = pattern.sub(replacement, made)
            except (re.error, IndexError) as error:
                raise ConfigError(f"rename {shown(pattern.pattern)}: {shown(replacement)} cannot replace it: "
                                  f"{error}") from None
        return made if made != name else None

    return renamed
