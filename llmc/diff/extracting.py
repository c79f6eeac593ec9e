"""Extracting: the best low-rank adapter of what a full fine-tune changed, one matrix in memory at a time."""

import math
import os
from dataclasses import dataclass, field

import numpy as np

from llmc import checks
from llmc.calls import public
from llmc.diff.extraction import DTYPES, Extraction
from llmc.diff.linears import Linears
from llmc.diff.pairing import pairs_of
from llmc.diff.sides import sides
from llmc.diff.tensor_row import Wanted, row_of
from llmc.diff.truncation import METHODS, truncate
from llmc.errors import CheckpointError, ConfigError
from llmc.lora import LoraConfig
from llmc.show.bar import bar

RANK = 16  # where neither a rank nor a share is asked for
KEPT_WHOLE = ("embedding", "head", "norm")
_CHANGE = Wanted(("change",), "auto", 0, None)


@public
def extract_lora(base, tuned, *, out=None, rank=None, energy=None, target_modules="all-linear",
                 layers_to_transform=None, modules_to_save=None, dtype="float32", method="auto", seed=0, text=None,
                 tokenizer=None, max_tokens=512, disable_tqdm=None):  # fmt: skip
    """The best adapter of what a full fine-tune changed.

    Every targeted change is approximated at its rank as well as a matrix of that rank can, in the Frobenius norm (a
    truncated singular value decomposition). Tensors are matched as `diff` matches them.

    Parameters
    ----------
    base, tuned : as of `diff`
    out : path, optional
        Where peft's folder goes, with extraction.json beside; the same as `save`.
    rank : int, optional
        At most this rank; by default 16, with `energy` no limit. Of a small matrix its own min(out, in) is the limit.
    energy : float, optional
        Of each the smallest rank that keeps this share of the squared change.
    target_modules, layers_to_transform : as in LoraConfig
    modules_to_save : "changed" or list of str, optional
        "changed": the embeddings, head and norms that changed are kept whole; or those of a list.
    dtype : "float32", "bfloat16" or "float16"
        Of the factors.
    method : "auto", "exact" or "randomised"
        "auto": exact up to min(out, in) = 2048; "randomised": 8 dimensions more than the rank, 4 passes.
    seed : int
        Of the randomised method.
    text : str, list of str or ids, optional
        What the adapter is worth is measured on it.
    tokenizer : Tokenizer, optional
        By default that of either folder.
    max_tokens : int
        Of the text.
    disable_tqdm : bool, optional
        None: a bar on the standard error where somebody looks.

    Returns
    -------
    Extraction

    Raises
    ------
    ConfigError
        For a rank, a share or a word that is impossible; the message has the numbers.
    UnknownNameError
        When a target matches nothing.
    CheckpointError
        When nothing that is targeted changed, or holds numbers that are not finite.
    FileNotFoundError, ShapeError, TypeError
        When a side cannot be opened, or is none.
    """
    wanted = _Wanted(rank, energy, method, checks.whole(seed, "seed"), checks.one_of(dtype, "dtype", DTYPES))
    max_tokens = checks.whole(max_tokens, "max_tokens", 1)
    config = LoraConfig(r=1, lora_alpha=1, target_modules=target_modules, layers_to_transform=layers_to_transform,
                        modules_to_save=None if modules_to_save == "changed" else modules_to_save,
                        task_type="CAUSAL_LM")  # fmt: skip
    _check_out(out, base, tuned)
    first, second = sides(base, tuned)
    try:
        linears = Linears(first, config)
        wanted.check_rank(linears)
        found = _Found(wanted, linears, modules_to_save == "changed")
        for pair in _with_bar(pairs_of(first, second), disable_tqdm):
            found.observe(pair)
        found.finish()
        extraction = found.extraction(first)
    finally:
        second.close()
        first.close()
    if text is not None:
        from llmc.diff.worth import worth_of

        extraction.logits = worth_of(extraction, base, tuned, text, tokenizer, max_tokens)
    if out is not None:
        extraction.save(out)
    return extraction


class _Wanted:
    """How each matrix is approximated."""

    def __init__(self, rank, energy, method, seed, dtype):
        self.rank = None if rank is None else checks.whole(rank, "rank", 1)
        self.energy = None if energy is None else checks.number(energy, "energy", 0, 1, open_low=True)
        self.method, self.seed, self.dtype = checks.one_of(method, "method", METHODS), seed, DTYPES[dtype]

    def check_rank(self, linears):
        """Raise ConfigError for a rank above every target's own."""
        most = max(min(shape) for shape in linears.targets.values())
        if self.rank is not None and self.rank > most:
            raise ConfigError(f"rank is {self.rank}, and the largest min(out, in) of what is targeted is {most}; give "
                              f"at most that")

    def truncation(self, delta):
        """The Truncation of a change."""
        rank = RANK if self.rank is None and self.energy is None else self.rank
        return truncate(delta, rank, self.energy, self.method, self.seed)


