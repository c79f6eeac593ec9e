"""Makes the stored references: what transformers computes for a small model of every family and rope type.

    python tests/vectors/make_vectors.py

writes one .npz a case beside this file: the config (JSON), weights, ids, mask, labels, logits, loss, every gradient's
norm and a few gradients whole, the parameters after some steps of torch's AdamW, and a greedy continuation. Weights are
stored as float16, and the model computes with exactly those values in float32. The tests read them without torch.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from tiny import fields, hf_model  # noqa: E402
from types import SimpleNamespace  # noqa: E402

CASES = [
    "openai-gpt", "gpt2", "llama", "mistral", "gpt2: scaled by layer", "gpt2: untied", "llama: mlp bias",
    "llama: rope linear", "llama: rope dynamic", "llama: rope yarn", "llama: rope llama3", "llama: rope longrope",
]  # fmt: skip
B, T, STEPS, NEW = 3, 23, 3, 40


def file_name(case):
    """The file of a case, without its ending."""
    return case.replace(": ", "-").replace(" ", "_")


def halved(model):
    """Round every parameter to float16, so that the file may hold it so."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half().float())
    return model


def batch(config):
    """ids, a mask with padding on the left of one row, and labels with ignored ones."""
    rng = np.random.default_rng(0)
    ids, mask = rng.integers(0, config["vocab_size"], (B, T)), np.ones((B, T), np.int64)
    mask[1, :6] = 0
    labels = np.where(mask == 1, ids, -100)
    labels[1, 6], labels[2, 4:9] = -100, -100
    return ids, mask, labels


def trained(model, ids, labels):
    """The parameters after some steps of AdamW, clipped; weight decay on matrices alone."""
    groups = [{"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
              {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0}]  # fmt: skip
    optimizer = torch.optim.AdamW(groups, lr=3e-4, betas=(0.9, 0.95), eps=1e-8)
    for _ in range(STEPS):
        optimizer.zero_grad()
        model(torch.tensor(ids), labels=torch.tensor(labels), use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}


def make(case):
    """Write the file of a case."""
    config = fields(case)
    if "n_positions" in config:
        config["n_positions"] = T + NEW

    def fresh():  # transformers' rope types that grow remember the longest text they have seen
        return halved(hf_model(SimpleNamespace(torch=torch, transformers=transformers), config))

    model = fresh()
    ids, mask, labels = batch(config)
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    held = {"config": json.dumps(config), "transformers": transformers.__version__, "ids": ids.astype(np.uint8),
            "mask": mask.astype(np.uint8), "labels": labels.astype(np.int16)}  # fmt: skip
    held |= {f"weight:{name}": p.detach().numpy().astype(np.float16) for name, p in model.named_parameters()}
    out = model(torch.tensor(ids), attention_mask=torch.tensor(mask), position_ids=torch.tensor(positions),
                labels=torch.tensor(labels), use_cache=False)  # fmt: skip
    out.loss.backward()
    held |= {"logits": out.logits.detach().numpy()[:, ::4], "loss": out.loss.item()}
    held["text"] = model.generate(
        torch.tensor(ids[:1]), max_new_tokens=NEW, do_sample=False, pad_token_id=0, use_cache=False
    ).numpy().astype(np.uint8)  # fmt: skip
    whole = {name for name, p in model.named_parameters() if "h.1." in name or "layers.1." in name}
    held["names"] = json.dumps([name for name, _ in model.named_parameters()])
    held["norms"] = [np.linalg.norm(parameter.grad.double().numpy()) for parameter in model.parameters()]
    for name, parameter in model.named_parameters():
        if name in whole and parameter.numel() < 1000:
            held[f"gradient:{name}"] = parameter.grad.numpy().copy()
    before, after = dict(model.named_parameters()), trained(fresh(), ids, ids)
    held["moved"] = [np.linalg.norm(after[name] - p.detach().double().numpy()) for name, p in before.items()]
    held |= {f"trained:{name}": array for name, array in after.items() if array.ndim == 1}
    np.savez_compressed(HERE / f"{file_name(case)}.npz", **held)


if __name__ == "__main__":
    for each in CASES:
        make(each)
