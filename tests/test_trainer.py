"""The trainer trains: the steps it takes, the data it reads, what it evaluates, writes, says and refuses."""

import dataclasses
import json
import math
import os
import shutil
import signal
import sys
import threading

import numpy as np
import pytest

import llmc
from llmc.train.plot import plot_loss, smoothed
from llmc.train.batches import Batches, permutation
from llmc.train.log import read_log


class Rows:
    """Rows of unequal length, from 4 to 8 tokens."""

    def __init__(self, count=11):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return {"input_ids": [(7 * index + 3 * t * t) % 31 for t in range(4 + index % 5)]}


def model(seed=0, **changes):
    """A tiny LLaMA, which has no dropout."""
    config = dict(model_type="llama", vocab_size=31, hidden_size=12, num_hidden_layers=2, num_attention_heads=2,
                  intermediate_size=20, max_position_embeddings=16, eos_token_id=None) | changes
    return llmc.Model(llmc.Config(**config), seed=seed)


def trainer(folder, of=None, data=None, held_out=None, tokenizer=None, callbacks=(), **changes):
    arguments = dict(max_steps=4, per_device_train_batch_size=2, learning_rate=1e-2, save_strategy="no", seed=5)
    arguments |= changes
    return llmc.Trainer(of or model(), llmc.TrainingArguments(str(folder), **arguments), train_dataset=data or Rows(),
                        eval_dataset=held_out, tokenizer=tokenizer, callbacks=callbacks)


def steps_of(folder):
    return [entry for entry in read_log(folder / "log.jsonl") if "loss" in entry]


def same(one, other, tolerance=0.0):
    theirs = other.state_dict()
    return all(np.abs(view - theirs[name]).max() <= tolerance for name, view in one.state_dict().items())


# --- the steps -------------------------------------------------------------------------------------------------------
def test_training_lowers_the_loss_and_leaves_everything_in_its_folder(tmp_path):
    trained = trainer(tmp_path, held_out=Rows(5), max_steps=60, save_strategy="steps", save_steps=40, eval_steps=20)
    before = trained.evaluate()["eval_loss"]
    result = trained.train()
    assert result.step == 60 and result.eval_loss < before - 1 and not result.stopped
    assert {path.name for path in tmp_path.iterdir()} == {
        "checkpoint-40", "checkpoint-60", "checkpoint-best", "config.json", "log.jsonl", "loss.png", "model.safetensors"
    }
    for folder in (tmp_path, tmp_path / "checkpoint-60"):
        assert same(llmc.Model.from_pretrained(folder), trained.model)


def test_a_loop_by_hand_takes_the_same_steps(tmp_path):
    changes = dict(lr_scheduler_type="cosine", warmup_steps=2, weight_decay=0.1, max_steps=9, max_grad_norm=0.5)
    trained = trainer(tmp_path, **changes)
    trained.train()
    by_hand = model()
    run = by_hand.run(2, 16, backward=True)
    optimizer = llmc.AdamW(by_hand, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, max_grad_norm=0.5)
    batches = Batches(Rows(), 2, 1, 5)
    for step in range(9):
        optimizer.lr = llmc.train.schedule.schedule("cosine", step, learning_rate=1e-2, warmup_steps=2, max_steps=9)
        for _, items in batches.take():
            batch = llmc.data.collate(items)
            loss = run.forward_backward(batch["input_ids"], batch["labels"], batch["attention_mask"])
        norm = optimizer.step(run)
        entry = steps_of(tmp_path)[step]
        assert (entry["loss"], entry["grad_norm"], entry["learning_rate"]) == (loss, norm, optimizer.lr)
    assert same(trained.model, by_hand) and steps_of(tmp_path)[0]["learning_rate"] == 0


def test_four_micro_batches_of_one_equal_one_of_four(tmp_path):
    one = trainer(tmp_path / "one", per_device_train_batch_size=4)
    four = trainer(tmp_path / "four", per_device_train_batch_size=1, gradient_accumulation_steps=4)
    losses = [[entry["loss"] for entry in steps_of(tmp_path / name)]
              for name, each in (("one", one), ("four", four)) if each.train()]
    assert np.abs(np.subtract(*losses)).max() < 1e-6
    assert same(one.model, four.model, 1e-5)