@dataclass
class _Target:
    """What of a targeted module is together: one pair, or the pieces of a fused one."""

    shape: tuple
    pairs: list = field(default_factory=list)


class _Found:
    """What was found so far, pair by pair."""

    def __init__(self, wanted, linears, keeps_changed):
        self._wanted, self._linears, self._keeps_changed = wanted, linears, keeps_changed
        self._rows, self._factors, self._copies = [], {}, {}
        self._others, self._waiting = [], {}  # rows of a diff and their pairs; pieces of fused targets

    def observe(self, pair):
        """Take in a pair."""
        module = self._linears.module_of(pair)
        if module is None or pair.tuned is None or not pair.comparable:
            self._observe_other(pair)
            return
        waiting = self._waiting.setdefault(module, _Target(self._linears.targets[module]))
        waiting.pairs.append(pair)
        if sum(each.base.stored_shape[1 if each.in_out else 0] for each in waiting.pairs) >= waiting.shape[0]:
            self._extract(module, self._waiting.pop(module))

    def finish(self):
        """Extract what of a fused target had its other pieces nowhere."""
        for module in list(self._waiting):
            self._extract(module, self._waiting.pop(module))

    def _observe_other(self, pair):
        row = row_of(pair, _CHANGE)
        copied = self._linears.copy_of(pair) if row["status"] not in ("missing", "incomparable") else None
        changed = row["changed"] or row["nonfinite"]
        kept = copied and (self._linears.is_saved(copied) or self._keeps_changed and changed
                           and row["role"] in KEPT_WHOLE)
        if kept:
            self._copies[copied] = _whole(pair, self._linears.parameters[copied], self._wanted.dtype)
        self._others.append((row, bool(kept)))

    def _extract(self, module, target):
        factors = target.pairs[0].factors() if len(target.pairs) == 1 and not target.pairs[0].added else None
        delta = factors or _assembled(target)
        norm = _norm_of(delta)
        first = target.pairs[0]
        if not math.isfinite(norm):
            raise CheckpointError(f"{first.name}: the change holds numbers that are not finite, so it has no best "
                                  f"approximation; leave {module} out of target_modules")
        if first.added is not None:
            self._others.append((_grown(first), False))
        if norm == 0:
            return
        found = self._wanted.truncation(delta)
        A, B = (each.astype(self._wanted.dtype) for each in found.factors())
        self._factors[module] = A, B
        self._rows.append({
            "name": first.base.name, "module": module, "layer": first.layer,
            "part": first.part.removesuffix(".weight"), "shape": list(target.shape), "rank": len(found.sigma),
            "delta_norm": norm, "kept": found.kept, "error": _error(delta, A, B) / norm,
            "next_singular_value": found.following,
        })  # fmt: skip

    def extraction(self, base):
        """The Extraction it has come to."""
        if not self._rows:
            raise CheckpointError(f"nothing that target_modules means differs between the two "
                                  f"({len(self._linears.targets)} matrices), so there is nothing to extract")
        counted = [row for row, _ in self._others if row["role"] != "buffer"]
        once = {id(row) for row in _once(counted)}
        whole = math.fsum([row["delta_norm"] ** 2 for row in self._rows]
                          + [row["delta_norm"] ** 2 for row in counted if row["delta_norm"] and id(row) in once])
        held = math.fsum([row["kept"] * row["delta_norm"] ** 2 for row in self._rows]
                         + [row["delta_norm"] ** 2 for row, kept in self._others
                            if kept and row["delta_norm"] and id(row) in once])  # fmt: skip
        left_out = [entry for row, kept in self._others if row["role"] != "buffer"
                    for entry in _left_out(row, kept, whole)]  # fmt: skip
        ranks = {module: len(A) for module, (A, _) in self._factors.items()}
        config, copies = self._linears.adapter(ranks, self._copies, base)
        return Extraction(self._rows, left_out, held / whole, config, self._factors, copies)


def _once(rows):
    """The rows without a head that is the embedding once more; one that tuned alone has of its own counts."""
    norms = ("base_norm", "tuned_norm", "delta_norm")
    embeddings = [[row[key] for key in norms] for row in rows if row["role"] == "embedding" and row["delta_norm"]]
    return [row for row in rows if row["role"] != "head" or [row.get(key) for key in norms] not in embeddings]


