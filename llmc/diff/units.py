"""Units: which rows or columns of a matrix belong together, how much of the change each holds, which were exchanged."""

import hashlib
import math
from dataclasses import dataclass

import numpy as np

from llmc.checkpoint.roles import part

# The module's last name -> what its rows (0) or columns (1) of (out, in) are.
_HEADS = {0: ("q_proj", "k_proj", "v_proj", "query", "key", "value", "c_attn", "qkv_proj", "W_pack"),
          1: ("o_proj", "out_proj", "c_proj", "dense")}
_NEURONS = {0: ("gate_proj", "up_proj", "gate_up_proj", "c_fc", "fc1", "fc_in", "w1", "w3", "dense_h_to_4h"),
            1: ("down_proj", "c_proj", "fc2", "fc_out", "w2", "dense_4h_to_h")}
_POSITIONS = ("wpe", "positions_embed", "embed_positions", "position_embeddings")
_KEY_VALUE = ("k_proj", "v_proj", "key", "value")
_SLICED = {"c_attn": "qkv", "qkv_proj": "qkv", "gate_up_proj": ("gate", "up")}
_SHARE = 0.9


@dataclass(frozen=True)
class Slice:
    """Rows of (out, in) that belong together: "q" of a fused matrix, or all of one that is not."""

    name: str | None
    first: int
    last: int
    units: int


@dataclass(frozen=True)
class Units:
    """How a matrix is grouped.

    Attributes
    ----------
    kind : str
        "token", "position", "head", "neuron" or "row".
    axis : int
        Of (out, in): 0 rows, 1 columns.
    slices : tuple of Slice
        In their order; one without a name where the matrix is not fused.
    """

    kind: str
    axis: int
    slices: tuple

    @property
    def count(self):
        """How many units there are."""
        return sum(each.units for each in self.slices)

    @property
    def are_named(self):
        """Whether the matrix is fused."""
        return self.slices[0].name is not None

    def bounds(self):
        """(U + 1,) the first place of each unit along the axis, and the end."""
        starts = [np.linspace(each.first, each.last, each.units, endpoint=False).astype(np.int64)
                  for each in self.slices]  # fmt: skip
        return np.concatenate([*starts, [self.slices[-1].last]])

    def place(self, unit):
        """(the slice's name, the unit's number within it)"""
        for each in self.slices:
            if unit < each.units:
                return each.name, unit
            unit -= each.units
        raise IndexError(unit)