def test_a_batch_without_a_target_has_loss_zero(tmp_path):
    data = iter([{"input_ids": [1, 2, 3], "labels": [-100, -100, -100]}, {"input_ids": [1, 2, 3]}])
    with pytest.warns(RuntimeWarning, match="no label counted.*nothing was updated"):
        trainer(tmp_path, data=data, max_steps=2, per_device_train_batch_size=1).train()
    assert steps_of(tmp_path)[0]["loss"] == 0 and steps_of(tmp_path)[0]["grad_norm"] == 0


def test_longer_batches_come_as_they_like(tmp_path):
    data = iter([{"input_ids": [1] * length} for length in (3, 70, 5, 150)])
    long = model(max_position_embeddings=150)
    assert trainer(tmp_path, of=long, data=data, per_device_train_batch_size=1).train().tokens == 228


def test_training_works_off_the_main_thread(tmp_path):
    results, before = [], signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=lambda: results.append(trainer(tmp_path).train()))
    thread.start()
    thread.join()
    assert results[0].step == 4
    assert signal.getsignal(signal.SIGINT) is before


# --- the data --------------------------------------------------------------------------------------------------------
def read_numbers(batches):
    return [number for numbers, _ in batches.take() for number in numbers]


def test_every_epoch_reads_every_row_once_in_another_order():
    batches = Batches(Rows(), 2, 2, 5)
    assert batches.steps_per_epoch == 3
    epochs = [[number for _ in range(3) for number in read_numbers(batches)] for _ in range(3)]
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] and batches.position == (3, 0)


def test_the_last_batch_of_an_epoch_is_short():
    batches = Batches(Rows(), 2, 2, 5)
    assert [[len(items) for _, items in batches.take()] for _ in range(4)] == [[2, 2], [2, 2], [2, 1], [2, 2]]


def test_the_order_depends_on_the_seed_and_the_epoch_alone():
    assert permutation(9, 5, 1).tolist() == permutation(9, 5, 1).tolist()
    assert permutation(9, 5, 1).tolist() != permutation(9, 6, 1).tolist()
    assert permutation(9, 5, 0).tolist() == [2, 4, 3, 1, 5, 0, 6, 7, 8]  # also in releases of NumPy to come


def test_a_position_is_where_the_rest_begins():
    from_start, rows = Batches(Rows(), 2, 2, 5), []
    for _ in range(7):
        position = from_start.position
        rows.append(read_numbers(from_start))
        assert read_numbers(Batches(Rows(), 2, 2, 5, position)) == rows[-1]


def test_an_iterable_is_iterated_afresh_in_every_epoch():
    class Stream:
        def __iter__(self):
            return iter("abcde")

    batches = Batches(Stream(), 2, 1, 0)
    read = [["".join(items) for _, items in batches.take()] for _ in range(5)]
    assert read == [["ab"], ["cd"], ["e"], ["ab"], ["cd"]]


def test_epochs_decide_the_steps_when_nothing_else_does(tmp_path):
    result = trainer(tmp_path, max_steps=-1, num_train_epochs=1.5, held_out=Rows(2)).train()
    assert (result.step, result.epoch) == (9, 1 + 6 / 11)
    evaluated = [entry["step"] for entry in read_log(tmp_path / "log.jsonl") if "eval_loss" in entry]
    assert evaluated == [0, 6, 9]


def test_a_generator_trains_until_it_is_used_up(tmp_path):
    with pytest.warns(RuntimeWarning, match="ended after 3 of 100 steps"):
        result = trainer(tmp_path, data=(Rows()[i] for i in range(5)), max_steps=100).train()
    assert result.step == 3
    with pytest.raises(llmc.ConfigError, match="give max_steps"):
        trainer(tmp_path, data=iter([]), max_steps=-1).train()


