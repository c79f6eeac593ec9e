"""The truth: every op, and every family as a whole, in float64 NumPy, as close to its formula as can be.

Nothing here is fast and nothing is shared with the package. Ops have the names and arguments of `llmc.functional`; each
has a `_backward` twin that takes the gradient of the output first and returns the gradients of the inputs in the
order of the arguments. Letters: B batch, T time, N rows, C width, H query heads, G key/value heads, D head size,
V vocabulary. Leading axes written `...` are any.
"""

import math

import numpy as np


def f64(x):
    """`x` as a float64 array."""
    return np.asarray(x, dtype=np.float64)


# Embedding and linear


def embedding(ids, weight):
    """Rows of `weight` (V, C) at `ids` (...): (..., C)."""
    return f64(weight)[np.asarray(ids)]


def embedding_backward(dout, ids, weight):
    """Gradient of `weight`: each row the sum of `dout` over the places it was read at."""
    dout, ids, dweight = f64(dout), np.asarray(ids), np.zeros(np.shape(weight))
    for at in np.ndindex(ids.shape):
        dweight[ids[at]] += dout[at]
    return dweight


def linear(x, weight, bias=None):
    """`x` (..., in) times `weight` (out, in), transposed, plus `bias` (out): (..., out)."""
    out = f64(x) @ f64(weight).T
    return out if bias is None else out + f64(bias)


def linear_backward(dout, x, weight, bias=None):
    """Gradients of `x`, `weight` and `bias` (None where there is no bias)."""
    dout, x, weight = f64(dout), f64(x), f64(weight)
    rows, inputs = dout.reshape(-1, dout.shape[-1]), x.reshape(-1, x.shape[-1])
    return dout @ weight, rows.T @ inputs, None if bias is None else rows.sum(axis=0)


# Norms, over the last axis


def layernorm(x, weight, bias, eps=1e-5):
    """(x - mean) / sqrt(variance + eps) * weight + bias."""
    x = f64(x)
    centred = x - x.mean(axis=-1, keepdims=True)
    rstd = 1 / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps)
    return centred * rstd * f64(weight) + f64(bias)


def layernorm_backward(dout, x, weight, bias, eps=1e-5):
    """Gradients of `x`, `weight` and `bias`."""
    dout, x, weight = f64(dout), f64(x), f64(weight)
    centred = x - x.mean(axis=-1, keepdims=True)
    rstd = 1 / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps)
    normal = centred * rstd
    dnormal = dout * weight
    dx = rstd * (
        dnormal
        - dnormal.mean(axis=-1, keepdims=True)
        - normal * (dnormal * normal).mean(axis=-1, keepdims=True)
    )
    rows = tuple(range(x.ndim - 1))
    return dx, (dout * normal).sum(axis=rows), dout.sum(axis=rows)


def rmsnorm(x, weight, eps=1e-6):
    """x / sqrt(mean(x^2) + eps) * weight."""
    x = f64(x)
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps) * f64(weight)


def rmsnorm_backward(dout, x, weight, eps=1e-6):
    """Gradients of `x` and `weight`."""
    dout, x, weight = f64(dout), f64(x), f64(weight)
    rstd = 1 / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps)
    normal = x * rstd
    dnormal = dout * weight
    dx = rstd * (dnormal - normal * (dnormal * normal).mean(axis=-1, keepdims=True))
    return dx, (dout * normal).sum(axis=tuple(range(x.ndim - 1)))


# Rotary position embedding


def rope_inv_freq(head_dim, theta=10000.0):
    """The inverse frequencies of the default rope type, theta^(-2i/D): (D/2)."""
    return theta ** -(np.arange(0, head_dim, 2) / head_dim)


def rope_table(positions, inv_freq, factor=1.0):
    """cos and sin of position times inverse frequency, times `factor`: each (..., D/2)."""
    angle = f64(positions)[..., None] * f64(inv_freq)
    return np.cos(angle) * factor, np.sin(angle) * factor


