"""TrainingArguments: what a training is to do, in transformers' names, checked when it is made."""

import dataclasses
import math
import os
import typing

from llmc.checks import flag, number, one_of, whole
from llmc.errors import ConfigError, nearest, shown
from llmc.train.due import are_listed, listed, step_count, steps_or_count
from llmc.train.schedule import SCHEDULES, schedule, share
from llmc.weights.parameter_groups import read_groups

STRATEGIES = ("no", "steps", "epoch")
ROUTER = "router"  # stands in the names of routers' parameters


@dataclasses.dataclass
class TrainingArguments:
    """The settings of a `Trainer`.

    Names and defaults are those of transformers; but `adam_beta2` is 0.95, and evaluation happens whenever there is
    something to evaluate, before the first step too.

    Parameters
    ----------
    output_dir : str or PathLike
        Where checkpoints, `log.jsonl`, `loss.png` and the finished model go.
    overwrite_output_dir : bool
        Replace the model, adapter or checkpoints of another run that are there, once this one has a checkpoint.
    max_steps : int
        Optimizer steps of the training; -1: as many as `num_train_epochs` take.
    num_train_epochs : float
        Passes over the data when `max_steps` is -1.
    per_device_train_batch_size, per_device_eval_batch_size : int
        Rows of a micro-batch.
    gradient_accumulation_steps : int
        Micro-batches of an optimizer step, weighted by the tokens that count: 4 of 1 row are 1 of 4.
    learning_rate : float
        The rate of AdamW, at the top of the schedule.
    router_learning_rate : float, optional
        Of parameters with `router` in their names; a model that has none has no use for it.
    parameter_groups : list of dict, optional
        The `groups` of AdamW, which go before that: `[{"params": GLOB, "lr": 1e-2, "weight_decay": 0.0}]`.
    lr_scheduler_type : str
        One of `llmc.train.schedule.SCHEDULES`.
    lr_scheduler_kwargs : dict, optional
        What that schedule takes besides, such as `min_lr`; it multiplies every rate by the same factor.
    warmup_steps : int, or float below 1
        Steps in which the rate rises from 0; a number below 1 is a share of all steps.
    warmup_ratio : float, optional
        That share under its older name; `warmup_steps` goes before it.
    weight_decay, adam_beta1, adam_beta2, adam_epsilon : float
        Of AdamW; decay on linears and embeddings alone.
    max_grad_norm : float or None
        Gradients are clipped to this norm; 0 or None: never.
    logging_steps : int, or float below 1
        Where no bar can be shown, a line is printed every so many steps; `log.jsonl` has every step.
    eval_strategy : "no", "steps" or "epoch", optional
        When to evaluate. None: "steps" when `eval_steps` is given, else "epoch" when there is an `eval_dataset`.
    eval_steps : int, float below 1, list of int, or "log", optional
        Steps between two evaluations; a number below 1 is a share of all steps. A list: after those steps and the last;
        0 is the model before the first. "log": after 0, 1, 2, 4, 8 … steps.
    eval_on_start : bool
        Evaluate the model before the first step too, where it is evaluated at all.
    save_strategy : "no", "steps" or "epoch"
        When to write a checkpoint. "no": only what Ctrl-C, the best evaluation and the end leave.
    save_steps : int, float below 1, list of int, or "log"
        Steps between two checkpoints; a number below 1 is a share of all steps. A list: after those steps and the last;
        0 is the model before the first. "log": after 0, 1, 2, 4, 8 … steps.
    save_total_limit : int, optional
        Checkpoints that are kept, `checkpoint-best` apart; None: all.
    save_only_model : bool
        Checkpoints, `checkpoint-best` too, are weights alone, a third as large, which no training goes on from; that of
        Ctrl-C is whole.
    seed : int
        Of the order of the data and of dropout.
    disable_tqdm : bool, optional
        True: lines in place of the bar. None: a bar in a terminal and in a notebook.
    on_nonfinite : "raise" or "skip"
        What a loss or a gradient norm that is not finite does; the model is not changed either way.

    Raises
    ------
    ConfigError
        For a value that is impossible.
    TypeError
        For an argument that there is not, or one of the wrong type.
    """

    output_dir: str = "trainer_output"
    _: dataclasses.KW_ONLY
    overwrite_output_dir: bool = False
    max_steps: int = -1
    num_train_epochs: float = 3.0
    per_device_train_batch_size: int = 8
    per_device_eval_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    learning_rate: float = 5e-5
    router_learning_rate: float | None = None
    parameter_groups: list | None = None
    lr_scheduler_type: str = "linear"
    lr_scheduler_kwargs: dict | None = None
    warmup_steps: float = 0
    warmup_ratio: float | None = None
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_epsilon: float = 1e-8
    max_grad_norm: float | None = 1.0
    logging_steps: float = 500
    eval_strategy: str | None = None
    eval_steps: float | list | str | None = None
    eval_on_start: bool = True
    save_strategy: str = "steps"
    save_steps: float | list | str = 500
    save_total_limit: int | None = None
    save_only_model: bool = False
    seed: int = 42
    disable_tqdm: bool | None = None
    on_nonfinite: str = "raise"

    def __new__(cls, output_dir=None, **arguments):
        known = [field.name for field in dataclasses.fields(cls)]
        for name in arguments:
            if name not in known:
                near = nearest(name, known) or f"there are {', '.join(known)}"
                raise TypeError(f"TrainingArguments has no argument {name!r}; {near}")
        return super().__new__(cls)

    def __post_init__(self):
        self.output_dir = os.fspath("trainer_output" if self.output_dir is None else self.output_dir)
        self.lr_scheduler_type = str(getattr(self.lr_scheduler_type, "value", self.lr_scheduler_type))
        self.max_steps = -1 if self.max_steps is None else self.max_steps
        self._check(_count, "max_steps", least=-1)
        if self.max_steps == 0:
            raise ConfigError("max_steps is 0; give at least 1, or -1 to train for num_train_epochs")
        self._check(_count, "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps",
                    "save_total_limit", least=1)  # fmt: skip
        self._check(_count, "seed", least=0, most=2**64 - 1)
        self._check(number, "num_train_epochs", low=0, open_low=True)
        self._check(number, "learning_rate", "router_learning_rate", "weight_decay", "adam_epsilon", "max_grad_norm",
                    low=0)  # fmt: skip
        self._check(read_groups, "parameter_groups")
        self._check(number, "adam_beta1", "adam_beta2", low=0, high=1, open_high=True)
        self._check(number, "warmup_ratio", low=0, high=1)
        self._check(step_count, "warmup_steps", open_low=False)
        self._check(step_count, "logging_steps")
        self._check(steps_or_count, "save_steps", "eval_steps")
        self._check(one_of, "lr_scheduler_type", words=SCHEDULES)
        self._check(one_of, "save_strategy", "eval_strategy", words=STRATEGIES)
        self._check(one_of, "on_nonfinite", words=("raise", "skip"))
        self._check(flag, "disable_tqdm", "overwrite_output_dir", "eval_on_start", "save_only_model")
        self._check_strategy("save_strategy", "save_steps")
        self._check_strategy("eval_strategy", "eval_steps")
        if not isinstance(self.lr_scheduler_kwargs, (dict, type(None))):
            raise TypeError(f"lr_scheduler_kwargs is {self.lr_scheduler_kwargs!r}, not a dict")

    def rate(self, step, max_steps):
        """The learning rate of the update that follows `step` updates, of `max_steps` in all.

        Raises
        ------
        ConfigError
            When the warm-up is longer than the training, or the schedule's own numbers are impossible.
        """
        return self._scheduled(schedule, step, max_steps)

    def share(self, step, max_steps):
        """The share of its full rate that every group has at that update."""
        return self._scheduled(share, step, max_steps)

    def _scheduled(self, function, step, max_steps):
        return function(self.lr_scheduler_type, step, learning_rate=self.learning_rate, max_steps=max_steps,
                        warmup_steps=self.warmup(max_steps), **(self.lr_scheduler_kwargs or {}))

    def groups(self, names):
        """The `groups` of an AdamW of these parameters: `parameter_groups`, and routers where they have a rate."""
        routers = any(ROUTER in name for name in names) and self.router_learning_rate is not None
        own = [{"params": f"*{ROUTER}*", "lr": self.router_learning_rate}] if routers else []
        return [*(self.parameter_groups or []), *own]

    def warmup(self, max_steps):
        """Steps of the warm-up in a training of `max_steps`."""
        warmup = self.warmup_steps or self.warmup_ratio or 0
        share = not self.warmup_steps or self.warmup_steps < 1
        return math.ceil(max_steps * warmup) if share else int(warmup)

    def every(self, name, max_steps):
        """What `logging_steps`, `eval_steps` or `save_steps` means: a whole number of steps, or a set of them."""
        value = getattr(self, name)
        if are_listed(value):
            return listed(value, max_steps)[0]
        return math.ceil(max_steps * value) if value < 1 else int(value)

    def beyond(self, name, max_steps):
        """The steps of a list that a training of `max_steps` does not come to."""
        value = getattr(self, name)
        return listed(value, max_steps)[1] if are_listed(value) else []

    def to_dict(self):
        """{name: value}, fit for JSON."""
        return dataclasses.asdict(self)

    def _check(self, check, *names, **limits):
        """Let `check` go over fields; None stands where the field may be None."""
        kinds = {field.name: field.type for field in dataclasses.fields(self)}
        for name in names:
            value = getattr(self, name)
            if value is not None or type(None) not in typing.get_args(kinds[name]):
                setattr(self, name, check(value, name, **limits))

    def _check_strategy(self, strategy, steps):
        """Raise ConfigError for steps that are listed, and a strategy that has no use for them."""
        word, value = getattr(self, strategy), getattr(self, steps)
        if are_listed(value) and word not in (None, "steps"):
            raise ConfigError(f"{steps} is {shown(value)}, and {strategy} {word!r} has no use for it; give one of them")


def _count(value, name, least, most=None):
    """A whole number; 10.0 is one, as a division gives it."""
    value = number(value, name)
    return whole(int(value) if value == int(value) else value, name, least, most, mistyped=ConfigError)