def test_bad_rows_are_named(tmp_path):
    data = [Rows()[0], {"input_ids": [1, 99]}]
    with pytest.raises(llmc.DataError, match=r"train_dataset, items [01, ]+ in this order: item [01]: .* holds 99"):
        trainer(tmp_path, data=data).train()
    with pytest.raises(llmc.DataError, match="no items"):
        llmc.Trainer(model(), None, train_dataset=[])
    with pytest.raises(TypeError, match="int does neither"):
        llmc.Trainer(model(), None, train_dataset=3)


# --- evaluation ------------------------------------------------------------------------------------------------------
def test_every_token_weighs_the_same_in_an_evaluation(tmp_path):
    evaluated = trainer(tmp_path, per_device_eval_batch_size=4)
    result = evaluated.evaluate(Rows())
    rows = [Rows()[index]["input_ids"] for index in range(11)]
    losses = [(len(row) - 1, evaluated.model.loss(row)) for row in rows]
    tokens = sum(count for count, _ in losses)
    assert result["eval_tokens"] == tokens
    assert abs(result["eval_loss"] - sum(count * loss for count, loss in losses) / tokens) < 1e-6
    assert result["perplexity"] == math.exp(result["eval_loss"])


def test_the_best_evaluation_is_kept_under_its_name(tmp_path):
    seen = {}
    result = trainer(tmp_path, held_out=Rows(3), eval_steps=2, max_steps=8,
                     callbacks=[lambda state: seen.update({state.step: state.eval_loss})]).train()
    assert result.best_eval_loss == min(value for value in seen.values() if value is not None)
    state = json.loads((tmp_path / "checkpoint-best/trainer_state.json").read_text())
    assert (state["step"], state["best_eval_loss"]) == (result.best_step, result.best_eval_loss)


def test_evaluations_are_asked_for_with_something_to_evaluate(tmp_path):
    with pytest.raises(llmc.ConfigError, match="eval_steps=5 .* eval_dataset"):
        trainer(tmp_path, eval_steps=5)
    with pytest.raises(llmc.ConfigError, match="eval_strategy='epoch'"):
        trainer(tmp_path, eval_strategy="epoch")
    with pytest.raises(llmc.ConfigError, match="nothing to evaluate"):
        trainer(tmp_path).evaluate()
    with pytest.raises(llmc.DataError, match="only once"):
        trainer(tmp_path, held_out=iter([Rows()[0]]))
    with pytest.raises(llmc.DataError, match="no token to predict"):
        trainer(tmp_path).evaluate([{"input_ids": [1]}])


def test_no_evaluation_when_it_is_declined(tmp_path):
    assert trainer(tmp_path, held_out=Rows(2), eval_strategy="no").train().eval_loss is None
    assert all("loss" in entry for entry in read_log(tmp_path / "log.jsonl"))
    trainer(tmp_path / "later", held_out=Rows(2), eval_on_start=False).train()
    assert read_log(tmp_path / "later" / "log.jsonl")[0]["step"] == 1


def test_the_model_as_it_was_is_never_the_best(tmp_path):
    worse = trainer(tmp_path, held_out=Rows(3), eval_steps=2, learning_rate=5.0, max_grad_norm=0.0)
    result = worse.train()
    assert read_log(tmp_path / "log.jsonl")[0]["eval_loss"] < result.best_eval_loss and result.best_step > 0


# --- callbacks, log, picture, bar ------------------------------------------------------------------------------------
def test_a_callback_stops_the_training(tmp_path):
    result = trainer(tmp_path, callbacks=[lambda state: "stop" if state.step == 3 else None], max_steps=9).train()
    assert result.stopped and result.step == 3
    with pytest.raises(TypeError, match="returned 'halt'"):
        trainer(tmp_path / "other", callbacks=[lambda state: "halt"]).train()