def rope(x, positions=None, theta=10000.0, inv_freq=None, factor=1.0):
    """Rotate the halves of every head of `x` (B, T, H, D) by its position, (T) or (B, T); None counts from 0."""
    x = f64(x)
    positions = np.arange(x.shape[1]) if positions is None else positions
    inv_freq = rope_inv_freq(x.shape[-1], theta) if inv_freq is None else inv_freq
    cos, sin = (table[..., None, :] for table in rope_table(positions, inv_freq, factor))
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def rope_backward(dout, x, positions=None, theta=10000.0, inv_freq=None, factor=1.0):
    """Gradient of `x`: the rotation is orthogonal (times `factor`), so this is the rotation back."""
    dout = f64(dout)
    positions = np.arange(dout.shape[1]) if positions is None else positions
    return rope(dout, -f64(positions), theta, inv_freq, factor)


# Attention


def attention_visible(B, T, Tk, causal=True, window=None, attention_mask=None):
    """Whether query t of row b may see key s: booleans (B, T, Tk). Query t stands at slot t + Tk - T."""
    visible = np.zeros((B, T, Tk), dtype=bool)
    for b in range(B):
        for t in range(T):
            for s in range(Tk):
                behind = t + Tk - T - s  # how many slots the key lies behind the query
                visible[b, t, s] = (
                    (behind >= 0 or not causal)
                    and (window is None or behind < window)
                    and (attention_mask is None or attention_mask[b][s] != 0)
                )
    return visible


