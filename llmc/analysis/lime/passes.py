"""What modules give while a model reads texts, piece by piece: a pass is of a few thousand tokens at most."""

import numpy as np

from llmc.run import Run

TOKENS = 4096  # in a pass; more are not faster
LOGITS = 1 << 25  # numbers a run has room for although they are never formed


def outputs(model, texts, names):
    """Read texts and look at modules.

    Parameters
    ----------
    model : Model
    texts : iterable of Text
        Rows of which no token counts are not read.
    names : list of str
        Hook points in the order of a pass, which goes no further than the last of them where it can.

    Yields
    ------
    (places, views)
        Which tokens of which rows of the text these are, (n, t) booleans: those that count among what was read; and of
        each name a view (n, t, width), which holds until the next one is asked for. The rows are those that count, in
        their order.
    """
    reader = _Reader(model, names)
    for text in texts:
        rows = np.flatnonzero(text.chosen.any(axis=1))
        length = text.ids.shape[1]
        at_once = max(reader.tokens // length, 1)
        for first in range(0, len(rows), at_once):
            taken = rows[first : first + at_once]
            yield from reader.read(text.ids[taken], None if text.mask is None else text.mask[taken], text.chosen[taken])


class _Reader:
    """A run that is large enough for what is to be read."""

    def __init__(self, model, names):
        self._model, self._names, self._run, self._size = model, names, None, (0, 0, 0)
        self.tokens = max(min(TOKENS, LOGITS // model.config.vocab_size), 1)

    def read(self, ids, mask, chosen):
        length = ids.shape[1]
        piece = min(length, max(self.tokens // len(ids), 1))
        run = self._run_for(len(ids), piece, length if piece < length else 0)
        whole = run._arguments(ids, None, mask, None, None, ())
        until = self._names[-1] if piece == length else None  # what is read on behind has to be read to its end
        run._core.trim(0)
        for start in range(0, length, piece):
            read = slice(start, start + piece)
            part = {name: None if whole[name] is None else np.ascontiguousarray(whole[name][:, read])
                    for name in ("ids", "positions", "mask")}  # fmt: skip
            run._core.forward(**{**whole, **part, "shape": part["ids"].shape}, until=until, last=1)
            yield chosen[:, read], [run.output(name) for name in self._names]

    def _run_for(self, *size):
        wanted = tuple(map(max, zip(self._size, size)))
        if wanted != self._size:
            self._run = None  # its memory, before more is taken
            self._run, self._size = Run(self._model, *wanted[:2], past=wanted[2], keep=self._names), wanted
        return self._run
