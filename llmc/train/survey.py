"""What a training has to learn from, counted before its first step."""

import numpy as np

from llmc.data.collate import targets_of
from llmc.errors import DataError
from llmc.show.table import many
from llmc.train.batches import length_of

NO_TARGET = "one token alone, or labels of -100 alone, as of a response that was cut off"


def survey(dataset, step_size):
    """What a training set holds, in a line.

    Parameters
    ----------
    dataset : dataset or iterable
        llmc's own, and lists, know their targets: the tokens that are predicted and count in the loss.
    step_size : int
        Rows that an optimizer step takes.

    Returns
    -------
    str or None
        None for an iterable, whose rows nobody knows.

    Raises
    ------
    DataError
        When it is known that there is no target.
    """
    rows, targets = length_of(dataset), _targets(dataset)
    if rows is None:
        return None
    said = [f"training on {many(rows, 'row')}"]
    if targets is not None:
        if not targets.any():
            raise DataError(f"train_dataset has no target to learn in {many(rows, 'row')}: each has {NO_TARGET}")
        said[0] += f", {many(int(targets.sum()), 'target')}"
        if empty := int((targets == 0).sum()):
            said.append(f"{many(empty, 'row')} without a target: {NO_TARGET}")
    if rows < step_size:
        said.append(f"fewer rows than the {step_size} that a step takes: each step sees all of them")
    if dropped := getattr(dataset, "dropped_tokens", 0):
        said.append(f"{many(dropped, 'token')} at the end left out, too few for a row")
    return "; ".join(said)


def _targets(dataset):
    """The targets of each row, (N,); None where they are not known."""
    if hasattr(dataset, "count_targets"):
        return dataset.count_targets()
    if not isinstance(dataset, (list, tuple)):
        return None
    try:
        return np.array([targets_of(row) for row in dataset])
    except (TypeError, ValueError, LookupError):
        return None  # a row that is none is refused with its place when it is read
