"""The truth for LIM and its kin: each formula in float64 NumPy, from the input and the output of a module as a whole.

x (N, I) and y (N, O) are the tokens that are not padding; nothing here is shared with the package.
"""

import numpy as np


def common(x, y):
    """Both, over their common leading features, in float64."""
    width = min(x.shape[-1], y.shape[-1])
    return np.asarray(x[..., :width], np.float64), np.asarray(y[..., :width], np.float64)


def lim(x, y):
    """||y - x|| / ||x||, Frobenius."""
    x, y = common(x, y)
    return np.linalg.norm(y - x) / np.linalg.norm(x)


def lim_feature_mean(x, y):
    """||y - mean_features(x)|| / ||x||."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return np.linalg.norm(y - x.mean(axis=-1, keepdims=True)) / np.linalg.norm(x)


def cosines(x, y):
    """(N,): the cosine of every token's input and output."""
    x, y = common(x, y)
    return (x * y).sum(axis=-1) / (np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1))


def negative_cosine(x, y):
    return -cosines(x, y).mean()


def block_influence(x, y):
    return (1 - cosines(x, y)).mean()


def angular_distance(x, y):
    return (np.arccos(np.clip(cosines(x, y), -1, 1)) / np.pi).mean()


def relative_contribution(x, y, stream=None):
    """||y - x|| / ||x|| per token, mean; of a branch, ||y|| / ||stream||."""
    if stream is not None:
        y, stream = np.asarray(y, np.float64), np.asarray(stream, np.float64)
        return (np.linalg.norm(y, axis=-1) / np.linalg.norm(stream, axis=-1)).mean()
    x, y = common(x, y)
    return (np.linalg.norm(y - x, axis=-1) / np.linalg.norm(x, axis=-1)).mean()


def lim_per_token(x, y):
    """||y - x|| / ||x|| per token, mean, over the common leading features."""
    return relative_contribution(x, y)


def cka(x, y):
    """||Yc' Xc||^2 / (||Xc' Xc|| ||Yc' Yc||)."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    return np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))


def spearman(a, b):
    """Spearman's correlation: Pearson's of the mean ranks."""
    ranks = [[sum(y < x for y in side) + (sum(y == x for y in side) + 1) / 2 for x in side] for side in (a, b)]
    return np.corrcoef(*ranks)[0, 1]


def captured(model, ids, attention_mask=None):
    """{module: (input, output, stream or None)} over the tokens that are not padding, from a run that keeps all.

    The stream that a branch joins is what the norm before it reads; where the norm comes after, what it reads itself.
    """
    ids = np.atleast_2d(ids)
    run = model.run(*ids.shape, keep="all")
    run.forward(ids, attention_mask=attention_mask)
    real = np.ones(ids.shape, bool) if attention_mask is None else np.asarray(attention_mask, bool)
    post = model.config.model_type == "openai-gpt"
    norms = {"attn": "ln_1", "self_attn": "input_layernorm",
             "mlp": "ln_2" if model.config.model_type == "gpt2" else "post_attention_layernorm"}  # fmt: skip
    found = {}
    for name, (read, _) in run.shapes().items():
        if read is None:
            continue
        block, _, leaf = name.rpartition(".")
        stream = None
        if leaf in norms:
            stream = run.input(name if post else f"{block}.{norms[leaf]}")[real]
        found[name] = run.input(name)[real], run.output(name)[real], stream
    return found
