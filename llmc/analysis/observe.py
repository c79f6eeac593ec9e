"""One look at a forward pass: the shapes of every hook point, and what each did to every token."""

import numpy as np

from llmc.analysis.metrics import sums_of

STREAM = "@stream"


def observed(run, batch, adapters):
    """Run a batch forward.

    Parameters
    ----------
    run : llmc.run.Run
        Made with `observe=True`, and keeping the linears of the adapters.
    batch : Batch
    adapters : Adapters

    Returns
    -------
    dict
        {name: (N, 6) float64} over the tokens that are not padding, in the columns that `metrics` names; the name of a
        branch with "@stream" behind: its output against the stream it joins.
    """
    run.forward(batch.ids, attention_mask=batch.mask)
    real = batch.real
    found = {name: sums[real].astype(np.float64) for name, sums in run.observed().items()}
    for name in adapters.names:
        read, given = adapters.flow(run, name)
        found[name] = sums_of(read[real], given[real])
    return found
