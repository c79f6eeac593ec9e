"""The truth for a trace: float64 NumPy from kept activations and whole weights; nothing is shared with the package."""

import numpy as np


def kept(model, ids, mask=None):
    """{module: (input or None, output)} (B, T, C) and the logits, float64."""
    ids = np.atleast_2d(ids)
    run = model.run(*ids.shape, keep="all")
    run.forward(ids, attention_mask=mask)
    found = {}
    for name, (read, _) in run.shapes().items():
        read = None if read is None else run.input(name).astype(np.float64)
        found[name] = read, run.output(name).astype(np.float64)
    return found, run.logits.astype(np.float64)


def change(before, after):
    """||after - before|| / ||before||."""
    return np.linalg.norm(after - before) / np.linalg.norm(before)


def cosine(before, after):
    """The mean over tokens of the cosine of two (N, C)."""
    lengths = np.linalg.norm(before, axis=-1) * np.linalg.norm(after, axis=-1)
    return ((before * after).sum(axis=-1) / lengths).mean()


def log_softmax(z):
    z = z - z.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def kl(before, after):
    """(N,): KL(after || before)."""
    p, q = log_softmax(after), log_softmax(before)
    return (np.exp(p) * (p - q)).sum(axis=-1)


def weights(model):
    """{name: float64} that a model without adapters computes with."""
    return {name: np.asarray(array, np.float64) for name, array in model.state_dict().items()}


def function(kind, model, state, name, x, ids, positions):
    """f(x) of a module with the weights `state`: x (N, I), ids and positions (N,)."""
    weight, bias = state[f"{name}.weight"], state.get(f"{name}.bias", 0.0)
    if kind == "embedding":
        return weight[positions if "wpe" in name or "positions" in name else ids]
    if kind == "norm":
        if model.config.model_type in ("gpt2", "openai-gpt"):
            x = x - x.mean(axis=-1, keepdims=True)
            return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + model.config.layer_norm_epsilon) * weight + bias
        return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + model.config.rms_norm_eps) * weight
    in_out = model.config.model_type in ("gpt2", "openai-gpt") and kind == "linear"
    return x @ (weight if in_out else weight.T) + bias


def own_change(kind, base, tuned, name, x, ids, positions):
    """||f'(x) - f(x)|| / ||f(x)||."""
    before, after = (function(kind, model, weights(model), name, x, ids, positions) for model in (base, tuned))
    return change(before, after)