def test_the_log_has_one_object_a_step(tmp_path):
    trainer(tmp_path, held_out=Rows(2), eval_steps=2).train()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 2, 3, 4, 4]
    start = lines.pop(0)
    assert list(start) == ["step", "eval_loss", "perplexity"]
    assert abs(start["eval_loss"] - trainer(tmp_path).evaluate(Rows(2))["eval_loss"]) < 1e-12
    assert list(lines[0]) == ["step", "loss", "learning_rate", "grad_norm", "tokens", "tokens_per_second", "seconds"]
    assert list(lines[2]) == ["step", "eval_loss", "perplexity"]
    assert lines[0]["tokens"] == sum(len(Rows()[i]["input_ids"]) for i in permutation(11, 5, 0)[:2])


def test_the_picture_needs_no_display_and_appears_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "TkAgg")
    monkeypatch.delenv("DISPLAY", raising=False)
    log, picture = tmp_path / "log.jsonl", tmp_path / "loss.png"
    log.write_text("")
    plot_loss(log, picture)
    assert not picture.exists()
    entries = [{"step": step, "loss": 5 / step} for step in range(1, 5000)] + [{"step": 7, "loss": None}]
    log.write_text("".join(json.dumps(entry) + "\n" for entry in [*entries, {"step": 9, "eval_loss": 0.7}]))
    plot_loss(log, picture)
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and "matplotlib.pyplot" not in sys.modules


def test_the_course_of_a_straight_line_is_that_line():
    line = np.linspace(3, 1, 400)
    assert np.abs(smoothed(line)[:380] - line[:380]).max() < 1e-12
    assert smoothed(np.array([2.0])) == [2.0]


def test_lines_stand_in_for_the_bar_in_a_file(tmp_path, capsys):
    trainer(tmp_path, max_steps=6, logging_steps=2, held_out=Rows(2), eval_steps=3).train()
    first, *said = capsys.readouterr().err.splitlines()
    assert first == "training on 11 rows"
    assert [line.split()[1] for line in said] == ["0/6", "2/6", "3/6", "4/6", "6/6", "6/6"]
    assert "tokens/s" in said[1] and "left" in said[1] and "perplexity" in said[0] and "perplexity" in said[2]


def test_a_notebook_is_one_that_runs_this_process(tmp_path, capsys):
    import ipykernel  # noqa: F401  (imported is not running)

    trainer(tmp_path, max_steps=2, logging_steps=1).train()
    assert capsys.readouterr().err.startswith("training on 11 rows\nstep 1/2")


def test_the_bar_shows_loss_speed_and_time_left(tmp_path, capsys):
    trainer(tmp_path, max_steps=6, disable_tqdm=False).train()
    last = capsys.readouterr().err.split("\r")[-1]
    assert "100%" in last and "6/6" in last and "loss " in last and "tokens/s" in last and "<" in last


def test_the_tokenizer_is_saved_with_the_model(tmp_path):
    tokenizer = llmc.Tokenizer.train(["a text", "another text"], vocab_size=270)
    trainer(tmp_path, of=model(vocab_size=300), tokenizer=tokenizer, save_strategy="steps").train()
    for folder in (tmp_path, tmp_path / "checkpoint-4"):
        assert llmc.Tokenizer.from_pretrained(folder).encode("a text") == tokenizer.encode("a text")


def test_transformers_opens_a_checkpoint(tmp_path, peers):
    trained = trainer(tmp_path, save_strategy="steps")
    trained.train()
    theirs = peers.transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-4").eval()
    ids = np.arange(10)[None]
    with peers.torch.no_grad():
        logits = theirs(peers.torch.tensor(ids)).logits.numpy()
    assert np.abs(trained.model(ids) - logits).max() < 1e-4


