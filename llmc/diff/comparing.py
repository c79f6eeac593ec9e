"""Comparing: two sides become a Diff, one pair of tensors in memory at a time."""

import math
import time

from llmc import checks
from llmc.calls import public
from llmc.diff import spectrum as spectra
from llmc.diff.differences import Diff
from llmc.diff.notes import notes_of
from llmc.diff.pairing import pairs_of
from llmc.diff.sides import sides
from llmc.diff.tensor_row import METRICS, Wanted, row_of
from llmc.diff.totals import by_key, summary
from llmc.errors import ConfigError, nearest, shown
from llmc.show.bar import bar


@public
def diff(base, tuned, *, match="*", rename=None, metrics=("change", "spectrum", "units"), spectrum="auto", top=10,
         text=None, tokenizer=None, max_tokens=512, disable_tqdm=None):  # fmt: skip
    """Compare two checkpoints: structure first, then content, tensor by tensor.

    Parameters
    ----------
    base, tuned : path, Checkpoint, Model, mapping, or a pair of one of these and the folder of an adapter
        `tuned` may be the folder of a peft adapter alone: then it is `base` with that adapter.
    match : str
        A glob of names, either side's.
    rename : dict of str to str, optional
        {regular expression: replacement} that make tuned's name of a base's.
    metrics : tuple of str
        Of "change", "spectrum", "units" and "intruders", which is slow; "all" is all of them.
    spectrum : "auto", "exact" or "randomised"
        How singular values are found; "auto": exactly, up to min(out, in) = 2048.
    top : int
        Units that are listed of each tensor.
    text : str, list of str, ids or SceneDataset, optional
        What the changed weights move is traced on it.
    tokenizer : Tokenizer, optional
        By default either folder's.
    max_tokens : int
        Of the text.
    disable_tqdm : bool, optional
        None: a bar on the standard error where somebody looks.

    Returns
    -------
    Diff

    Raises
    ------
    TypeError, ConfigError
        For what is no side, or a word that is none.
    FileNotFoundError, CheckpointError, ShapeError
        When a side cannot be opened or read.
    UnknownNameError
        When no name matches.
    """
    metrics = _metrics(metrics)
    checks.one_of(spectrum, "spectrum", spectra.METHODS)
    top, max_tokens = checks.whole(top, "top"), checks.whole(max_tokens, "max_tokens", 1)
    if not isinstance(match, str):
        raise TypeError(checks.wrong("match", match, "a glob of names"))
    begun = time.monotonic()
    first, second = sides(base, tuned)
    try:
        pairs = pairs_of(first, second, match, rename)
        spell = _speller(tokenizer, first, second) if "units" in metrics else None
        rows = _rows(pairs, Wanted(metrics, spectrum, top, spell), disable_tqdm)
        quantised = [word for word, side in (("base", first), ("tuned", second)) if _is_quantised(side)]
        labels = first.label, second.label
    finally:
        second.close()
        first.close()
    trace = None
    if text is not None:
        from llmc.diff.tracing import traced

        trace = traced(base, tuned, text, tokenizer, max_tokens, disable_tqdm)
    found = summary(*labels, rows, "spectrum" in metrics, time.monotonic() - begun)
    totals = (by_key(rows, key) for key in ("layer", "role", "part"))
    return Diff(found, rows, *totals, notes_of(rows, quantised), trace)


def _rows(pairs, wanted, disable_tqdm):
    """The rows of all pairs; the bar counts the bytes that are read."""
    sizes = [sum(math.prod(view.shape) * view.dtype.itemsize for view in (pair.base, pair.tuned) if view)
             for pair in pairs]  # fmt: skip
    shown_bar = bar(disable_tqdm, total=sum(sizes), unit="B", unit_scale=True, desc="diff", dynamic_ncols=True,
                    leave=False, delay=1.0)  # fmt: skip
    rows = []
    try:
        for pair, size in zip(pairs, sizes):
            rows.append(row_of(pair, wanted))
            if shown_bar is not None:
                shown_bar.update(size)
    finally:
        if shown_bar is not None:
            shown_bar.close()
    return rows


def _metrics(metrics):
    """The names of what is measured, in their order."""
    if metrics == "all":
        return METRICS
    names = (metrics,) if isinstance(metrics, str) else metrics
    if not isinstance(names, (tuple, list, set, frozenset)):
        raise TypeError(checks.wrong("metrics", metrics, f"some of {', '.join(METRICS)}"))
    for name in names:
        if name not in METRICS:
            near = nearest(str(name), METRICS) or "there are " + ", ".join(METRICS)
            raise ConfigError(f"metrics: there is no {shown(name)}; {near}")
    return tuple(name for name in METRICS if name in names)


def _is_quantised(side):
    return any(side.precision(name) is None for name in side.names())


def _speller(tokenizer, base, tuned):
    """A function from a token's id to its text; None where no tokenizer is there, or it has no such token."""
    if tokenizer is None:
        tokenizer = next(filter(None, (_tokenizer_of(side.folder) for side in (tuned, base))), None)
    if tokenizer is None:
        return lambda token: None
    size = len(tokenizer)  # embeddings may have more rows
    return lambda token: tokenizer.decode([token]) if token < size else None


def _tokenizer_of(folder):
    from llmc.tokenizer import Tokenizer
    from llmc.tokenizer.tokenizer_files import holds_tokenizer

    return Tokenizer.from_pretrained(folder) if folder and holds_tokenizer(folder) else None