def units_of(pair):
    """The Units of a pair's matrix, as its module's name, its shape and either side's config say."""
    shape = pair.shape[::-1] if pair.in_out else pair.shape
    view = pair.tuned if pair.base.piece else pair.base
    module = part(view.name).rpartition(".")[2]
    role = pair.role
    if role in ("embedding", "head"):
        return _plain("position" if module in _POSITIONS else "token", 0, shape)
    for axis in (0, 1):
        if role == "attention" and module in _HEADS[axis]:
            return _heads(pair, module, axis, shape)
    for axis in (0, 1):
        if role == "feed-forward" and module in _NEURONS[axis]:
            names = _SLICED.get(module) if _is_whole(pair) and shape[0] % 2 == 0 else None
            return Units("neuron", axis, _cut(names, [shape[0] // 2] * 2, [shape[0] // 2] * 2)) if names \
                else _plain("neuron", axis, shape)  # fmt: skip
    return _plain("row", 0, shape)


def _plain(kind, axis, shape):
    return Units(kind, axis, (Slice(None, 0, shape[axis], shape[axis]),))


def _is_whole(pair):
    return pair.base.piece is None and pair.tuned.piece is None


def _cut(names, sizes, units):
    ends = np.cumsum(sizes).tolist()
    return tuple(Slice(name, end - size, end, count) for name, size, end, count in zip(names, sizes, ends, units))


def _heads(pair, module, axis, shape):
    """Heads, counted by a config.json; rows where there is none, or where it does not fit."""
    queries, groups, size = _head_counts(pair)
    if module in _SLICED and _is_whole(pair):
        if queries and shape[0] == (queries + 2 * groups) * size:
            return Units("head", 0, _cut("qkv", [queries * size, groups * size, groups * size],
                                         [queries, groups, groups]))  # fmt: skip
        if shape[0] == 3 * shape[1]:
            return Units("row", 0, _cut("qkv", [shape[0] // 3] * 3, [shape[0] // 3] * 3))
        return _plain("row", 0, shape)
    count = groups if module in _KEY_VALUE else queries
    if not count or shape[axis] % count or size and shape[axis] != count * size:
        return _plain("row", 0, shape)
    return Units("head", axis, (Slice(None, 0, shape[axis], count),))


def _head_counts(pair):
    """(query heads, key and value heads, size of a head) of either side's config; None where none says so."""
    for view in (pair.base, pair.tuned):
        config = view.side.config
        queries = _number(config, "num_attention_heads", "n_head", "num_heads")
        if not queries:
            continue
        groups = _number(config, "num_key_value_heads", "num_kv_heads") or queries
        width = _number(config, "hidden_size", "n_embd", "d_model")
        size = _number(config, "head_dim") or (width // queries if width and width % queries == 0 else None)
        if size:
            return queries, groups, size
    return None, None, None


def _number(config, *names):
    found = next((config[name] for name in names if config.get(name) is not None), None)
    return found if isinstance(found, int) and not isinstance(found, bool) and found > 0 else None


def unit_sums(units, sums, in_out):
    """(U, 3) Σb², Σt², ΣΔ² of each unit."""
    along_rows = (units.axis == 0) != in_out
    table = sums.rows[:, :3] if along_rows else sums.columns
    bounds = units.bounds()
    if len(bounds) - 1 == len(table):
        return table
    return np.add.reduceat(table, bounds[:-1], axis=0) if len(table) else np.zeros((0, 3))


def moved(units, table, top, text):
    """(`units_90`, `moved`) of a diff's row.

    Parameters
    ----------
    units : Units
    table : (U, 3)
        As of `unit_sums`.
    top : int
    text : callable
        From a token's id to its text or None.
    """
    squares = table[:, 2]
    total = float(squares.sum())
    if not total:
        return 0, []
    order = np.argsort(-squares, kind="stable")
    enough = int(np.searchsorted(np.cumsum(squares[order]) / total, _SHARE)) + 1
    return min(enough, len(order)), [_moved(units, int(at), table[at], total, text) for at in order[:top]
                                     if squares[at] > 0]  # fmt: skip


def _moved(units, at, sums, total, text):
    name, index = units.place(at)
    base, change = math.sqrt(float(sums[0])), math.sqrt(float(sums[2]))
    return {"slice": name, "index": index, "text": text(index) if units.kind == "token" else None, "base_norm": base,
            "change": change, "relative_change": change / base if base else None, "share": float(sums[2]) / total}


def permutation(pair, units, table):
    """Which unit of the base each unit of tuned has the bits of; None where they are not the base's, exchanged."""
    if units.count < 2 or not np.array_equal(np.sort(table[:, 0]), np.sort(table[:, 1])):
        return None  # nobody who has the same units, in any order, has other norms
    here, there = (_digests(view, units, pair.in_out) for view in (pair.base, pair.tuned))
    places = {}
    for at, digest in enumerate(here):
        places.setdefault(digest, []).append(at)
    found = []
    for at, digest in enumerate(there):
        free = places.get(digest)
        if not free:
            return None
        found.append(free.pop(free.index(at) if at in free else 0))
    return None if found == list(range(units.count)) else found


def _digests(view, units, in_out):
    """A digest of the numbers of each unit; 0 and -0 are one number."""
    matrix = view.read()
    matrix = matrix.T if in_out else matrix
    matrix = matrix.T if units.axis else matrix
    bounds = units.bounds()
    return [hashlib.blake2b(np.ascontiguousarray(matrix[first:last].astype(np.float64) + 0.0).tobytes(),
                            digest_size=16).digest() for first, last in zip(bounds, bounds[1:])]  # fmt: skip
