"""One look at a forward pass: the shapes of every hook point, and what each did to every token."""

import numpy as np

from llmc.analysis.metrics import sums_of

STREAM = "@stream"


def observed(run, batch, adapters, piece):
    """Run a batch forward.

    Parameters
    ----------
    run : llmc.run.Run
        Made with `observe=True`, and keeping the linears of the adapters.
    batch : Batch
    adapters : Adapters
    piece : int
        How many tokens of a row are read at once; where the batch has more, the run keeps their past.

    Returns
    -------
    sums : dict
        {name: (N, 6) float64} over the tokens that count, in the columns that `metrics` names; the name of a branch
        with "@stream" behind: its output against the stream it joins.
    positions : (N,)
        Which token of its row each is.
    """
    counted, places, seen, positions = batch.counted, batch.positions, [], []
    for read in _pieces(run, batch, piece):
        seen.append(_seen(run, counted[:, read], adapters))
        positions.append(places[:, read][counted[:, read]])
    return {name: np.concatenate([each[name] for each in seen]) for name in seen[0]}, np.concatenate(positions)


def _pieces(run, batch, piece):
    """Reads a batch piece by piece; yields which tokens each had, when it has been read."""
    whole, length = run._arguments(batch.ids, None, batch.mask, None, None, ()), batch.ids.shape[1]
    run._core.trim(0)
    for start in range(0, length, piece):
        read = slice(start, start + piece)
        part = {name: None if whole[name] is None else np.ascontiguousarray(whole[name][:, read])
                for name in ("ids", "positions", "mask")}  # fmt: skip
        run._core.forward(**{**whole, **part, "shape": part["ids"].shape}, until=None, last=0)
        yield read


def _seen(run, counted, adapters):
    """What a pass did to its tokens that count."""
    found = {name: sums[counted].astype(np.float64) for name, sums in run.observed().items()}
    for name in adapters.names:
        read, given = adapters.flow(run, name)
        found[name] = sums_of(read[counted], given[counted])
    return found
