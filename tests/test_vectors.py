"""Agreement with transformers where it is not installed: against the references that vectors/make_vectors.py stored."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import TOLERANCE
from tiny import close, close_relative

import llmc

FILES = sorted((Path(__file__).parent / "vectors").glob("*.npz"))


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def stored(request):
    """(our model with the stored weights, everything that is stored)."""
    held = dict(np.load(request.param))
    model = llmc.Model(llmc.Config(**json.loads(str(held["config"]))))
    model.load_state_dict(group(held, "weight"))
    return model, held


def group(held, kind):
    """{name: array} of what is stored under `kind:name`."""
    return {name.partition(":")[2]: array for name, array in held.items() if name.startswith(f"{kind}:")}


def by_name(held, kind):
    """{parameter: number} of what is stored as one number a parameter."""
    return dict(zip(json.loads(str(held["names"])), held[kind]))


def test_every_family_is_stored_and_the_files_are_small():
    families = {json.loads(str(np.load(path)["config"]))["model_type"] for path in FILES}
    assert families == {"openai-gpt", "gpt2", "llama", "mistral"}
    assert sum(path.stat().st_size for path in FILES) < 1.5e6


def test_logits_and_loss_are_the_stored_ones(stored):
    model, held = stored
    ids, mask, labels = (held[name].astype(np.int64) for name in ("ids", "mask", "labels"))
    real = mask[:, ::4] == 1
    close(model(ids, attention_mask=mask)[:, ::4][real], held["logits"][real], TOLERANCE["logits"], "logits")
    loss = model.loss(ids, labels=labels, attention_mask=mask)
    assert loss == pytest.approx(float(held["loss"]), abs=TOLERANCE["loss"])


def test_gradients_are_the_stored_ones(stored):
    model, held = stored
    ids, mask, labels = (held[name].astype(np.int64) for name in ("ids", "mask", "labels"))
    run = model.run(*ids.shape, backward=True)
    run.forward_backward(ids, labels=labels, attention_mask=mask)
    norms = by_name(held, "norms")
    assert norms.keys() == model._parameters.keys()
    for name, norm in norms.items():
        assert np.linalg.norm(run.grad(name).astype(np.float64)) == pytest.approx(norm, rel=TOLERANCE["gradient"]), name
    wholes = group(held, "gradient")
    assert len(wholes) >= 4
    for name, gradient in wholes.items():
        close_relative(run.grad(name), gradient, TOLERANCE["gradient"], name)


def test_steps_of_adamw_are_the_stored_ones(stored):
    model, held = stored
    ids = held["ids"].astype(np.int64)
    before = {name: array.copy() for name, array in model._parameters.items()}
    run = model.run(*ids.shape, backward=True)
    optimizer = llmc.AdamW(model, lr=3e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, max_grad_norm=1.0)
    for _ in range(3):
        run.forward_backward(ids)
        optimizer.step(run)
    for name, trained in group(held, "trained").items():
        a, b = model._parameters[name], trained
        if name.endswith("c_attn.bias"):  # a key's bias moves no logit: its gradient is nothing but rounding
            a, b = (np.delete(x.reshape(3, -1), 1, axis=0) for x in (a, b))
        close(a, b, TOLERANCE["parameters"], name)
    for name, moved in by_name(held, "moved").items():
        if not name.endswith("c_attn.bias"):
            found = np.linalg.norm((model._parameters[name] - before[name]).astype(np.float64))
            assert found == pytest.approx(float(moved), rel=1e-3), name


@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy_text_is_the_stored_one(use_cache, stored):
    model, held = stored
    text = model.generate(held["ids"][:1], max_new_tokens=40, use_cache=use_cache)
    for at in np.flatnonzero(text[0] != held["text"][0])[:1]:
        best = np.sort(model(held["text"][:, :at], logits_to_keep=1)[0, 0])[-2:]
        assert best[1] - best[0] <= 1e-4, f"differs at {at}"
