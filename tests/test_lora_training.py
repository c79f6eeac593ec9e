"""Training adapters: the base's logits at the start, peft's numbers after ten steps, a base that is never touched."""

import json
import os
import warnings

import numpy as np
import pytest
import tiny
from conftest import TINY, TOLERANCE, needs_bfloat16
from lora_peers import adapted
from test_truth import slope
from tiny import close, close_relative, random_ids, tiny_model

import llmc
from llmc.errors import ConfigError, NonFiniteError, UnknownNameError

SETTINGS = dict(lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
STEPS = 10


def copies(views):
    return {name: view.copy() for name, view in views.items()}


@pytest.mark.parametrize("kind", [True, "gaussian", "orthogonal"])
def test_at_the_start_the_logits_are_those_of_the_base(family, kind):
    model = tiny_model(TINY[family])
    ids = random_ids(TINY[family], 2, 9)
    base = model(ids)
    model.add_adapter(llmc.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=kind))
    if kind == "orthogonal":  # B A is zero but for rounding
        close(model(ids), base, TOLERANCE["logits"])
    else:
        assert (model(ids) == base).all()
        assert (model.generate(ids, max_new_tokens=4) == tiny_model(TINY[family]).generate(ids, max_new_tokens=4)).all()


def test_a_random_start_is_not_the_base(family):
    model = tiny_model(TINY[family])
    ids = random_ids(TINY[family], 2, 9)
    base = model(ids)
    model.add_adapter(llmc.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    assert np.abs(model(ids) - base).max() > 1e-2


def torch_optimizer(peers, model, settings):
    """torch's AdamW with our rule of decay: matrices, not biases and norms."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [dict(params=[q for q in trained if q.ndim > 1]),
              dict(params=[q for q in trained if q.ndim == 1], weight_decay=0.0)]
    return peers.torch.optim.AdamW(groups, **settings)


@pytest.mark.parametrize("case, config", [
    ("openai-gpt", dict(target_modules="all-linear", r=3)),
    ("gpt2", dict(target_modules="all-linear", r=4, lora_alpha=16)),
    ("llama", dict(target_modules="all-linear", r=4)),
    ("mistral", dict(target_modules=["q_proj", "v_proj"], r=4, use_rslora=True, layers_to_transform=[0, 1])),
    ("gpt2", dict(target_modules=["c_attn"], r=4, bias="all")),
    ("gpt2", dict(target_modules=["c_attn"], r=4, modules_to_save=["lm_head"])),
    ("llama: tied", dict(target_modules=["q_proj"], r=4, modules_to_save=["embed_tokens"])),
    ("gpt2", dict(target_modules=["c_attn"], r=4, bias="lora_only", modules_to_save=["mlp"])),
    ("llama", dict(target_modules=["o_proj", "lm_head"], r=4, modules_to_save=["embed_tokens", "norm"])),
    ("llama: mlp bias", dict(target_modules=["up_proj"], r=40, rank_pattern={r"layers\.1\..*": 2}, bias="lora_only")),
])  # fmt: skip
def test_ten_steps_are_those_of_peft(peers, tmp_path_factory, tmp_path, case, config):
    torch = peers.torch
    theirs, ours = adapted(peers, case, tmp_path_factory, noise=0.0, **config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.save_pretrained(tmp_path)
    ours.load_adapter(tmp_path, is_trainable=True)
    base = copies(ours._parameters)
    # The bias of a key moves every score of a query alike, so its gradient is rounding; AdamW makes steps of that.
    settings = SETTINGS | (dict(eps=1e-4) if "bias" in config else {})
    their_optimizer = torch_optimizer(peers, theirs, settings)
    optimizer = llmc.AdamW(ours, max_grad_norm=1.0, **settings)
    run = ours.run(2, 9, backward=True)
    for step in range(STEPS):
        ids = random_ids(tiny.fields(case), 2, 9, seed=step)
        their_loss = theirs(torch.tensor(ids), labels=torch.tensor(ids)).loss
        loss = run.forward_backward(ids)
        close(loss, their_loss.item(), TOLERANCE["logits"], f"loss of step {step}")
        their_loss.backward()
        their_norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        their_optimizer.step()
        their_optimizer.zero_grad()
        close_relative(optimizer.step(run), their_norm.item(), TOLERANCE["gradient"], f"norm of step {step}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.save_pretrained(tmp_path)
    expected = llmc.checkpoint.open(tmp_path / "adapter_model.safetensors")
    adapter, tensors = ours.adapters["default"], ours._model.adapter_parameters("default")
    for key, name in adapter.keys("default").items():
        close(tensors[name], expected[key], TOLERANCE["logits"], name)
    assert all((view == base[name]).all() for name, view in ours._parameters.items())


def test_gradients_of_adapters_are_slopes(family):
    config = TINY[family]
    model = tiny_model(config, double=True)
    model.add_adapter(llmc.LoraConfig(r=3, lora_alpha=5, target_modules="all-linear", init_lora_weights=False))
    model.add_adapter(llmc.LoraConfig(r=2, target_modules="mlp", init_lora_weights=False), "b")
    model.set_adapter(["default", "b"])
    ids = random_ids(config, 2, 7)
    run = model.run(2, 7, backward=True)
    run.forward_backward(ids)
    rng = np.random.default_rng(1)
    for name, view in model.trained().items():
        start, direction = view.copy(), rng.standard_normal(view.shape)

        def moved(by):
            view[...] = start + by * direction
            return run.forward(ids, labels=ids)

        gradient = run.grad(name, copy=True)
        difference = slope(moved) - float((gradient * direction).sum())
        view[...] = start
        assert abs(difference) <= TOLERANCE["slope"] * float(np.linalg.norm(gradient)), name


# --- what does not train ---------------------------------------------------------------------------------------------
def test_the_base_has_neither_gradients_nor_moments(family):
    model = tiny_model(TINY[family])
    model.add_adapter(llmc.LoraConfig(r=2, target_modules="mlp"))
    run, optimizer = model.run(2, 9, backward=True), llmc.AdamW(model)
    run.forward_backward(random_ids(TINY[family], 2, 9))
    for name in model._parameters:
        with pytest.raises(UnknownNameError, match="frozen"):
            run.grad(name)
    assert set(optimizer.state_dict()["exp_avg"]) == set(model._model.adapter_parameters("default"))
    assert all("lora_" in name for name in optimizer.state_dict()["exp_avg"])


def test_a_frozen_base_takes_no_room_for_gradients_of_its_weights():
    """Of 2048 tokens on such a gradient is summed from parts, which would make memory grow faster than the tokens."""
    config = dict(model_type="llama", vocab_size=64, hidden_size=256, num_hidden_layers=1, num_attention_heads=4,
                  intermediate_size=512, max_position_embeddings=4096)
    model = llmc.Model(llmc.Config(**config))
    model.add_adapter(llmc.LoraConfig(r=4, target_modules="all-linear"))
    half, whole = (model.estimate(1, length, train=True)["activations"] for length in (2040, 4080))
    assert whole <= 2 * half


def test_an_adapter_that_is_not_active_is_not_touched():
    model = tiny_model(TINY["llama"])
    model.add_adapter(llmc.LoraConfig(r=2, target_modules="mlp", init_lora_weights=False))
    model.add_adapter(llmc.LoraConfig(r=2, target_modules="mlp", init_lora_weights=False), "b")
    model.set_adapter("b")
    before = copies(model._model.adapter_parameters("default"))
    run, optimizer = model.run(2, 9, backward=True), llmc.AdamW(model, lr=0.1)
    run.forward_backward(random_ids(TINY["llama"], 2, 9))
    optimizer.step(run)
    assert all((view == before[name]).all() for name, view in model._model.adapter_parameters("default").items())
    with pytest.raises(UnknownNameError, match="frozen"):
        run.grad(next(iter(before)))


@pytest.mark.parametrize("how", ["disabled", "loaded frozen", "merged", "for inference"])
def test_training_with_nothing_that_trains_is_refused(how, tmp_path):
    model = tiny_model(TINY["llama"])
    model.add_adapter(llmc.LoraConfig(r=2, target_modules="mlp", init_lora_weights=False))
    if how == "disabled":
        model.disable_adapters()
    elif how == "merged":
        model.merge_adapter()
    elif how == "for inference":
        model.set_adapter("default", inference_mode=True)
    else:
        model.save_adapter(tmp_path)
        model = tiny_model(TINY["llama"])
        model.load_adapter(tmp_path)
    with pytest.raises(ConfigError, match="nothing is trainable"):
        llmc.AdamW(model)


def test_runs_and_optimizers_made_before_adapters_changed_say_so():
    model = tiny_model(TINY["llama"])
    ids = random_ids(TINY["llama"], 2, 9)
    run, optimizer = model.run(2, 9, backward=True), llmc.AdamW(model)
    model.add_adapter(llmc.LoraConfig(r=2, target_modules="mlp"))
    with pytest.raises(llmc.Error, match="anew"):
        run.forward(ids)
    fresh = model.run(2, 9, backward=True)
    fresh.forward_backward(ids)
    with pytest.raises(llmc.Error, match="anew"):
        optimizer.step(fresh)


def test_without_adapters_everything_trains_again():
    model = tiny_model(TINY["llama"])
    model.add_adapter(llmc.LoraConfig(r=2, target_modules="mlp"))
    model.delete_adapter("default")
    assert set(llmc.AdamW(model).state_dict()["exp_avg"]) == set(model._parameters)


# --- how it starts ---------------------------------------------------------------------------------------------------
def start(kind, rank=32, seed=0):
    """A and B of every projection of a model that is wide enough for statistics."""
    config = dict(model_type="llama", vocab_size=11, hidden_size=96, num_hidden_layers=2, num_attention_heads=4,
                  intermediate_size=160, max_position_embeddings=8)
    model = llmc.Model(llmc.Config(**config))
    model.add_adapter(llmc.LoraConfig(r=rank, target_modules="all-linear", init_lora_weights=kind), seed=seed)
    tensors = model._model.adapter_parameters("default")
    return [(view, tensors[name.replace("lora_A", "lora_B")]) for name, view in tensors.items() if "lora_A" in name]


def test_a_start_is_uniform_within_the_bounds_of_torch():
    for A, B in start(True):
        bound = 1 / np.sqrt(A.shape[1])
        error = TOLERANCE["initialisation"] / np.sqrt(A.size)
        assert np.abs(A).max() <= bound and np.abs(A).max() > 0.99 * bound and (B == 0).all()
        assert abs(A.mean()) < error * bound and abs(A.std() * np.sqrt(3) / bound - 1) < error
    for A, B in start(False):
        assert np.abs(B).max() <= 1 / np.sqrt(B.shape[1]) and abs(B.std() * np.sqrt(3 * B.shape[1]) - 1) < 0.1


def test_a_gaussian_start_has_the_deviation_of_peft():
    for A, B in start("gaussian"):
        error = TOLERANCE["initialisation"] / np.sqrt(A.size)
        assert abs(A.std() * len(A) - 1) < error and abs(A.mean() * len(A)) < error and (B == 0).all()


def test_an_orthogonal_start_adds_nothing_and_needs_an_even_rank():
    for A, B in start("orthogonal"):
        assert np.abs(B @ A).max() < 1e-5 and np.abs(A).max() > 0.1 and np.abs(B).max() > 0.1
    with pytest.raises(ConfigError, match="even rank, not 3"):
        start("orthogonal", rank=3)


def test_a_start_depends_on_the_seed_and_the_module_not_on_the_adapters_name():
    model = tiny_model(TINY["llama"])
    config = llmc.LoraConfig(r=4, target_modules="mlp")
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        model.add_adapter(config, name, seed=seed)
    a, b, c = (list(model._model.adapter_parameters(name).values()) for name in "abc")
    assert all((x == y).all() for x, y in zip(a, b)) and not (a[0] == c[0]).all() and not (a[0] == a[2]).all()


# --- dropout ---------------------------------------------------------------------------------------------------------
PATH = "model.layers.0.self_attn.q_proj"


def dropped(seed=0, rate=0.3, moment=None):
    """What dropout let through to A, and what there was: an adapter that adds the (dropped) input to the output."""
    config = TINY["llama"] | dict(num_attention_heads=4, hidden_size=40, head_dim=10)
    model = tiny_model(config)
    ids = random_ids(config, 4, 60)
    reference = model.run(4, 60, keep=[PATH])
    reference.forward(ids)
    model.add_adapter(llmc.LoraConfig(r=40, lora_alpha=40, lora_dropout=rate, target_modules=[PATH]))
    for view in model._model.adapter_parameters("default").values():
        view[...] = np.eye(40)
    run = model.run(4, 60, keep=[PATH], backward=True, dropout=True, seed=seed)
    if moment is not None:
        run._core.set_dropout_key(*moment)
    run.forward(ids, labels=ids)
    return run.output(PATH, copy=True) - reference.output(PATH), reference.input(PATH, copy=True)


def test_dropout_zeroes_a_share_of_the_input_and_scales_up_the_rest():
    through, there = dropped()
    scaled = there / np.float32(0.7)
    kept = np.abs(through - scaled) < 1e-4
    assert (kept | (np.abs(through) < 1e-4)).all()
    assert abs(kept.mean() - 0.7) < TOLERANCE["initialisation"] * np.sqrt(0.3 * 0.7 / kept.size)
    rows = kept.mean(axis=(0, 1))
    assert np.abs(rows - 0.7).max() < TOLERANCE["initialisation"] * np.sqrt(0.3 * 0.7 / kept[..., 0].size)


def test_dropout_is_reproducible_and_differs_between_seeds_and_steps():
    first, _ = dropped(seed=3)
    assert (first == dropped(seed=3)[0]).all()
    assert not (first == dropped(seed=4)[0]).all()
    assert not (first == dropped(seed=3, moment=(1, 0))[0]).all()
    assert not (first == dropped(seed=3, moment=(0, 1))[0]).all()


def test_dropout_happens_only_in_runs_that_ask_for_it():
    model = tiny_model(TINY["llama"])
    ids = random_ids(TINY["llama"], 2, 9)
    model.add_adapter(llmc.LoraConfig(r=4, lora_dropout=0.9, target_modules="mlp", init_lora_weights=False))
    model.add_adapter(llmc.LoraConfig(r=4, target_modules="mlp", init_lora_weights=False), "plain")
    logits = model(ids)
    model.set_adapter("plain")
    assert (model(ids) == logits).all()


def test_every_branch_drops_for_itself():
    model = tiny_model(TINY["llama"])
    model.add_adapter(llmc.LoraConfig(r=44, lora_alpha=44, lora_dropout=0.5, target_modules=["q_proj", "k_proj"]))
    for name, view in model._model.adapter_parameters("default").items():
        view[...] = np.eye(*view.shape)
    ids = random_ids(TINY["llama"], 2, 9)
    paths = [f"model.layers.0.self_attn.{part}_proj" for part in "qk"]
    run = model.run(2, 9, keep=paths, backward=True, dropout=True)
    base = model.run(2, 9, keep=paths)
    base.forward(ids)
    run.forward(ids, labels=ids)
    weights = [model.state_dict()[f"{path}.weight"] for path in paths]
    masks = [np.abs(run.output(path)[..., :20] - base.input(path) @ weight.T[:, :20]) < 1e-6
             for path, weight in zip(paths, weights)]
    assert not (masks[0] == masks[1]).all()


# --- the trainer -----------------------------------------------------------------------------------------------------
class Rows:
    """Eight rows of seven tokens."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return {"input_ids": [(7 * index + 3 * t * t) % 103 for t in range(7)]}


def lora_trainer(folder, base, dtype="float32", precision=None, **changes):
    model = llmc.Model.from_pretrained(base, dtype, precision)
    model.add_adapter(llmc.LoraConfig(r=2, lora_dropout=0.2, target_modules="all-linear"))
    settings = dict(max_steps=6, per_device_train_batch_size=2, learning_rate=1e-2, save_strategy="steps", save_steps=3,
                    disable_tqdm=True) | changes
    arguments = llmc.TrainingArguments(str(folder), **settings)
    return llmc.Trainer(model, arguments, train_dataset=Rows(), eval_dataset=Rows())


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tiny_model(TINY["llama"]).save_pretrained(folder)
    return folder


def test_the_trainer_leaves_an_adapter_and_not_the_base(base, tmp_path):
    trainer = lora_trainer(tmp_path, base)
    before, loss = copies(trainer.model._parameters), trainer.evaluate()["eval_loss"]
    result = trainer.train()
    assert result.eval_loss < loss
    assert all((view == before[name]).all() for name, view in trainer.model._parameters.items())
    assert {"adapter_config.json", "adapter_model.safetensors", "checkpoint-3"} <= set(os.listdir(tmp_path))
    for folder in (tmp_path, tmp_path / "checkpoint-6", tmp_path / "checkpoint-best"):
        assert not (folder / "model.safetensors").exists()
        ids = random_ids(TINY["llama"], 2, 9)
        assert (llmc.Model.from_pretrained(folder)(ids) == trainer.model(ids)).all() or folder.name.endswith("best")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_training_of_an_adapter_resumes_to_the_same_bits(base, tmp_path, dtype):
    whole = lora_trainer(tmp_path / "whole", base, dtype)
    whole.train()
    cut = lora_trainer(tmp_path / "cut", base, dtype)
    cut.callbacks.append(lambda state: "stop" if state.step == 3 else None)
    cut.train()
    again = lora_trainer(tmp_path / "cut", base, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again.train(resume_from_checkpoint=True)
    ours, theirs = (trainer.model._model.adapter_parameters("default") for trainer in (again, whole))
    assert all((view == theirs[name]).all() for name, view in ours.items())


@pytest.mark.parametrize("options, said", [
    pytest.param(dict(precision="bfloat16"), "precision was float32, now it is bfloat16", marks=needs_bfloat16),
    (dict(dtype="int8", precision="float32"), "dtype was float32, now it is int8"),
])  # fmt: skip
def test_resuming_in_another_precision_or_on_a_base_stored_otherwise_is_said(base, tmp_path, options, said):
    lora_trainer(tmp_path, base, max_steps=3).train()
    with pytest.warns(RuntimeWarning, match=said):
        lora_trainer(tmp_path, base, **options, max_steps=3).train(resume_from_checkpoint=True)


def test_a_training_resumes_only_the_adapter_it_was(base, tmp_path):
    lora_trainer(tmp_path, base).train()
    other = lora_trainer(tmp_path, base)
    other.model.delete_adapter("default")
    with pytest.raises(ConfigError, match="holds an adapter, but what is to be trained is a whole model"):
        other.train(resume_from_checkpoint=True)
    other.model.add_adapter(llmc.LoraConfig(r=3, target_modules="all-linear"))
    with pytest.raises(ConfigError, match="(r|lora_dropout) of adapter 'default' was"):
        other.train(resume_from_checkpoint=True)


def test_a_loss_that_is_not_finite_names_the_adapters_tensor(base, tmp_path):
    trainer = lora_trainer(tmp_path, base)
    name = "model.layers.0.mlp.up_proj.lora_A.default.weight"
    trainer.model.state_dict()[name][0, 0] = np.nan
    with pytest.raises(NonFiniteError, match=name):
        trainer.train()


def test_the_log_has_every_step(base, tmp_path):
    lora_trainer(tmp_path, base).train()
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines() if '"loss"' in line]
    assert steps == list(range(1, 7))
