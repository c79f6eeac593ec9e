"""Trainer: trains a model on a dataset, with checkpoints that resume to the same bits."""

import dataclasses
import math
import os
import time

from llmc.calls import public
from llmc.data.collate import collate
from llmc.data.items import fallback_pad_id
from llmc.data.row_stream import RowStream, are_streamed, items_of
from llmc.data.rows import are_rows
from llmc.data.jsonl import JsonlDataset
from llmc.errors import ConfigError, DataError
from llmc.model import Model
from llmc.train import trained
from llmc.train.arguments import TrainingArguments
from llmc.train.batches import is_one_shot, length_of
from llmc.train.interrupt import Interrupts
from llmc.train.checkpoint import of_one_training
from llmc.train.output_folder import refuse_adapter
from llmc.train.loop import Training, batch_arguments, targets_in


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """What a training came to.

    Attributes
    ----------
    step, epoch : int, float
        Optimizer steps and passes over the data, from the very beginning.
    loss : float or None
        Of the last step.
    eval_loss, perplexity : float or None
        Of the last evaluation.
    best_step, best_eval_loss : int or None, float or None
        What `checkpoint-best` holds.
    tokens, seconds : int, float
        Of all steps.
    stopped : bool
        Whether a callback said "stop".
    """

    step: int
    epoch: float
    loss: float | None
    eval_loss: float | None
    perplexity: float | None
    best_step: int | None
    best_eval_loss: float | None
    tokens: int
    seconds: float
    stopped: bool


