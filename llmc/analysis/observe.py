"""One look at a forward pass: the shapes of every hook point, and what each did to every token."""

import numpy as np

STREAM = "@stream"


def observed(run, batch):
    """Run a batch forward.

    Parameters
    ----------
    run : llmc.run.Run
        Made with `observe=True`.
    batch : Batch

    Returns
    -------
    dict
        {name: (N, 6) float64} over the tokens that are not padding, in the columns that `metrics` names; the name of a
        branch with "@stream" behind: its output against the stream it joins.
    """
    run.forward(batch.ids, attention_mask=batch.mask)
    real = batch.real
    return {name: sums[real].astype(np.float64) for name, sums in run.observed().items()}
