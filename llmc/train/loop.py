"""Training: one call of `Trainer.train`, from its first step to its last, or to the instant it is cut off."""

import dataclasses
import math
import os
import time

from llmc.calls import warn
from llmc.train import checkpoint as checkpoints
from llmc.train import trained
from llmc.system.atomic import sweep, write_json
from llmc.errors import ConfigError, DataError, NonFiniteError
from llmc.inputs import IGNORE
from llmc.optimizer import AdamW
from llmc.train.plot import plot_loss
from llmc.train.batches import Batches, is_one_shot
from llmc.train.log import LOG, TrainingLog
from llmc.train.output_folder import PICTURE, OutputFolder
from llmc.train.progress import Progress
from llmc.train.state import TrainerState
from llmc.train.survey import NO_TARGET, survey

_LENGTHS = 64  # a run is made for a multiple of this many tokens, so that a longer batch seldom needs a new one


class Training:
    """The loop. Between two steps model, moments and state belong together: that is what a checkpoint holds.

    Parameters
    ----------
    trainer : Trainer
    resume : None, True or path
    interrupts : Interrupts
    """

    def __init__(self, trainer, resume, interrupts):
        self.trainer, self.model, self.args, self.interrupts = trainer, trainer.model, trainer.args, interrupts
        args, dataset = self.args, trainer.train_dataset
        self.output_dir = args.output_dir
        self.batches = Batches(dataset, args.per_device_train_batch_size, args.gradient_accumulation_steps, args.seed)
        max_steps = self._max_steps()
        args.rate(0, max_steps)
        self.said = survey(dataset, args.per_device_train_batch_size * args.gradient_accumulation_steps)
        if resume and is_one_shot(dataset):
            raise DataError(f"train_dataset is a {type(dataset).__name__} that can be read only once, so a training "
                            f"cannot resume where it was; give something that can be iterated afresh")
        self.folder = OutputFolder(self.output_dir, args.overwrite_output_dir, trainer._inputs(resume),
                                   bool(trained.adapters(self.model)), own=trainer._owns(resume))
        checkpoints.require_names(self.model)
        os.makedirs(self.output_dir, exist_ok=True)
        self.optimizer = _optimizer(self.model, args)
        self.rates = [(group, group["lr"]) for group in self.optimizer.groups if "lr" in group.own]
        checkpoints.require_room(self.output_dir, self.model, self.optimizer)
        self.saved_step = self.whole_step = None  # the last step that was saved, and with what resuming needs
        self.good = None  # the last good checkpoint
        if resume:
            self._resume(checkpoints.newest(self.output_dir) if resume is True else resume, max_steps)
        else:
            self.state = TrainerState(max_steps=max_steps, started=time.time())
        self.save_every = self._every(args.save_strategy, "save_steps")
        self.eval_every = self._every(trainer.eval_strategy, "eval_steps" if args.eval_steps else "logging_steps")
        self.run, self.length = None, 0
        self.learns = self.state.step > 0  # whether a target was seen
        self.stopped = False

    def _resume(self, path, max_steps):
        """Take over the model, the moments and the state of a checkpoint."""
        state = checkpoints.load(path, self.model, self.optimizer, self.args, max_steps, self.batches.length,
                                 self._kernels())  # fmt: skip
        self.state, self.batches.position, self.good = state, state.position, path
        if _same(path, self._path(state.step)):
            self.saved_step = self.whole_step = state.step
        newest = checkpoints.newest_path(self.output_dir, state.started)
        if newest and not _same(path, newest):
            state.started = time.time()  # a branch: the later checkpoints are not its own

    def _max_steps(self):
        args, steps = self.args, self.batches.steps_per_epoch
        if args.max_steps > 0:
            return args.max_steps
        if steps is None:
            raise ConfigError("max_steps is -1 and train_dataset has no length; give max_steps")
        return math.ceil(args.num_train_epochs * steps)

    def _every(self, strategy, name):
        """Steps between two savings or evaluations, or a set of them; 0: at the end of an epoch; None: never."""
        if strategy == "steps":
            if beyond := self.args.beyond(name, self.state.max_steps):
                some = ", ".join(map(str, beyond[:5])) + " …" * (len(beyond) > 5)
                warn(f"{name}: {some} left out, beyond the last step, {self.state.max_steps}", RuntimeWarning)
            return self.args.every(name, self.state.max_steps)
        return 0 if strategy == "epoch" else None

    # --- the loop ----------------------------------------------------------------------------------------------------
    def go(self):
        """Train to the end, or until a callback says "stop", the data is used up, or Ctrl-C is pressed."""
        with self.folder:
            self._begin()
            try:
                self._steps()
                self._finish()
            except KeyboardInterrupt:
                if self.interrupts.count < 2:
                    self._leave()
                raise
            finally:
                self.progress.close()
                self.log.close()

    def _begin(self):
        """Open the folder's log, and show where the training stands."""
        state, args = self.state, self.args
        sweep(self.output_dir)
        for name, settings in self.trainer._beside.items():
            write_json(os.path.join(self.output_dir, name), settings)
        self.log = TrainingLog(os.path.join(self.output_dir, LOG), state.step, state.evaluated_step == state.step)
        every = args.every("logging_steps", state.max_steps)
        self.progress = Progress(state.step, state.max_steps, every, args.disable_tqdm)
        if self.said:
            self.progress.say(self.said)

    def _steps(self):
        state = self.state
        if state.step:
            self._do_what_is_due()  # an interruption may have come before it
            self._rotate()
        else:
            self._do_before_the_first()
        while state.step < state.max_steps and not self.stopped and self._step():
            self._do_what_is_due()
            self._ask_callbacks()

    def _do_before_the_first(self):
        """Evaluate and save the model as it was, which is no result of the training and never its best."""
        if self._names(self.eval_every, 0) or self.eval_every is not None and self.args.eval_on_start:
            self._look()
        if self.saved_step is None and self._names(self.save_every, 0):
            self._save()

    def _succeeded(self):
        """Something of this run is on the disk."""
        self.folder.succeeded()
        self.trainer._owned = os.path.realpath(self.output_dir)

    def _step(self):
        """One optimizer step; False when no data is left."""
        state, begin = self.state, time.perf_counter()
        rate, share = (scheduled(state.step, state.max_steps) for scheduled in (self.args.rate, self.args.share))
        with self.interrupts.abandonable():
            batches = self._collated(self.batches.take())
            if not batches:
                warn(f"train_dataset ended after {state.step} of {state.max_steps} steps", RuntimeWarning)
                return False
            loss = self._gradients(batches)
            if self.batches.position[0] > state.position[0]:
                self._require_targets()
        self.optimizer.lr = rate
        for group, full in self.rates:
            group["lr"] = full * share
        norm = self._update(loss)
        state.step += 1
        state.position, state.epoch = self.batches.position, self.batches.epoch
        state.loss, state.learning_rate, state.grad_norm = _finite(loss), rate, _finite(norm)
        tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
        seconds = time.perf_counter() - begin
        state.tokens += tokens
        state.seconds += seconds
        state.updates = self.optimizer.updates  # last: until then the state is behind the model
        rates = {"learning_rate": rate}
        if self.args.router_learning_rate is not None:
            rates["router_learning_rate"] = self.args.router_learning_rate * share
        entry = {"step": state.step, "loss": state.loss, **rates, "grad_norm": state.grad_norm,
                 "tokens": tokens, "tokens_per_second": tokens / seconds, "seconds": seconds}
        self.log.write(entry)
        self.progress.step(entry)
        return True

    def _collated(self, taken):
        batches = []
        for numbers, items in taken:
            try:
                batches.append(self.trainer.collate(items))
            except DataError as error:
                raise DataError(f"train_dataset, items {', '.join(map(str, numbers))} in this order: {error}") from None
        return batches

    def _gradients(self, batches):
        """Add up the gradients of the mean loss over all tokens that count in the micro-batches; that loss."""
        length = max(batch["input_ids"].shape[1] for batch in batches)
        if length > self.length:
            self.run = None  # let go of the memory first
            limit = self.model._position_limit or math.inf
            self.length = max(length, min(-(-length // _LENGTHS) * _LENGTHS, limit))
            self.run = self.model.run(self.args.per_device_train_batch_size, self.length, backward=True, dropout=True,
                                      seed=self.args.seed)
        self.run.zero_grad()
        targets = sum(targets_in(batch) for batch in batches)
        self.learns = self.learns or targets > 0
        loss = 0.0
        for micro, batch in enumerate(batches):
            self.run._core.set_dropout_key(self.state.step, micro)
            loss += self.run.forward_backward(**batch_arguments(batch), num_items_in_batch=max(1, targets))
        return loss

    def _require_targets(self):
        """Raise DataError unless there was a target since the first step."""
        if not self.learns:
            raise DataError(f"no row that was read of train_dataset has a target to learn: each has {NO_TARGET}")

    # --- losses that are not finite ----------------------------------------------------------------------------------
    def _update(self, loss):
        """Let the optimizer step; the gradient norm. A loss or norm that is not finite changes nothing."""
        if math.isfinite(loss):
            try:
                return self.optimizer.step(self.run)
            except NonFiniteError as error:
                raise NonFiniteError(f"{error}; {self._advice()}") from None
        parameters = self.model.trained()
        parameter = checkpoints.first_nonfinite(parameters)
        gradients = {name: self.run._core.parameter_gradient(name) for name in parameters}
        gradient = checkpoints.first_nonfinite({name: view for name, view in gradients.items() if view is not None})
        self.run.zero_grad()
        message = (f"step {self.state.step + 1}: the loss is {loss}; first bad tensor: "
                   f"{parameter or gradient and f'the gradient of {gradient}' or 'none, the loss alone'}; "
                   f"nothing was changed")
        if parameter or self.args.on_nonfinite == "raise":
            raise NonFiniteError(f"{message}; {self._advice()}")
        warn(f"{message} (skipped)", RuntimeWarning)
        return math.nan

    def _advice(self):
        return (f"last good checkpoint: {self.good or 'none'}; lower learning_rate or max_grad_norm, "
                f"or go on without such steps: on_nonfinite='skip'")

    # --- between two steps -------------------------------------------------------------------------------------------
    def _do_what_is_due(self):
        state = self.state
        if state.evaluated_step != state.step and self._is_due(self.eval_every):
            self._evaluate()
        if self.saved_step != state.step and self._is_due(self.save_every):
            self._save()

    def _is_due(self, every):
        state = self.state
        if every is None or state.step == state.max_steps:
            return every is not None
        if isinstance(every, frozenset):
            return self._names(every, state.step)
        return state.step % every == 0 if every else state.position[1] == 0

    @staticmethod
    def _names(every, step):
        """Whether steps are listed, this one among them."""
        return isinstance(every, frozenset) and step in every

    def _look(self):
        """Evaluate, write it down, and show it."""
        with self.interrupts.abandonable():
            result = self.trainer.evaluate()
        entry = {"step": self.state.step} | {name: _finite(result[name]) for name in ("eval_loss", "perplexity")}
        self.log.write(entry)
        self.progress.evaluation(entry)
        return entry

    def _evaluate(self):
        state, entry = self.state, self._look()
        state.eval_loss, state.perplexity, state.evaluated_step = entry["eval_loss"], entry["perplexity"], state.step
        if state.eval_loss is not None and (state.best_eval_loss is None or state.eval_loss < state.best_eval_loss):
            state.best_step, state.best_eval_loss = state.step, state.eval_loss
            self._write(os.path.join(self.output_dir, checkpoints.BEST), not self.args.save_only_model)

    def _save(self, whole=False):
        """Write this step's checkpoint; `whole`: in any case with what resuming needs."""
        state, path, best = self.state, self._path(self.state.step), os.path.join(self.output_dir, checkpoints.BEST)
        usual = not self.args.save_only_model  # so is checkpoint-best
        whole = whole or usual
        if state.best_step == state.step and self.good == best and whole == usual:
            checkpoints.link(best, path)
        else:
            self._write(path, whole)
        self.saved_step, self.good = state.step, path
        self.whole_step = state.step if whole else self.whole_step
        self._rotate()

    def _rotate(self):
        if self.args.save_total_limit is not None:
            checkpoints.rotate(self.output_dir, self.args.save_total_limit, self.state.started)

    def _write(self, path, whole):
        self.log.sync()
        try:
            checkpoints.save(path, self.model, self.optimizer if whole else None, self.state, self.trainer.tokenizer,
                             args=self.args.to_dict(), dataset_length=self.batches.length, kernels=self._kernels())
        except NonFiniteError as error:
            raise NonFiniteError(f"{error}; {self._advice()}") from None
        self.good = path
        self._succeeded()

    def _ask_callbacks(self):
        for callback in self.trainer.callbacks:
            with self.interrupts.abandonable():
                answer = callback(dataclasses.replace(self.state))
            if answer not in (None, "stop"):
                raise TypeError(f"the callback {callback!r} returned {answer!r}; it returns 'stop' or None")
            self.stopped = self.stopped or answer == "stop"

    # --- the end -----------------------------------------------------------------------------------------------------
    def _finish(self):
        state = self.state
        if state.step and not self.stopped:
            self._require_targets()
        if self.eval_every is not None and state.step and state.evaluated_step != state.step:
            self._evaluate()
        if self.args.save_strategy != "no" and state.step and self.saved_step != state.step:
            self._save()
        checkpoints.require_finite(self.output_dir, self.model.trained())
        self.trainer.save_model(self.output_dir)
        self._succeeded()
        self._draw()
        self.interrupts.check()

    def _leave(self):
        """After Ctrl-C: save the last step that was completed."""
        state = self.state
        if state.step and state.step != self.whole_step and state.updates == self.optimizer.updates:
            self._save(whole=True)
        self._draw()

    def _draw(self):
        try:
            plot_loss(os.path.join(self.output_dir, LOG), os.path.join(self.output_dir, PICTURE))
        except ImportError as error:
            warn(f"no {PICTURE}: {error}", RuntimeWarning)

    def _path(self, step):
        return os.path.join(self.output_dir, f"checkpoint-{step}")

    def _kernels(self):
        """What decides the bits of a product, beside its operands."""
        info = self.model._core.info()
        used = {name: info.get(name) for name in ("instruction_set", "gemm", "openblas_kernels")}
        precision = self.model.precision if info["bfloat16"] else "float32"
        return used | {"precision": precision, "dtype": self.model.dtype}


def _optimizer(model, args):
    return AdamW(
        model, lr=args.learning_rate, betas=(args.adam_beta1, args.adam_beta2), eps=args.adam_epsilon,
        weight_decay=args.weight_decay, max_grad_norm=args.max_grad_norm or None, on_nonfinite=args.on_nonfinite,
        groups=args.groups(model.trained()),
    )  # fmt: skip


def batch_arguments(batch):
    """A collated batch as the arguments of a pass."""
    return {"ids": batch["input_ids"], "labels": batch["labels"], "attention_mask": batch["attention_mask"]}


def targets_in(batch):
    """Tokens of a collated batch that are predicted, and count in the loss."""
    return int((batch["labels"][:, 1:] != IGNORE).sum())


def _finite(value):
    return value if math.isfinite(value) else None


def _same(path, other):
    return os.path.exists(other) and os.path.samefile(path, other)
