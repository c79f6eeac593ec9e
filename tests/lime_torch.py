"""LIMe, both versions, in PyTorch: written from the formulas, with autograd; nothing of llmc or the reference in it."""


def _rms(torch, x, gain, eps):
    return torch.nn.functional.rms_norm(x, gain.shape, gain, eps)


def _turned(torch, x, positions, theta):
    """Heads (B, H, T, D), the halves of each turned as a complex number."""
    half = x.shape[-1] // 2
    angle = positions[:, None, :, None] * theta ** (-torch.arange(half, dtype=torch.float32) / half)
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat((turned.real, turned.imag), dim=-1)


def _pruned(torch, weights, top_p):
    """The authors' rule: sorted, what comes after the sum has exceeded `top_p` is dropped, the rest sums to 1."""
    ordered, places = weights.sort(dim=-1, descending=True)
    beyond = ordered.cumsum(dim=-1) > top_p
    dropped = torch.zeros_like(beyond)
    dropped[..., 1:] = beyond[..., :-1]
    kept = weights * torch.zeros_like(weights).scatter(-1, places, (~dropped).to(weights.dtype))
    return kept / kept.sum(dim=-1, keepdim=True)


def _mixtures(torch, config, W, path, streams, gain, eps):
    """What every head reads: (B, T, H, C)."""
    normed = torch.stack([_rms(torch, stream, gain, eps) for stream in streams], dim=2)
    static = W.get(path + "attention_router.static_weights")
    if static is None:
        logits = normed[:, :, -1] @ W[path + "attention_router.dynamic_proj.0.weight"].T
        return torch.softmax(logits.unflatten(-1, (-1, len(streams))), dim=-1) @ normed
    weights = torch.softmax(static, dim=-1)
    if config.get("router_top_p") is not None:
        weights = _pruned(torch, weights, config["router_top_p"])
    return weights @ normed


def logits_and_loss(torch, config, W, ids, mask):
    """Of parameters {name: tensor}; ids and mask (B, T), long and bool."""
    heads, eps, theta = config["num_attention_heads"], config.get("rms_norm_eps", 1e-6), 10000.0
    groups = config.get("num_key_value_heads") or heads
    positions = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
    length = ids.shape[1]
    sees = torch.ones(length, length, dtype=torch.bool).tril() & mask[:, None, None, :]
    sees = sees | torch.eye(length, dtype=torch.bool)  # padding sees itself, so that no row is empty; nobody reads it

    def split(x, count):
        return x.unflatten(-1, (count, -1)).transpose(1, 2)

    streams, offers = [], []
    x = W["model.embed_tokens.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        path = f"model.layers.{layer}."
        query, key, value = (W[f"{path}self_attn.{part}_proj.weight"] for part in "qkv")
        streams.append(x)
        n = _rms(torch, x, W[path + "input_layernorm.weight"], eps)
        q, k, v = split(n @ query.T, heads), split(n @ key.T, groups), split(n @ value.T, groups)
        gain = W.get(path + "input_layernorm_lime.weight")
        if gain is not None:
            read = _mixtures(torch, config, W, path, streams, gain, eps)
            k, v = (torch.stack([read[:, :, h] @ weight.T for h, weight in enumerate(matrix.chunk(heads))], dim=1)
                    for matrix in (key, value))
        offers.append(torch.cat((k, v), dim=-1))
        router = W.get(path + "self_attn.lime_router.static_weights")
        if router is not None:
            k, v = torch.tensordot(router, torch.cat(offers, dim=1), dims=([1], [1])).transpose(0, 1).chunk(2, dim=-1)
        k, v = (each.repeat_interleave(heads // groups, dim=1) for each in (k, v))
        q, k = (_turned(torch, each, positions, theta) for each in (q, k))
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=sees)
        x = x + mixed.transpose(1, 2).flatten(2) @ W[path + "self_attn.o_proj.weight"].T
        n = _rms(torch, x, W[path + "post_attention_layernorm.weight"], eps)
        gate, up = (n @ W[f"{path}mlp.{part}_proj.weight"].T for part in ("gate", "up"))
        x = x + (torch.nn.functional.silu(gate) * up) @ W[path + "mlp.down_proj.weight"].T
    x = _rms(torch, x, W["model.norm.weight"], eps)
    logits = x @ W["model.embed_tokens.weight" if config.get("tie_word_embeddings") else "lm_head.weight"].T
    counted = mask[:, 1:] & mask[:, :-1]
    if not counted.any():
        return logits, None
    return logits, torch.nn.functional.cross_entropy(logits[:, :-1][counted], ids[:, 1:][counted])