def test_an_unwritable_place_is_an_oserror(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        trainer(tmp_path / "file").train()
    with pytest.raises(OSError):
        trainer("/proc/nowhere").train()


# --- losses that are not finite --------------------------------------------------------------------------------------
def broken_row():
    """A model whose loss is not finite where token 30 is read; its parameters are finite."""
    broken = llmc.Model(llmc.Config(model_type="gpt2", vocab_size=31, n_positions=16, n_embd=12, n_layer=1, n_head=2,
                                    tie_word_embeddings=False))
    broken.state_dict()["transformer.wte.weight"][30] = 3e38
    return broken


def data_with_30_in_step(step):
    return [{"input_ids": [1, 30 if number == step else 2, 3]} for number in range(1, 5)]


def in_order(rows):
    """Rows as an iterable, which is not shuffled."""
    class Stream:
        def __iter__(self):
            return iter(rows)
    return Stream()


def test_a_loss_that_is_not_finite_raises_and_saves_nothing(tmp_path):
    trained = trainer(tmp_path, of=broken_row(), data=in_order(data_with_30_in_step(3)), per_device_train_batch_size=1,
                      save_strategy="steps", save_steps=1)
    said = "^step 3: the loss is nan; first bad tensor: the gradient of transformer.*checkpoint-2"
    with pytest.raises(llmc.NonFiniteError, match=said):
        trained.train()
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-1", "checkpoint-2", "log.jsonl"}
    assert same(llmc.Model.from_pretrained(tmp_path / "checkpoint-2"), trained.model)


def test_a_loss_that_is_not_finite_is_skipped_when_told_so(tmp_path):
    trained = trainer(tmp_path, of=broken_row(), data=in_order(data_with_30_in_step(3)), per_device_train_batch_size=1,
                      on_nonfinite="skip", save_strategy="steps", save_steps=1)
    with pytest.warns(RuntimeWarning, match="step 3: .*skipped"):
        assert trained.train().step == 4
    assert [entry["grad_norm"] is None for entry in steps_of(tmp_path)] == [False, False, True, False]
    folders = [llmc.Model.from_pretrained(tmp_path / f"checkpoint-{step}") for step in (2, 3, 4)]
    assert same(folders[0], folders[1]) and not same(folders[1], folders[2])
    assert all(np.isfinite(view).all() for view in trained.model.state_dict().values())


@pytest.mark.parametrize("policy", ["raise", "skip"])
def test_a_parameter_that_is_not_finite_is_named(tmp_path, policy):
    broken = model()
    broken.state_dict()["model.layers.1.mlp.up_proj.weight"][3, 4] = np.nan
    with pytest.raises(llmc.NonFiniteError, match="first bad tensor: model.layers.1.mlp.up_proj.weight"):
        trainer(tmp_path, of=broken, on_nonfinite=policy).train()


def test_parameters_that_are_not_finite_are_never_saved(tmp_path):
    trained = model()

    def damage(state):
        trained.state_dict()["model.norm.weight"][0] = np.inf

    with pytest.raises(llmc.NonFiniteError, match="model.norm.weight is not finite"):
        trainer(tmp_path, of=trained, max_steps=1, callbacks=[damage]).train()
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


# --- arguments -------------------------------------------------------------------------------------------------------
def test_names_and_defaults_are_those_of_transformers(peers):
    theirs = {field.name: field.default for field in dataclasses.fields(peers.transformers.TrainingArguments)}
    ours = {field.name: field.default for field in dataclasses.fields(llmc.TrainingArguments)}
    own = {"warmup_ratio", "overwrite_output_dir", "on_nonfinite", "router_learning_rate",
           "parameter_groups"}  # two older names, and ours
    assert ours.keys() - theirs.keys() == own
    changed = {name for name in ours.keys() - own if ours[name] != theirs[name]}
    assert changed == {"adam_beta2", "eval_on_start", "eval_strategy", "output_dir"}  # None: "trainer_output" there
    assert ours["adam_beta2"] == 0.95


def test_an_unknown_argument_is_a_type_error_with_the_nearest_names():
    with pytest.raises(TypeError, match="'lerning_rate'; nearest: learning_rate"):
        llmc.TrainingArguments("out", lerning_rate=1)


@pytest.mark.parametrize("name, value", [
    ("max_steps", 0), ("max_steps", -5), ("max_steps", 1.5), ("num_train_epochs", 0), ("num_train_epochs", math.nan),
    ("per_device_train_batch_size", 0), ("per_device_eval_batch_size", -1), ("gradient_accumulation_steps", 0),
    ("learning_rate", -1e-3), ("learning_rate", math.inf), ("weight_decay", -0.1), ("adam_beta1", 1.0),
    ("adam_beta2", -0.1), ("adam_epsilon", -1.0), ("max_grad_norm", -1.0), ("warmup_steps", -1), ("warmup_ratio", 1.5),
    ("lr_scheduler_type", "cosin"), ("save_steps", 0), ("save_steps", 2.5), ("eval_steps", 0), ("logging_steps", -1),
    ("save_total_limit", 0), ("eval_strategy", "often"), ("save_strategy", "best"), ("seed", -1), ("seed", 2**64),
    ("on_nonfinite", "ignore"),
])
def test_an_impossible_value_is_named(name, value):
    with pytest.raises(llmc.ConfigError, match=rf"{name}\b.*{value if not isinstance(value, float) else ''}"):
        llmc.TrainingArguments("out", **{name: value})


@pytest.mark.parametrize("name, value", [
    ("max_steps", "10"), ("learning_rate", None), ("seed", True), ("save_steps", {1}), ("disable_tqdm", 1),
    ("lr_scheduler_kwargs", 3),
])
def test_a_wrong_type_is_a_type_error(name, value):
    with pytest.raises(TypeError, match=name):
        llmc.TrainingArguments("out", **{name: value})


def test_a_warm_up_longer_than_the_training_is_said(tmp_path):
    with pytest.raises(llmc.ConfigError, match="warmup_steps 5 is longer than the training, max_steps 4"):
        trainer(tmp_path / "out", warmup_steps=5).train()
    assert not (tmp_path / "out").exists()


def test_shares_of_all_steps_are_understood():
    args = llmc.TrainingArguments("out", warmup_steps=0.1, save_steps=0.25)
    assert (args.warmup(95), args.every("save_steps", 90)) == (10, 23)
    assert llmc.TrainingArguments("out", warmup_ratio=0.1).warmup(95) == 10
    assert llmc.TrainingArguments("out", warmup_ratio=0.1, warmup_steps=3).warmup(95) == 3


def test_arguments_of_the_schedule_reach_it(tmp_path):
    trainer(tmp_path, lr_scheduler_type="cosine_with_min_lr", lr_scheduler_kwargs={"min_lr": 4e-3}).train()
    assert min(entry["learning_rate"] for entry in steps_of(tmp_path)) > 4e-3
    with pytest.raises(TypeError, match="min_rate"):
        trainer(tmp_path, lr_scheduler_type="cosine", lr_scheduler_kwargs={"min_rate": 1}).train()


def test_wrong_things_are_refused_by_name(tmp_path):
    with pytest.raises(TypeError, match="not a llmc.Model"):
        llmc.Trainer("model")
    with pytest.raises(TypeError, match="not llmc.TrainingArguments"):
        llmc.Trainer(model(), {"max_steps": 3})
    with pytest.raises(TypeError, match="cannot be called"):
        llmc.Trainer(model(), callbacks=["stop"])
    with pytest.raises(llmc.ConfigError, match="give Trainer a train_dataset"):
        llmc.Trainer(model(), llmc.TrainingArguments(str(tmp_path))).train()


def test_a_disk_without_room_for_a_checkpoint_is_said_before_the_first_step(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    starting = trainer(tmp_path / "out")
    with pytest.raises(OSError, match="1,000 are free; nothing was touched"):
        starting.train()
    assert os.listdir(tmp_path / "out") == [] and same(starting.model, model())


# --- rates of groups -------------------------------------------------------------------------------------------------
def lime(**changes):
    return model(model_type="lime", **changes)


GROUPS = [{"params": "*layers.1*router*", "weight_decay": 0.5}, {"params": ["model.norm.weight"], "lr": 3e-3}]


def test_every_group_has_its_rate_times_the_schedule(tmp_path):
    settings = dict(max_steps=6, learning_rate=1e-2, router_learning_rate=5e-2, lr_scheduler_type="cosine",
                    warmup_steps=2, weight_decay=0.1)  # fmt: skip
    trained, by_hand = lime(num_hidden_layers=3), lime(num_hidden_layers=3)
    trainer(tmp_path, trained, parameter_groups=GROUPS, **settings).train()
    groups = [*GROUPS, {"params": "*router*"}]
    optimizer, rates = llmc.AdamW(by_hand, lr=1e-2, weight_decay=0.1, groups=groups), []
    batches = Batches(Rows(), 2, 1, 5)
    run = by_hand.run(2, 8, backward=True)
    for step in range(6):
        share = llmc.train.schedule.share("cosine", step, learning_rate=1e-2, warmup_steps=2, max_steps=6)
        optimizer.lr = 1e-2 * share
        rates.append((1e-2 * share, 5e-2 * share))
        optimizer.groups[1]["lr"], optimizer.groups[2]["lr"] = 3e-3 * share, 5e-2 * share
        batch = llmc.data.collate([item for _, items in batches.take() for item in items])
        run.forward_backward(batch["input_ids"], labels=batch["labels"], attention_mask=batch["attention_mask"])
        optimizer.step(run)
    assert same(trained, by_hand)
    assert [(entry["learning_rate"], entry["router_learning_rate"]) for entry in steps_of(tmp_path)] == rates
    assert rates[2] == (1e-2, 5e-2)


def test_a_group_with_routers_and_no_rate_gives_them_the_learning_rate(tmp_path):
    found = []
    for groups, rate in ((GROUPS, 5e-2), ([{"params": "*router*"}], 5e-2), (None, None)):
        args = llmc.TrainingArguments(str(tmp_path), learning_rate=1e-2, router_learning_rate=rate,
                                      parameter_groups=groups)  # fmt: skip
        made = llmc.AdamW(lime(num_hidden_layers=3), lr=1e-2, groups=args.groups(lime(num_hidden_layers=3).trained()))
        found.append({name: group["lr"] for group in made.groups for name in group["params"] if "router" in name})
    router = "model.layers.{}.self_attn.lime_router.static_weights"
    assert found == [{router.format(1): 1e-2, router.format(2): 5e-2}, *[{router.format(1): 1e-2,
                                                                        router.format(2): 1e-2}] * 2]


def test_a_model_without_routers_has_no_use_for_their_rate(tmp_path):
    plain, with_rate = model(), model()
    trainer(tmp_path / "a", plain).train()
    trainer(tmp_path / "b", with_rate, router_learning_rate=0.5).train()
    assert same(plain, with_rate)
    assert "router_learning_rate" not in steps_of(tmp_path / "a")[0]
    assert steps_of(tmp_path / "b")[0]["router_learning_rate"] == 0.5


@pytest.mark.parametrize("arguments, error, words", [
    (dict(router_learning_rate=-1), llmc.ConfigError, "router_learning_rate is -1, not a finite number of at least 0"),
    (dict(router_learning_rate="fast"), TypeError, "router_learning_rate is 'fast'"),
    (dict(parameter_groups="*router*"), TypeError, "parameter_groups must be a list of dicts"),
    (dict(parameter_groups=[{"params": "*", "rate": 1}]), llmc.ConfigError, r"parameter_groups\[0\] has no key 'rate'"),
    (dict(parameter_groups=[{"params": "*", "lr": -1}]), llmc.ConfigError, r"lr of parameter_groups\[0\] is -1"),
    (dict(parameter_groups=[{"lr": 1}]), llmc.ConfigError, "no 'params'"),
])
def test_impossible_rates_of_groups_are_refused_by_name(arguments, error, words):
    with pytest.raises(error, match=words):
        llmc.TrainingArguments(**arguments)


def test_a_group_that_has_no_parameter_is_an_error_before_the_first_step(tmp_path):
    with pytest.raises(llmc.UnknownNameError, match="matches no parameter"):
        trainer(tmp_path, parameter_groups=[{"params": "*router*"}]).train()