def attention_pattern(q, k, causal=True, window=None, attention_mask=None, scale=None):
    """The softmax of scale q.k over the keys each query may see: (B, H, T, Tk). A query that sees none has zeros."""
    q, k = f64(q), f64(k)
    (B, T, H, D), (_, Tk, G, _) = q.shape, k.shape
    scale = D**-0.5 if scale is None else scale
    scores = np.einsum("bthd,bshd->bhts", q, np.repeat(k, H // G, axis=2)) * scale
    visible = attention_visible(B, T, Tk, causal, window, attention_mask)[:, None]
    highest = np.max(scores, axis=-1, keepdims=True, where=visible, initial=-np.inf)
    weights = np.exp(np.where(visible, scores - highest, -np.inf))
    total = weights.sum(axis=-1, keepdims=True)
    return weights / np.where(total == 0, 1, total)


def attention(q, k, v, causal=True, window=None, attention_mask=None, scale=None):
    """Mix the values by the pattern.

    Parameters
    ----------
    q : (B, T, H, D)
    k, v : (B, Tk, G, D)
        Query head h reads key/value head h // (H / G).
    causal : bool
        A query sees no later slot than its own.
    window : int or None
        A query sees the last `window` slots, its own included.
    attention_mask : (B, Tk) or None
        0 hides a key.
    scale : float or None
        What multiplies q.k; None is 1 / sqrt(D).

    Returns
    -------
    (B, T, H, D)
    """
    pattern = attention_pattern(q, k, causal, window, attention_mask, scale)
    group = np.shape(q)[2] // np.shape(k)[2]
    return np.einsum("bhts,bshd->bthd", pattern, np.repeat(f64(v), group, axis=2))


def attention_backward(dout, q, k, v, causal=True, window=None, attention_mask=None, scale=None):
    """Gradients of `q`, `k` and `v`."""
    dout, q, k, v = f64(dout), f64(q), f64(k), f64(v)
    (B, T, H, D), (_, Tk, G, _) = q.shape, k.shape
    scale = D**-0.5 if scale is None else scale
    pattern = attention_pattern(q, k, causal, window, attention_mask, scale)
    keys, values = np.repeat(k, H // G, axis=2), np.repeat(v, H // G, axis=2)
    dvalues = np.einsum("bhts,bthd->bshd", pattern, dout)
    dpattern = np.einsum("bthd,bshd->bhts", dout, values)
    dscores = softmax_backward(dpattern, pattern) * scale
    dq = np.einsum("bhts,bshd->bthd", dscores, keys)
    dkeys = np.einsum("bhts,bthd->bshd", dscores, q)

    def sum_group(heads):
        return heads.reshape(B, Tk, G, H // G, D).sum(axis=3)

    return dq, sum_group(dkeys), sum_group(dvalues)


# Activations


erf = np.vectorize(math.erf, otypes=[np.float64])


def sigmoid(x):
    """1 / (1 + exp(-x)), without overflow."""
    x = f64(x)
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def normal_density(x):
    """The density of the standard normal distribution."""
    return np.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)


def _gelu(x):
    return x * 0.5 * (1 + erf(x / math.sqrt(2)))


def _gelu_slope(x):
    return 0.5 * (1 + erf(x / math.sqrt(2))) + x * normal_density(x)


def _gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _gelu_tanh_slope(x):
    t = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t**2) * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)


def _logistic_gate_slope(x, rate):
    s = sigmoid(rate * x)
    return s + rate * x * s * (1 - s)


def _mish_slope(x):
    t = np.tanh(np.logaddexp(0, x))
    return t + x * (1 - t**2) * sigmoid(x)


LAPLACE_MU, LAPLACE_SIGMA = 0.707107, 0.282095

# transformers' name: (function, slope). At a corner the slope is torch's choice.
ACTIVATIONS = {
    "linear": (lambda x: x, lambda x: np.ones_like(x)),
    "gelu": (_gelu, _gelu_slope),
    "gelu_new": (_gelu_tanh, _gelu_tanh_slope),
    "quick_gelu": (lambda x: x * sigmoid(1.702 * x), lambda x: _logistic_gate_slope(x, 1.702)),
    "silu": (lambda x: x * sigmoid(x), lambda x: _logistic_gate_slope(x, 1.0)),
    "relu": (lambda x: np.maximum(x, 0), lambda x: np.where(x > 0, 1.0, 0.0)),
    "relu2": (lambda x: np.maximum(x, 0) ** 2, lambda x: 2 * np.maximum(x, 0)),
    "relu6": (lambda x: np.clip(x, 0, 6), lambda x: np.where((x > 0) & (x < 6), 1.0, 0.0)),
    "leaky_relu": (lambda x: np.where(x > 0, x, 0.01 * x), lambda x: np.where(x > 0, 1.0, 0.01)),
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "sigmoid": (sigmoid, lambda x: sigmoid(x) * (1 - sigmoid(x))),
    "mish": (lambda x: x * np.tanh(np.logaddexp(0, x)), _mish_slope),
    "gelu_10": (lambda x: np.clip(_gelu(x), -10, 10), lambda x: np.where(_gelu(x) > 10, 0.0, _gelu_slope(x))),
    "laplace": (
        lambda x: 0.5 * (1 + erf((x - LAPLACE_MU) / (LAPLACE_SIGMA * math.sqrt(2)))),
        lambda x: normal_density((x - LAPLACE_MU) / LAPLACE_SIGMA) / LAPLACE_SIGMA,
    ),
}

# Other names for the same functions. `gelu_fast` writes sqrt(2/pi) with ten digits: 1e-12 away.
SYNONYMS = {
    "gelu_pytorch_tanh": "gelu_new",
    "gelu_python_tanh": "gelu_new",
    "gelu_accurate": "gelu_new",
    "gelu_fast": "gelu_new",
    "gelu_python": "gelu",
    "swish": "silu",
}


def activation(x, name):
    """The function that transformers calls `name`, elementwise."""
    return ACTIVATIONS[SYNONYMS.get(name, name)][0](f64(x))


def activation_backward(dout, x, name):
    """Gradient of `x`."""
    return f64(dout) * ACTIVATIONS[SYNONYMS.get(name, name)][1](f64(x))


def gelu(x, approximate="none"):
    """The Gaussian error linear unit, exact or through tanh."""
    return activation(x, "gelu" if approximate == "none" else "gelu_new")


def gelu_backward(dout, x, approximate="none"):
    """Gradient of `x`."""
    return activation_backward(dout, x, "gelu" if approximate == "none" else "gelu_new")


def silu(x):
    """x * sigmoid(x)."""
    return activation(x, "silu")


def silu_backward(dout, x):
    """Gradient of `x`."""
    return activation_backward(dout, x, "silu")


def gated(gate, up, name):
    """act(gate) * up."""
    return activation(gate, name) * f64(up)


def gated_backward(dout, gate, up, name):
    """Gradients of `gate` and `up`."""
    return activation_backward(f64(dout) * f64(up), gate, name), f64(dout) * activation(gate, name)


def swiglu(gate, up):
    """silu(gate) * up."""
    return gated(gate, up, "silu")


def swiglu_backward(dout, gate, up):
    """Gradients of `gate` and `up`."""
    return gated_backward(dout, gate, up, "silu")


# Softmax and cross entropy


def log_softmax(x):
    """x - log(sum(exp(x))), over the last axis."""
    x = f64(x)
    shifted = x - x.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def softmax(x):
    """exp(x) / sum(exp(x)), over the last axis."""
    return np.exp(log_softmax(x))


def softmax_backward(dout, out):
    """Gradient of `x`, from out = softmax(x)."""
    dout, out = f64(dout), f64(out)
    return out * (dout - (dout * out).sum(axis=-1, keepdims=True))


def cross_entropy_losses(logits, targets):
    """-log softmax(logits)[target] of every row of (..., V); 0 where the target is negative."""
    logits, targets = f64(logits), np.asarray(targets)
    kept = np.maximum(targets, 0)[..., None]
    losses = -np.take_along_axis(log_softmax(logits), kept, axis=-1)[..., 0]
    return np.where(targets < 0, 0.0, losses)


def cross_entropy(logits, targets):
    """The mean over the rows whose target counts (negative ones, -100 by custom, do not); NaN where none does."""
    counted = np.count_nonzero(np.asarray(targets) >= 0)
    return cross_entropy_losses(logits, targets).sum() / counted if counted else math.nan


def cross_entropy_backward(dout, logits, targets):
    """Gradient of `logits`; `dout` is a number."""
    targets = np.asarray(targets)
    onehot = np.arange(np.shape(logits)[-1]) == targets[..., None]
    counted = targets >= 0
    return dout * (softmax(logits) - onehot) * counted[..., None] / np.count_nonzero(counted)


# The optimizer


def adamw_step(param, m, v, grad, step, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, grad_scale=1.0):
    """One step of torch.optim.AdamW, counted from 1.

    Returns
    -------
    tuple
        The new `param`, `m` and `v`.
    """
    grad = f64(grad) * grad_scale
    param = f64(param) * (1 - lr * weight_decay)
    m = betas[0] * f64(m) + (1 - betas[0]) * grad
    v = betas[1] * f64(v) + (1 - betas[1]) * grad**2
    m_hat = m / (1 - betas[0] ** step)
    v_hat = v / (1 - betas[1] ** step)
    return param - lr * m_hat / (np.sqrt(v_hat) + eps), m, v


def clip_scale(grads, max_norm):
    """What torch's clip_grad_norm_ multiplies every gradient by, and the norm: (scale, norm)."""
    norm = math.sqrt(sum((f64(grad) ** 2).sum() for grad in grads))
    return min(1.0, max_norm / (norm + 1e-6)), norm


# The families, by the names of a Hugging Face checkpoint


def field(config, *names, default=None):
    """The first of `names` that `config` has and that is not null."""
    for name in names:
        if config.get(name) is not None:
            return config[name]
    return default


def default_positions(ids, attention_mask=None):
    """Positions (B, T) that count the tokens the mask lets through; without a mask 0 .. T-1."""
    mask = np.ones(np.shape(ids), dtype=int) if attention_mask is None else np.asarray(attention_mask)
    return np.maximum(np.cumsum(mask, axis=1) - 1, 0)


def split_heads(x, heads):
    """(B, T, heads * D) as (B, T, heads, D)."""
    return x.reshape(*x.shape[:2], heads, -1)


def join_heads(x):
    """(B, T, heads, D) as (B, T, heads * D)."""
    return x.reshape(*x.shape[:2], -1)


def gpt_attention(config, W, path, x, layer, attention_mask):
    """Attention of GPT and GPT-2: one fused matrix for queries, keys and values, stored (in, out)."""
    heads = field(config, "num_attention_heads", "n_head")
    q, k, v = np.split(x @ W[path + ".c_attn.weight"] + W[path + ".c_attn.bias"], 3, axis=-1)
    scale = (x.shape[-1] // heads) ** -0.5 if config.get("scale_attn_weights", True) else 1.0
    if config.get("scale_attn_by_inverse_layer_idx", False):
        scale /= layer + 1
    mixed = attention(
        split_heads(q, heads), split_heads(k, heads), split_heads(v, heads), attention_mask=attention_mask, scale=scale
    )
    return join_heads(mixed) @ W[path + ".c_proj.weight"] + W[path + ".c_proj.bias"]


def gpt_mlp(W, path, x, act):
    """The feed-forward network of GPT and GPT-2; matrices are stored (in, out)."""
    hidden = activation(x @ W[path + ".c_fc.weight"] + W[path + ".c_fc.bias"], act)
    return hidden @ W[path + ".c_proj.weight"] + W[path + ".c_proj.bias"]


def gpt_hidden(config, W, ids, attention_mask, positions):
    """GPT: the norm stands after each residual sum, and none at the end."""
    eps = config.get("layer_norm_epsilon", 1e-5)
    act = config.get("afn", "gelu")
    act = "gelu_new" if act == "gelu" else act  # GPT's own table of activations calls it so

    def norm(path, x):
        return layernorm(x, W[path + ".weight"], W[path + ".bias"], eps)

    x = embedding(ids, W["transformer.tokens_embed.weight"])
    x = x + embedding(positions, W["transformer.positions_embed.weight"])
    for layer in range(field(config, "num_hidden_layers", "n_layer")):
        path = f"transformer.h.{layer}"
        n = norm(path + ".ln_1", x + gpt_attention(config, W, path + ".attn", x, layer, attention_mask))
        x = norm(path + ".ln_2", n + gpt_mlp(W, path + ".mlp", n, act))
    return x


def gpt2_hidden(config, W, ids, attention_mask, positions):
    """GPT-2: the norm stands before each branch, and one at the end."""
    eps = config.get("layer_norm_epsilon", 1e-5)
    act = config.get("activation_function", "gelu_new")

    def norm(path, x):
        return layernorm(x, W[path + ".weight"], W[path + ".bias"], eps)

    x = embedding(ids, W["transformer.wte.weight"]) + embedding(positions, W["transformer.wpe.weight"])
    for layer in range(field(config, "num_hidden_layers", "n_layer")):
        path = f"transformer.h.{layer}"
        x = x + gpt_attention(config, W, path + ".attn", norm(path + ".ln_1", x), layer, attention_mask)
        x = x + gpt_mlp(W, path + ".mlp", norm(path + ".ln_2", x), act)
    return norm("transformer.ln_f", x)


def lime_routed(weight, offers):
    """Heads (B, T, G, D) made of the heads of a list of such offers, of layer 0 and those behind it."""
    return np.einsum("gc,btcd->btgd", weight, np.concatenate(offers, axis=2))


def hyper_width(W, path, streams):
    """What a branch reads of streams (B, T, S, C), how they go on, and how much each takes of what the branch gives.

    Returns
    -------
    (B, T, C), (B, T, S, C), (B, T, S)
    """
    alpha, beta = W[path + ".static_alpha"], np.broadcast_to(W[path + ".static_beta"], streams.shape[:-1])
    if path + ".dynamic_alpha_fn" in W:
        n = layernorm(streams, 1, 0, 1e-5)
        alpha = alpha + W[path + ".dynamic_alpha_scale"] * np.tanh(n @ W[path + ".dynamic_alpha_fn"])
        beta = beta + W[path + ".dynamic_beta_scale"] * np.tanh(n @ W[path + ".dynamic_beta_fn"])
    mixed = np.swapaxes(np.broadcast_to(alpha, (*streams.shape[:2], *alpha.shape[-2:])), -1, -2) @ streams
    return mixed[..., 0, :], mixed[..., 1:, :], beta


def top_p_kept(p, top_p):
    """Which of the probabilities (..., M) are kept: the smallest set of the largest whose sum exceeds `top_p`."""
    kept = np.zeros(np.shape(p), dtype=bool)
    for at in np.ndindex(p.shape[:-1]):
        total = 0.0
        for m in np.argsort(-p[at], kind="stable"):
            kept[at][m] = True
            total += p[at][m]
            if total > top_p:
                break
    return kept


def retrieval_weights(config, W, path, own, offered):
    """How much each head reads of each representation, (B, T, H, M) or (H, M); `own`: the layer's stream, normalised.

    Only of those that are `offered` (M booleans) anything is read.
    """
    if path + ".static_weights" in W:
        logits = W[path + ".static_weights"]
    else:
        logits = linear(own, W[path + ".dynamic_proj.0.weight"])
        logits = logits.reshape(*logits.shape[:2], -1, len(offered))
    weights = np.zeros(logits.shape)
    weights[..., offered] = softmax(logits[..., offered])
    if config.get("router_top_p") is not None:
        weights = np.where(top_p_kept(weights, config["router_top_p"]), weights, 0)
    return weights / weights.sum(axis=-1, keepdims=True)


def mixed_heads(weights, streams, matrix):
    """A head (B, T, H, D) of the mixture of normalised streams, each (B, T, C), that it reads; matrix (H * D, C)."""
    B, T, H = *streams[0].shape[:2], weights.shape[-2]
    weights = np.broadcast_to(weights, (B, T, H, len(streams)))
    mixtures = np.einsum("bthm,mbtc->bthc", weights, np.stack(streams))
    return np.einsum("bthc,hdc->bthd", mixtures, matrix.reshape(H, -1, matrix.shape[1]))


def llama_hidden(config, W, ids, attention_mask, positions, inv_freq, rope_factor):
    """LLaMA and Mistral, which differ in their numbers only: the window and the biases; LIMe, which routes or mixes;
    LLaMAs of several streams, some with norms without weights in their blocks.

    Of a model with mixtures `config["left_out"]` may name layers whose stream is not offered to those behind them.
    """
    eps = config.get("rms_norm_eps", 1e-6)
    act = config.get("hidden_act", "silu")
    heads = config["num_attention_heads"]
    kv_heads = field(config, "num_key_value_heads", default=heads)
    window = config.get("sliding_window", 4096) if config["model_type"] == "mistral" else None

    def norm(path, x):
        return rmsnorm(x, W[path + ".weight"], eps) if path + ".weight" in W else layernorm(x, 1, 0, 1e-5)

    def project(path, x):
        return linear(x, W[path + ".weight"], W.get(path + ".bias"))

    def rotate(x):
        return rope(x, positions, inv_freq=inv_freq, factor=rope_factor)

    def read(path, x):
        return hyper_width(W, path, x) if path + ".static_alpha" in W else (x, x, None)

    def joined(x, beta, y):
        return x + y if beta is None else x + beta[..., None] * y[..., None, :]

    keys, values, representations, streams = [], [], [], config.get("hyper_rate")
    offered = [layer not in config.get("left_out", ()) for layer in range(config["num_hidden_layers"])]
    x = embedding(ids, W["model.embed_tokens.weight"])
    x = np.repeat(x[:, :, None], streams, axis=2) if streams else x
    for layer in range(config["num_hidden_layers"]):
        path = f"model.layers.{layer}"
        representations.append(x)
        n, x, beta = read(path + ".hc_attn", x)
        n = norm(path + ".input_layernorm", n)
        q = rotate(split_heads(project(path + ".self_attn.q_proj", n), heads))
        keys.append(split_heads(project(path + ".self_attn.k_proj", n), kv_heads))
        values.append(split_heads(project(path + ".self_attn.v_proj", n), kv_heads))
        router = W.get(path + ".self_attn.lime_router.static_weights")
        k, v = (offers[-1] if router is None else lime_routed(router, offers) for offers in (keys, values))
        if path + ".input_layernorm_lime.weight" in W:
            normed = [norm(path + ".input_layernorm_lime", stream) for stream in representations]
            router = retrieval_weights(config, W, path + ".attention_router", normed[-1], offered[: layer + 1])
            k, v = (mixed_heads(router, normed, W[f"{path}.self_attn.{part}_proj.weight"]) for part in "kv")
        mixed = join_heads(attention(q, rotate(k), v, window=window, attention_mask=attention_mask))
        x = joined(x, beta, project(path + ".self_attn.o_proj", mixed))
        n, x, beta = read(path + ".hc_mlp", x)
        n = norm(path + ".post_attention_layernorm", n)
        hidden = gated(project(path + ".mlp.gate_proj", n), project(path + ".mlp.up_proj", n), act)
        x = joined(x, beta, project(path + ".mlp.down_proj", hidden))
    return norm("model.norm", x.sum(axis=2) if streams else x)


NORMS = {  # norm_place: names of the norms (before, on what it gives, after the addition) of (attention, feed-forward)
    ("in",): (("input_layernorm", None, None), ("post_attention_layernorm", None, None)),
    ("out",): ((None, "post_attention_layernorm", None), (None, "post_feedforward_layernorm", None)),
    ("sum",): ((None, None, "post_attention_layernorm"), (None, None, "post_feedforward_layernorm")),
    ("in", "out"): (
        ("input_layernorm", "post_attention_layernorm", None),
        ("pre_feedforward_layernorm", "post_feedforward_layernorm", None),
    ),
}


def each_layer(config, name):
    """A field that is one value, or a list of one a layer: the list."""
    value = config.get(name)
    return value if isinstance(value, list) else [value] * config["num_hidden_layers"]


def assembled_norm(config, W, path, x):
    """The norm of an assembled decoder; `path` None: there is none here."""
    if path is None:
        return x
    if config["norm"] == "rms":
        return rmsnorm(x, W[path + ".weight"], config["norm_eps"])
    weight, bias = (1, 0) if config["norm"] == "bare" else (W[path + ".weight"], W[path + ".bias"])
    return layernorm(x, weight, bias, config["norm_eps"])


def assembled_attention(config, W, path, x, window, attention_mask, rotate):
    """Attention of an assembled decoder, whose heads may share keys and values; `rotate` turns queries and keys."""

    def project(name, x):
        return linear(x, W[f"{path}.{name}.weight"], W.get(f"{path}.{name}.bias"))

    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    q = rotate(split_heads(project("q_proj", x), heads))
    k = rotate(split_heads(project("k_proj", x), kv_heads))
    v = split_heads(project("v_proj", x), kv_heads)
    return project("o_proj", join_heads(attention(q, k, v, window=window, attention_mask=attention_mask)))


def assembled_feed_forward(config, W, path, x, kind):
    """down(act(gate(x)) * up(x)), or down(act(up(x)))."""

    def project(name, x):
        return linear(x, W[f"{path}.{name}.weight"], W.get(f"{path}.{name}.bias"))

    up, act = project("up_proj", x), config["hidden_act"]
    return project("down_proj", gated(project("gate_proj", x), up, act) if kind == "gated" else activation(up, act))


def assembled_rotations(config, positions, inv_freq, rope_factor):
    """For each layer, what turns heads by their positions; one row of `inv_freq` for each base, by first appearance."""
    if config["position"] != "rope":
        return [lambda x: x] * config["num_hidden_layers"]
    bases = each_layer(config, "rope_theta")
    different = list(dict.fromkeys(bases))
    if inv_freq is None:
        inv_freq = [config_inv_freq({**config, "rope_theta": base}) for base in different]
    factors = np.broadcast_to(rope_factor, len(different))

    def rotation(table):
        return lambda x: rope(x, positions, inv_freq=inv_freq[table], factor=factors[table])

    return [rotation(different.index(base)) for base in bases]


def assembled_hidden(config, W, ids, attention_mask, positions, inv_freq, rope_factor):
    """A decoder that says its kinds: which norms stand where, how positions count, how branches follow each other."""
    place = config["norm_place"]
    norms = NORMS[(place,) if isinstance(place, str) else tuple(place)]
    rotations = assembled_rotations(config, positions, inv_freq, rope_factor)
    windows, kinds = each_layer(config, "sliding_window"), each_layer(config, "feed_forward")
    x = embedding(ids, W["model.embed_tokens.weight"])
    if config["position"] == "learned":
        x = x + embedding(positions, W["model.embed_positions.weight"])
    for layer in range(config["num_hidden_layers"]):
        path = f"model.layers.{layer}"

        def norm(name, x):
            return assembled_norm(config, W, name and f"{path}.{name}", x)

        def attend(x):
            own = windows[layer], attention_mask, rotations[layer]
            return assembled_attention(config, W, f"{path}.self_attn", x, *own)

        def feed_forward(x):
            return assembled_feed_forward(config, W, f"{path}.mlp", x, kinds[layer])

        if config["order"] == "parallel":
            n = norm(norms[0][0], x)
            x = x + attend(n) + feed_forward(n)
            continue
        for branch, (before, gives, after) in zip((attend, feed_forward), norms):
            x = norm(after, x + norm(gives, branch(norm(before, x))))
    return assembled_norm(config, W, "model.norm" if config["final_norm"] else None, x)


def config_inv_freq(config):
    """The inverse frequencies of a config whose rope type is the default one.

    Raises
    ------
    ValueError
        For every other rope type: those are given as `inv_freq`.
    """
    scaling = field(config, "rope_parameters", "rope_scaling", default={})
    rope_type = field(scaling, "rope_type", "type", default="default")
    if rope_type != "default":
        raise ValueError(f"rope type {rope_type!r}: give inv_freq and rope_factor, the reference computes the default")
    theta = field(scaling, "rope_theta", default=config.get("rope_theta", 10000.0))
    heads = config["num_attention_heads"]
    return rope_inv_freq(field(config, "head_dim", default=config["hidden_size"] // heads), theta)


EMBEDDING = {
    "openai-gpt": "transformer.tokens_embed.weight",
    "gpt2": "transformer.wte.weight",
    "llama": "model.embed_tokens.weight",
    "mistral": "model.embed_tokens.weight",
    "lime": "model.embed_tokens.weight",
    "hc": "model.embed_tokens.weight",
    "hc-paper": "model.embed_tokens.weight",
    "lime1-static": "model.embed_tokens.weight",
    "lime1-dynamic": "model.embed_tokens.weight",
    "llmc": "model.embed_tokens.weight",
}


def model_hidden(config, params, ids, attention_mask=None, position_ids=None, inv_freq=None, rope_factor=1.0):
    """What the head reads: (B, T, C). Arguments as in `model_logits`."""
    W = {name: f64(array) for name, array in params.items()}
    ids = np.atleast_2d(ids)
    positions = default_positions(ids, attention_mask) if position_ids is None else np.asarray(position_ids)
    if config["model_type"] == "openai-gpt":
        return gpt_hidden(config, W, ids, attention_mask, positions)
    if config["model_type"] == "gpt2":
        return gpt2_hidden(config, W, ids, attention_mask, positions)
    if config["model_type"] == "llmc":
        return assembled_hidden(config, W, ids, attention_mask, positions, inv_freq, rope_factor)
    inv_freq = config_inv_freq(config) if inv_freq is None else inv_freq
    return llama_hidden(config, W, ids, attention_mask, positions, inv_freq, rope_factor)


def model_logits(config, params, ids, attention_mask=None, position_ids=None, inv_freq=None, rope_factor=1.0):
    """The logits of a whole model.

    Parameters
    ----------
    config : dict
        The fields of config.json, in either spelling; `model_type` is a key of `EMBEDDING`.
    params : dict
        Hugging Face name: array. The head is the embedding when tied (as `tie_word_embeddings`, or the family, says).
    ids : (B, T) or (T,)
    attention_mask : (B, T) or None
        0 hides a token from the others.
    position_ids : (B, T) or None
        None counts the tokens that the mask lets through, from 0.
    inv_freq : (D/2), of an assembled decoder (R, D/2) for its R different bases, or None
        Inverse frequencies for rope types other than the default.
    rope_factor : float, or (R)
        What multiplies cos and sin.

    Returns
    -------
    (B, T, V)
    """
    family = config["model_type"]
    tied = config.get("tie_word_embeddings", family in ("openai-gpt", "gpt2"))
    head = params[EMBEDDING[family] if tied else "lm_head.weight"]
    return linear(model_hidden(config, params, ids, attention_mask, position_ids, inv_freq, rope_factor), head)


def shift_labels(ids, labels=None, attention_mask=None):
    """The target of every position, -100 where none counts: (B, T).

    Explicit labels shift by one and nothing else. Without labels the ids are the labels, except that no padding is
    predicted and none predicts.
    """
    given = np.atleast_2d(ids if labels is None else labels)
    targets = np.full(given.shape, -100)
    targets[:, :-1] = given[:, 1:]
    if labels is None and attention_mask is not None:
        real = np.atleast_2d(attention_mask) != 0
        targets[:, :-1][~(real[:, 1:] & real[:, :-1])] = -100
    return targets


def model_loss(config, params, ids, labels=None, attention_mask=None, position_ids=None, inv_freq=None,
               rope_factor=1.0, num_items_in_batch=None):
    """The mean loss of predicting each next token; `num_items_in_batch` divides the sum instead of the count.

    `labels=None` means the ids, padding excepted. Other arguments as in `model_logits`.
    """
    logits = model_logits(config, params, ids, attention_mask, position_ids, inv_freq, rope_factor)
    targets = shift_labels(ids, labels, attention_mask)
    if num_items_in_batch is None:
        return cross_entropy(logits, targets)
    return cross_entropy_losses(logits, targets).sum() / num_items_in_batch