@public
class Trainer:
    """Trains `model` in place.

    Parameters
    ----------
    model : Model
    args : TrainingArguments, optional
    train_dataset : dataset or iterable, optional
        With `__len__` and `__getitem__`: its rows are shuffled by the seed, without replacement. Anything else that can
        be iterated is read in its own order, afresh in each epoch. Items are dicts with `input_ids`, and if they have
        them `labels` and `attention_mask`. Rows with `text`, or with `prompt` and `response`, are read by the tokenizer
        as `llmc.data.JsonlDataset` reads them, in items of at most the model's max_position_embeddings; those of an
        iterable one by one.
    eval_dataset : dataset or iterable, optional
        Evaluated as the arguments say, once an epoch unless they say otherwise.
    tokenizer : Tokenizer, optional
        Saved with the model. `processing_class`, transformers' newer word, is the same.
    callbacks : list of callables
        Each is called after every step with a `TrainerState`; "stop" ends the training.

    Raises
    ------
    ConfigError
        When an evaluation is asked for and there is nothing to evaluate.
    DataError
        When a dataset is empty, or the one to evaluate can be read only once.

    Examples
    --------
    >>> args = TrainingArguments(output_dir="out", max_steps=1000, learning_rate=3e-4)
    >>> Trainer(model, args, train_dataset=data).train()
    """

    def __init__(self, model, args=None, train_dataset=None, eval_dataset=None, tokenizer=None, callbacks=(), *,
                 processing_class=None):  # fmt: skip
        if tokenizer is not None and processing_class is not None:
            raise TypeError("tokenizer and processing_class are two words for one thing; give one of them")
        tokenizer = processing_class if tokenizer is None else tokenizer
        if not isinstance(model, Model):
            raise TypeError(f"model is {type(model).__name__}, not a llmc.Model")
        args = TrainingArguments() if args is None else args
        if not isinstance(args, TrainingArguments):
            raise TypeError(f"args is {type(args).__name__}, not llmc.TrainingArguments")
        for dataset in (train_dataset, eval_dataset):
            if dataset is not None:
                length_of(dataset)
        self.callbacks = list(callbacks or ())
        for callback in self.callbacks:
            if not callable(callback):
                raise TypeError(f"the callback {callback!r} cannot be called; it is a function of the state")
        self.model, self.args, self.tokenizer = model, args, tokenizer
        self.train_dataset = self._read("train_dataset", train_dataset)
        self.eval_dataset = self._read("eval_dataset", eval_dataset)
        self._reads, self._beside, self._owned = (), {}, None  # see `_inputs`, `Training._begin` and `_owns`
        self._check_evaluation()

    def _read(self, name, dataset):
        """A dataset as it is; of rows that hold texts, what the tokenizer makes of them."""
        longest = self.model.config.max_position_embeddings
        if self.tokenizer is not None and are_streamed(dataset):
            stream = items_of if is_one_shot(dataset) else RowStream
            return stream(dataset, self.tokenizer, longest)
        if not are_rows(dataset):
            return dataset
        if self.tokenizer is None:
            raise DataError(f"{name}: its rows are texts, and there is no tokenizer to read them with; give tokenizer=")
        try:
            return JsonlDataset(dataset, self.tokenizer, longest)
        except DataError as error:
            raise DataError(f"{name}, {error}") from None

    @property
    def eval_strategy(self):
        """When the model is evaluated while it trains: "no", "steps" or "epoch"."""
        args = self.args
        if args.eval_strategy is not None:
            return args.eval_strategy
        return "steps" if args.eval_steps is not None else "epoch" if self.eval_dataset is not None else "no"

    def _check_evaluation(self):
        if self.eval_dataset is None:
            if self.eval_strategy != "no":
                asked = "eval_strategy" if self.args.eval_strategy is not None else "eval_steps"
                raise ConfigError(f"{asked}={getattr(self.args, asked)!r} asks for evaluations; give an eval_dataset")
        elif is_one_shot(self.eval_dataset):
            raise DataError(f"eval_dataset is a {type(self.eval_dataset).__name__} that can be read only once; "
                            f"put its items in a list")

    def train(self, resume_from_checkpoint=None):
        """Train, and leave the finished model, its checkpoints, `log.jsonl` and `loss.png` in `output_dir`.

        A line on the standard error says first how many rows and targets there are, and how many rows have none. llmc's
        datasets and lists know their targets, the tokens that are predicted and count in the loss; others their rows.

        Parameters
        ----------
        resume_from_checkpoint : None, True, or path
            True: go on from the newest checkpoint of `output_dir` that is whole. A path: from that one. The model
            comes to the same bits as without the interruption.

        Returns
        -------
        TrainingResult

        Raises
        ------
        KeyboardInterrupt
            After Ctrl-C: the step in flight is abandoned and the last completed one saved. A second Ctrl-C leaves at
            once; earlier checkpoints stay.
        NonFiniteError
            When a loss or a gradient norm is not finite; neither model nor checkpoints are changed.
        ConfigError, CheckpointError, FileNotFoundError
            When the arguments do not fit each other, or what is to be resumed; when `output_dir` holds a model, adapter
            or checkpoints of another run.
        DataError
            When the data cannot be used, or has no target to learn in its first epoch.
        OSError
            When `output_dir` cannot be written to, or is full; earlier checkpoints stay.
        """
        if self.train_dataset is None:
            raise ConfigError("there is nothing to train on: give Trainer a train_dataset")
        self._check_evaluation()
        with Interrupts() as interrupts:
            training = Training(self, resume_from_checkpoint, interrupts)
            training.go()
        state = dataclasses.asdict(training.state) | {"stopped": training.stopped}
        return TrainingResult(**{field.name: state[field.name] for field in dataclasses.fields(TrainingResult)})

    def evaluate(self, eval_dataset=None):
        """The loss of every predicted token of a dataset, without dropout.

        Parameters
        ----------
        eval_dataset : dataset or iterable, optional
            In place of the trainer's.

        Returns
        -------
        dict
            `eval_loss`, the mean over all tokens; `perplexity`, its exponential; `eval_tokens` that were predicted;
            `eval_runtime` in seconds.

        Raises
        ------
        ConfigError
            When there is nothing to evaluate.
        DataError
            When no token is predicted in it.
        """
        dataset = self.eval_dataset if eval_dataset is None else self._read("eval_dataset", eval_dataset)
        if dataset is None:
            raise ConfigError("there is nothing to evaluate: give an eval_dataset")
        begin = time.perf_counter()
        total, tokens, longest = self._losses(dataset)
        if not tokens:
            raise DataError("eval_dataset has no token to predict: its items have one token, or labels of -100 alone")
        self.model._say_beyond_context(longest, f"eval_dataset has rows of {longest} tokens")
        loss = total / tokens
        return {"eval_loss": loss, "perplexity": _exp(loss), "eval_tokens": tokens,
                "eval_runtime": time.perf_counter() - begin}

    def _losses(self, dataset):
        """(the summed loss, the tokens that were predicted, the tokens of the longest row) of a dataset."""
        run, length, total, tokens = None, 0, 0.0, 0
        for items in _chunks(dataset, self.args.per_device_eval_batch_size):
            batch = self.collate(items)
            count = targets_in(batch)
            if not count:
                continue
            if batch["input_ids"].shape[1] > length:
                run, length = None, batch["input_ids"].shape[1]
                run = self.model.run(self.args.per_device_eval_batch_size, length)
            total += run.forward(**batch_arguments(batch), num_items_in_batch=1)
            tokens += count
        return total, tokens, length

    def save_model(self, output_dir=None):
        """Save the model as transformers opens it, or its adapters as peft does, and the tokenizer if there is one."""
        output_dir = self.args.output_dir if output_dir is None else output_dir
        whole = not trained.adapters(self.model)
        refuse_adapter(output_dir, not whole)
        trained.write(output_dir, self.model)
        if whole:
            self.model._name_or_path = os.fspath(output_dir)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(os.fspath(output_dir))

    def _inputs(self, resume):
        """The files and folders that a training reads."""
        checkpoint = None if resume is True or not resume else os.fspath(resume)
        return [self.model._name_or_path, checkpoint, *self._reads]

    def _owns(self, resume):
        """Whether what lies in `output_dir` is of this training: it trained there, or goes on from there."""
        folder = os.path.realpath(self.args.output_dir)
        if not resume or resume is True:
            return bool(resume) or folder == self._owned
        return os.path.dirname(os.path.realpath(resume)) == folder or of_one_training(resume, folder)

    def collate(self, items):
        """Items as one batch: arrays (B, T), padded on the right."""
        pad, limit = 0 if self.tokenizer is None else fallback_pad_id(self.tokenizer), self.model.config.vocab_size
        return collate(items, pad_token_id=pad if pad < limit else 0, vocab_size=limit)


def _chunks(dataset, size):
    """The items of a dataset in their order, `size` at a time."""
    length, items = length_of(dataset), []
    for item in dataset if length is None else (dataset[index] for index in range(length)):
        items.append(item)
        if len(items) == size:
            yield items
            items = []
    if items:
        yield items


def _exp(loss):
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
