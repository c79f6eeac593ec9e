"""Ablation, the ground truth: how much the loss rises when a block or a branch is left out; passes of its own."""

import math

from llmc.errors import DataError


def measure_ablation(run, batch, measurement, step):
    """Add to the measurement, for every block and branch, the loss without it minus the loss.

    Parameters
    ----------
    run : llmc.run.Run
    batch : Batch
    measurement : Measurement
    step : callable
        Called after each of the forward passes.

    Raises
    ------
    DataError
        When no label of the batch counts.
    """
    if not batch.targets:
        raise DataError("ablation needs a loss, and no label of a batch counts: a text of two tokens is the shortest")
    given = dict(ids=batch.ids, labels=batch.labels, attention_mask=batch.mask)
    loss = run.forward(**given)
    step()
    for module in measurement.modules:
        if module.is_skippable:
            without = run.forward(**given, skip=[module.name])
            if math.isfinite(without - loss):
                measurement.add(module.name, "ablation", without - loss, batch.targets)
            else:
                measurement.miss(module.name, "ablation", "a loss is not finite")
            step()
