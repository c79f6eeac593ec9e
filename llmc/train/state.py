"""TrainerState: everything a training is, apart from the model and the optimizer's moments."""

import dataclasses
import os

from llmc.checkpoint.formats import strict_json
from llmc.system.atomic import write_json
from llmc.errors import CheckpointError
from llmc.system.small_file import is_there

STATE = "trainer_state.json"
_MOST = 1 << 24  # bytes; it has about a thousand


@dataclasses.dataclass
class TrainerState:
    """Where a training stands; what callbacks are given.

    Attributes
    ----------
    step, max_steps : int
        Optimizer steps done, and to be done.
    epoch : float
        Passes over the data.
    loss, learning_rate, grad_norm : float or None
        Of the last step; None before the first, or when not finite.
    tokens, seconds : int, float
        Of all steps so far.
    eval_loss, perplexity : float or None
        Of the last evaluation.
    best_step, best_eval_loss : int or None, float or None
        The evaluation that `checkpoint-best` holds.
    evaluated_step : int
        The last step that was evaluated.
    updates : int
        Updates of the optimizer: steps, those that were skipped apart.
    position : (int, int)
        Epochs done, and items read of the next one.
    started : float
        When this training began, in seconds since 1970: what tells its checkpoints from another's.
    """

    step: int = 0
    max_steps: int = 0
    epoch: float = 0.0
    loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    tokens: int = 0
    seconds: float = 0.0
    eval_loss: float | None = None
    perplexity: float | None = None
    best_step: int | None = None
    best_eval_loss: float | None = None
    evaluated_step: int = 0
    updates: int = 0
    position: tuple = (0, 0)
    started: float = 0.0


def write_state(folder, state, **beside):
    """Write trainer_state.json: the state, and what else a resumed training compares itself with."""
    write_json(os.path.join(folder, STATE), {**dataclasses.asdict(state), **beside})


def read_state(folder):
    """What `write_state` wrote.

    Returns
    -------
    (TrainerState, dict)
        The state, and what stood beside it.

    Raises
    ------
    CheckpointError
        When it is not there, or not what `write_state` writes.
    """
    path = os.path.join(folder, STATE)
    if not is_there(path):
        raise CheckpointError(f"{folder}: no {STATE}: this is no checkpoint of a training; a model is opened with "
                              f"llmc.Model.from_pretrained, and trained from step 1")
    values = strict_json.read(path, _MOST, "the state of a training")
    names = [field.name for field in dataclasses.fields(TrainerState)]
    missing = [name for name in names if not isinstance(values, dict) or name not in values]
    if missing:
        raise CheckpointError(f"{path}: no {missing[0]!r} in it")
    state = TrainerState(**{name: values.pop(name) for name in names})
    state.position = tuple(state.position) if isinstance(state.position, list) else ()
    counts = (state.step, state.max_steps, state.updates, state.tokens, *state.position)
    if len(state.position) != 2 or not all(type(n) is int and n >= 0 for n in counts):
        raise CheckpointError(f"{path}: step, max_steps, updates, tokens and position are not whole numbers")
    if type(state.started) not in (int, float):
        raise CheckpointError(f"{path}: started is not a number")
    return state, values
