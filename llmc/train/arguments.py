"""TrainingArguments: what a training is to do, in transformers' names, checked when it is made."""

import dataclasses
import math
import numbers
import os

from llmc.errors import ConfigError, nearest
from llmc.train.schedule import SCHEDULES, schedule

STRATEGIES = ("no", "steps", "epoch")


@dataclasses.dataclass
class TrainingArguments:
    """The settings of a `Trainer`.

    Names and defaults are those of transformers; `adam_beta2` alone is 0.95, and evaluation happens whenever there is
    something to evaluate.

    Parameters
    ----------
    output_dir : str or PathLike
        Where checkpoints, `log.jsonl`, `loss.png` and the finished model go.
    max_steps : int
        Optimizer steps of the training; -1: as many as `num_train_epochs` take.
    num_train_epochs : float
        Passes over the data when `max_steps` is -1.
    per_device_train_batch_size, per_device_eval_batch_size : int
        Rows of a micro-batch.
    gradient_accumulation_steps : int
        Micro-batches of an optimizer step, weighted by the tokens that count: 4 of 1 row are 1 of 4.
    learning_rate : float
    lr_scheduler_type : str
        One of `llmc.train.schedule.SCHEDULES`.
    lr_scheduler_kwargs : dict, optional
        What that schedule takes besides, such as `min_lr`.
    warmup_steps : int, or float below 1
        A number below 1 is a share of all steps.
    warmup_ratio : float, optional
        That share under its older name; `warmup_steps` goes before it.
    weight_decay, adam_beta1, adam_beta2, adam_epsilon : float
        Of AdamW; decay on matrices and embeddings alone.
    max_grad_norm : float or None
        Gradients are clipped to this norm; 0 or None: never.
    logging_steps : int, or float below 1
        Where no bar can be shown, a line is printed every so many steps; `log.jsonl` has every step.
    eval_strategy : "no", "steps" or "epoch", optional
        None: "steps" when `eval_steps` is given, else "epoch" when there is an `eval_dataset`.
    eval_steps : int, or float below 1, optional
    save_strategy : "no", "steps" or "epoch"
        "no": only what Ctrl-C, the best evaluation and the end leave.
    save_steps : int, or float below 1
    save_total_limit : int, optional
        Checkpoints that are kept, `checkpoint-best` apart; None: all.
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
    max_steps: int = -1
    num_train_epochs: float = 3.0
    per_device_train_batch_size: int = 8
    per_device_eval_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    learning_rate: float = 5e-5
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
    eval_steps: float | None = None
    save_strategy: str = "steps"
    save_steps: float = 500
    save_total_limit: int | None = None
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
        self.max_steps = -1 if self.max_steps is None else self._whole("max_steps", -1)
        if self.max_steps == 0:
            raise ConfigError("max_steps is 0; give at least 1, or -1 to train for num_train_epochs")
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
            setattr(self, name, self._whole(name, 1))
        if self.save_total_limit is not None:
            self.save_total_limit = self._whole("save_total_limit", 1)
        self.seed = self._whole("seed", 0, 2**64)
        if not self._number("num_train_epochs") > 0:
            raise ConfigError(f"num_train_epochs is {self.num_train_epochs}; it must be above 0")
        for name in ("learning_rate", "weight_decay", "adam_epsilon"):
            self._within(name, math.inf)
        for name in ("adam_beta1", "adam_beta2"):
            self._within(name, 1)
        if self.max_grad_norm is not None:
            self._within("max_grad_norm", math.inf)
        if self.warmup_ratio is not None and not 0 <= self._number("warmup_ratio") <= 1:
            raise ConfigError(f"warmup_ratio is {self.warmup_ratio}; it is a share of the steps, from 0 to 1")
        self._share_or_whole("warmup_steps", least=0)
        self._share_or_whole("logging_steps")
        self._share_or_whole("save_steps")
        if self.eval_steps is not None:
            self._share_or_whole("eval_steps")
        self._one_of("lr_scheduler_type", SCHEDULES)
        self._one_of("save_strategy", STRATEGIES)
        self._one_of("on_nonfinite", ("raise", "skip"))
        if self.eval_strategy is not None:
            self._one_of("eval_strategy", STRATEGIES)
        if self.disable_tqdm is not None and not isinstance(self.disable_tqdm, bool):
            raise TypeError(f"disable_tqdm is {self.disable_tqdm!r}, not True, False or None")
        if not isinstance(self.lr_scheduler_kwargs, (dict, type(None))):
            raise TypeError(f"lr_scheduler_kwargs is {self.lr_scheduler_kwargs!r}, not a dict")

    def rate(self, step, max_steps):
        """The learning rate of the update that follows `step` updates, of `max_steps` in all.

        Raises
        ------
        ConfigError
            When the warm-up is longer than the training, or the schedule's own numbers are impossible.
        """
        return schedule(self.lr_scheduler_type, step, learning_rate=self.learning_rate, max_steps=max_steps,
                        warmup_steps=self.warmup(max_steps), **(self.lr_scheduler_kwargs or {}))

    def warmup(self, max_steps):
        """Steps of the warm-up in a training of `max_steps`."""
        warmup = self.warmup_steps or self.warmup_ratio or 0
        share = not self.warmup_steps or self.warmup_steps < 1
        return math.ceil(max_steps * warmup) if share else int(warmup)

    def every(self, name, max_steps):
        """The whole number of steps that `logging_steps`, `eval_steps` or `save_steps` means."""
        value = getattr(self, name)
        return math.ceil(max_steps * value) if value < 1 else int(value)

    def to_dict(self):
        """{name: value}, fit for JSON."""
        return dataclasses.asdict(self)

    # --- checks ------------------------------------------------------------------------------------------------------
    def _number(self, name):
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError(f"{name} is {value!r}, not a number")
        if not math.isfinite(value):
            raise ConfigError(f"{name} is {value}; it must be finite")
        setattr(self, name, value.item() if hasattr(value, "item") else value)  # NumPy's numbers do not go into JSON
        return getattr(self, name)

    def _whole(self, name, least, most=math.inf):
        value = self._number(name)
        if value != int(value):
            raise ConfigError(f"{name} is {value}; it must be a whole number")
        if not least <= value < most:
            limit = " and below 2^64" if most < math.inf else ""
            raise ConfigError(f"{name} is {value}; it must be at least {least}{limit}")
        return int(value)

    def _within(self, name, most):
        value = self._number(name)
        if not 0 <= value < most:
            limit = "at least 0" if most == math.inf else f"in [0, {most})"
            raise ConfigError(f"{name} is {value}; it must be {limit}")

    def _share_or_whole(self, name, least=1):
        value = self._number(name)
        if value < 0 or (value == 0 and least) or (value >= 1 and value != int(value)):
            raise ConfigError(f"{name} is {value}; it is a whole number of at least {least}, or a share of all steps "
                              f"below 1")

    def _one_of(self, name, values):
        value = getattr(self, name)
        if not isinstance(value, str) or value not in values:
            raise ConfigError(f"{name} is {value!r}; it is one of {', '.join(values)}")