def _assembled(target):
    """Δ of a module as (outputs, inputs), zero where the two have not both numbers."""
    deltas = [pair.delta() for pair in target.pairs]
    if len(deltas) == 1 and deltas[0].shape == target.shape:
        return deltas[0]
    whole, at = np.zeros(target.shape, deltas[0].dtype), 0
    for pair, delta in zip(target.pairs, deltas):
        first = pair.base.piece[1] if pair.base.piece else at
        whole[first : first + len(delta), : delta.shape[1]] = delta
        at += len(delta)
    return whole


def _norm_of(delta):
    if isinstance(delta, tuple):
        B, A = (each.astype(np.float64) for each in delta)
        return math.sqrt(max(float(np.sum((B.T @ B) * (A @ A.T))), 0.0))
    with np.errstate(over="ignore", invalid="ignore"):
        return math.sqrt(sum(float(np.square(rows, dtype=np.float64).sum()) for rows in _blocks(delta)))


def _error(delta, A, B):
    """||Δ − B A||, of the factors as they are saved."""
    A, B = A.astype(np.float64), B.astype(np.float64)
    if isinstance(delta, tuple):
        return _norm_of((np.hstack([delta[0].astype(np.float64), -B]), np.vstack([delta[1].astype(np.float64), A])))
    total, at = 0.0, 0
    for rows in _blocks(delta):
        total += float(np.square(rows - B[at : at + len(rows)] @ A).sum())
        at += len(rows)
    return math.sqrt(total)


def _blocks(matrix):
    return np.array_split(matrix, max(1, -(-matrix.size // (1 << 20))))


def _whole(pair, shape, dtype):
    """A tensor of the tuned side as the base's module has it: the base's own numbers where tuned has none."""
    if pair.tuned.shape == tuple(shape):
        return np.asarray(pair.tuned.read()).astype(dtype)
    whole = np.array(pair.base.side.read(pair.base.name)).astype(dtype)
    whole[tuple(map(slice, pair.tuned.shape))] = np.asarray(pair.tuned.read()).astype(dtype)
    return whole


def _grown(pair):
    """The row of what tuned alone has of a targeted matrix."""
    return {"name": pair.name, "role": pair.role, "base_norm": None, "tuned_norm": None, "delta_norm": None,
            "status": "identical", "changed": 0, "nonfinite": 0, "added": pair.added,
            "structure": pair.structure}  # fmt: skip


def _left_out(row, kept, whole):
    """What of a row of a diff the adapter does not hold."""
    changed = row["status"] in ("changed", "rounded", "permuted") and (row["changed"] or row["nonfinite"])
    norm = row["delta_norm"]
    share = norm**2 / whole if norm is not None else None
    entry = {"name": row["name"], "role": row["role"], "delta_norm": norm, "share": share}
    if row["status"] == "extra":
        yield entry | {"why": "tuned alone has it"}
    elif row["status"] == "missing":
        yield entry | {"why": "tuned has it not"}
    elif row["status"] == "incomparable":
        yield entry | {"why": "the two have other shapes, or numbers of another kind"}
    elif changed and not kept:
        yield entry | {"why": _why(row)}
    if row["added"] and any(more > 0 for more in row["added"]):
        more = " and ".join(f"{more} more along axis {axis}" for axis, more in enumerate(row["added"]) if more > 0)
        yield entry | {"delta_norm": None, "share": None, "why": f"tuned has {more}"}


def _why(row):
    if row["role"] in KEPT_WHOLE:
        return "no target, and not in modules_to_save"
    return "a vector, which low-rank factors cannot hold" if len(row["base_shape"]) != 2 else "no target"


def _check_out(out, base, tuned):
    """Raise ConfigError where the adapter would lie among the weights of a side."""
    for side in (base, tuned):
        path = side[0] if isinstance(side, tuple) and side else side
        if out is not None and isinstance(path, (str, os.PathLike)) and os.path.isdir(out) and os.path.isdir(path) \
                and os.path.samefile(out, path):  # fmt: skip
            raise ConfigError(f"out is {os.fspath(out)}, which is compared; give the adapter a folder of its own")


def _with_bar(pairs, disable_tqdm):
    """Every pair; the bar counts the bytes that are read."""
    sizes = [sum(math.prod(view.shape) * view.dtype.itemsize for view in (pair.base, pair.tuned) if view)
             for pair in pairs]  # fmt: skip
    shown = bar(disable_tqdm, total=sum(sizes), unit="B", unit_scale=True, desc="extract", dynamic_ncols=True,
                leave=False, delay=1.0)  # fmt: skip
    try:
        for pair, size in zip(pairs, sizes):
            yield pair
            if shown is not None:
                shown.update(size)
    finally:
        if shown is not None:
            shown.close()
