"""The reference agrees with itself (slopes) and with torch and transformers, all in float64."""

import types

import numpy as np
import pytest
import reference
from conftest import TINY, require_peers


def slope_along(function, arrays, directions, step=1e-6):
    """The slope of a scalar function of arrays along directions, by central differences."""
    ahead = function(*[a + step * d for a, d in zip(arrays, directions)])
    behind = function(*[a - step * d for a, d in zip(arrays, directions)])
    return (ahead - behind) / (2 * step)


def assert_backward_is_slope(forward, backward, arrays):
    """`backward(dout, *arrays)` must agree with the slope of `forward(*arrays)` for a random dout and direction."""
    rng = np.random.default_rng(1)
    dout = rng.standard_normal(np.shape(forward(*arrays)))
    directions = [rng.standard_normal(a.shape) for a in arrays]
    slope = slope_along(lambda *moved: (forward(*moved) * dout).sum(), arrays, directions)
    grads = backward(dout, *arrays)
    grads = grads if isinstance(grads, tuple) else (grads,)
    assert [g.shape for g in grads] == [a.shape for a in arrays]
    assert sum((g * d).sum() for g, d in zip(grads, directions)) == pytest.approx(slope, rel=1e-7, abs=1e-8)


def normal(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape)


IDS = np.array([[3, 1, 3], [0, 4, 3]])
MASK = np.array([[0, 1, 1, 1, 0, 1, 1], [1, 1, 1, 1, 1, 1, 1]])
ATTENTIONS = {
    "causal": dict(),
    "everything": dict(causal=False),
    "window": dict(window=3),
    "two-sided window": dict(causal=False, window=2),
    "mask": dict(attention_mask=MASK),
    "scale": dict(scale=0.3, window=4, attention_mask=MASK),
}


def test_embedding_backward_is_its_slope():
    assert_backward_is_slope(
        lambda weight: reference.embedding(IDS, weight),
        lambda dout, weight: reference.embedding_backward(dout, IDS, weight),
        [normal(5, 7)],
    )


@pytest.mark.parametrize("bias", [True, False])
def test_linear_backward_is_its_slope(bias):
    arrays = [normal(2, 3, 5), normal(7, 5)] + ([normal(7)] if bias else [])
    assert_backward_is_slope(
        reference.linear, lambda dout, *inputs: reference.linear_backward(dout, *inputs)[: len(arrays)], arrays
    )


def test_norms_backward_are_their_slopes():
    assert_backward_is_slope(
        reference.layernorm, reference.layernorm_backward, [normal(2, 3, 7), normal(7), normal(1, 7)[0]]
    )
    assert_backward_is_slope(reference.rmsnorm, reference.rmsnorm_backward, [normal(2, 3, 7), normal(7)])


def test_rope_backward_is_its_slope():
    options = dict(positions=np.array([[5, 6, 9], [0, 1, 2]]), theta=50.0, factor=1.3)
    assert_backward_is_slope(
        lambda x: reference.rope(x, **options),
        lambda dout, x: reference.rope_backward(dout, x, **options),
        [normal(2, 3, 2, 6)],
    )


@pytest.mark.parametrize("case", ATTENTIONS)
@pytest.mark.parametrize("T, H, G", [(7, 4, 2), (3, 3, 3), (2, 3, 1)])
def test_attention_backward_is_its_slope(case, T, H, G):
    options = ATTENTIONS[case]
    assert_backward_is_slope(
        lambda *qkv: reference.attention(*qkv, **options),
        lambda dout, *qkv: reference.attention_backward(dout, *qkv, **options),
        [normal(2, T, H, 6), normal(2, 7, G, 6), normal(2, 7, G, 6) + 1],
    )


@pytest.mark.parametrize("name", [*reference.ACTIVATIONS, *reference.SYNONYMS])
def test_activation_backward_is_its_slope(name):
    def forward(x):
        return reference.activation(x, name)

    def backward(dout, x):
        return reference.activation_backward(dout, x, name)

    assert_backward_is_slope(forward, backward, [3 * normal(5, 41)])
    assert_backward_is_slope(
        lambda gate, up: reference.gated(gate, up, name),
        lambda dout, gate, up: reference.gated_backward(dout, gate, up, name),
        [3 * normal(5, 41), normal(5, 41)],
    )


def test_softmax_and_cross_entropy_backward_are_their_slopes():
    assert_backward_is_slope(
        reference.softmax, lambda dout, x: reference.softmax_backward(dout, reference.softmax(x)), [normal(3, 7)]
    )
    targets = np.array([[2, -100, 6], [0, 0, -1]])
    assert_backward_is_slope(
        lambda logits: reference.cross_entropy(logits, targets),
        lambda dout, logits: reference.cross_entropy_backward(dout, logits, targets),
        [normal(2, 3, 7)],
    )


def test_query_without_keys_gives_zeros_and_takes_no_gradient():
    q, k, v = normal(1, 3, 2, 4), normal(1, 3, 2, 4), normal(1, 3, 2, 4)
    mask = np.array([[0, 1, 1]])
    assert not reference.attention(q, k, v, attention_mask=mask)[:, 0].any()
    dq, dk, dv = reference.attention_backward(np.ones_like(q), q, k, v, attention_mask=mask)
    assert not dq[:, 0].any() and not dk[:, 0].any() and not dv[:, 0].any()


def test_ops_agree_with_torch():
    torch = require_peers().torch
    F = torch.nn.functional
    x, weight, bias = normal(2, 3, 7), normal(7), normal(1, 7)[0]
    t, w, b = (torch.tensor(array, requires_grad=True) for array in (x, weight, bias))
    out = F.layer_norm(t, (7,), w, b, 1e-5)
    np.testing.assert_allclose(reference.layernorm(x, weight, bias), out.detach(), rtol=0, atol=1e-12)
    out.square().sum().backward()
    for ours, theirs in zip(reference.layernorm_backward(2 * out.detach().numpy(), x, weight, bias), (t, w, b)):
        np.testing.assert_allclose(ours, theirs.grad, rtol=0, atol=1e-11)
    np.testing.assert_allclose(reference.rmsnorm(x, weight, 1e-6), F.rms_norm(t, (7,), w, 1e-6).detach(), atol=1e-12)
    targets = np.array([[2, -100, 6], [0, 0, -100]])
    theirs = F.cross_entropy(torch.tensor(x).reshape(6, 7), torch.tensor(targets).reshape(6))
    assert reference.cross_entropy(x, targets) == pytest.approx(theirs.item(), abs=1e-12)


@pytest.mark.parametrize("case", ATTENTIONS)
def test_attention_agrees_with_torch(case):
    torch = require_peers().torch
    q, k, v, options = normal(2, 7, 4, 6), normal(2, 7, 2, 6), normal(2, 7, 2, 6) + 1, dict(ATTENTIONS[case])
    scale = options.pop("scale", None)
    visible = reference.attention_visible(2, 7, 7, **options)
    sees = visible.any(axis=-1)  # torch gives NaN to a query without keys
    theirs = torch.nn.functional.scaled_dot_product_attention(
        *(torch.tensor(array).transpose(1, 2) for array in (q, k, v)),
        attn_mask=torch.tensor(visible)[:, None], scale=scale, enable_gqa=True,
    ).transpose(1, 2)
    ours = reference.attention(q, k, v, scale=scale, **options)
    np.testing.assert_allclose(ours[sees], theirs.numpy()[sees], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", [*reference.ACTIVATIONS, *reference.SYNONYMS])
def test_activation_agrees_with_transformers(name):
    peers = require_peers()
    x = np.concatenate([np.linspace(-12, 12, 997), [0.0, 6.0, 10.0]])
    t = peers.torch.tensor(x, requires_grad=True)
    y = peers.transformers.activations.ACT2FN[name](t)
    y.sum().backward()
    np.testing.assert_allclose(reference.activation(x, name), y.detach(), rtol=0, atol=1e-11)
    np.testing.assert_allclose(reference.activation_backward(1.0, x, name), t.grad, rtol=0, atol=1e-11)


@pytest.mark.parametrize("betas, weight_decay, max_norm", [((0.9, 0.95), 0.1, 0.5), ((0.8, 0.999), 0.0, 1e9)])
def test_adamw_and_clipping_agree_with_torch_over_20_steps(betas, weight_decay, max_norm):
    torch = require_peers().torch
    param = normal(5, 7)
    theirs = torch.tensor(param, requires_grad=True)
    optimizer = torch.optim.AdamW([theirs], lr=1e-2, betas=betas, weight_decay=weight_decay)
    m = v = np.zeros_like(param)
    for step in range(1, 21):
        grad = np.random.default_rng(step).standard_normal(param.shape)
        theirs.grad = torch.tensor(grad)
        norm = torch.nn.utils.clip_grad_norm_([theirs], max_norm).item()
        optimizer.step()
        scale, our_norm = reference.clip_scale([grad], max_norm)
        assert our_norm == pytest.approx(norm, rel=1e-12)
        param, m, v = reference.adamw_step(param, m, v, grad, step, 1e-2, betas, 1e-8, weight_decay, scale)
    np.testing.assert_allclose(param, theirs.detach(), rtol=0, atol=1e-12)


VARIANTS = {
    "openai-gpt": [dict(), dict(afn="relu", layer_norm_epsilon=1e-3)],
    "gpt2": [
        dict(),
        dict(scale_attn_weights=False, activation_function="gelu"),
        dict(scale_attn_by_inverse_layer_idx=True, n_inner=None, tie_word_embeddings=False),
    ],
    "llama": [
        dict(),
        dict(attention_bias=True, mlp_bias=True, num_key_value_heads=1, tie_word_embeddings=True, hidden_act="gelu"),
        dict(rope_parameters={"rope_type": "default", "rope_theta": 777.0}, rms_norm_eps=1e-2, head_dim=None,
             hidden_size=48),
    ],
    "mistral": [dict(), dict(sliding_window=None, num_key_value_heads=6), dict(sliding_window=1, rope_theta=500.0)],
}


@pytest.fixture
def double_peers(monkeypatch):
    """torch and transformers, whose LLaMA and Mistral keep float64 where they say torch.float32 on purpose."""
    peers = require_peers()
    torch = peers.torch
    wide = types.SimpleNamespace(**{**vars(torch), "float32": torch.float64, "float": torch.float64})
    for family in ("llama", "mistral"):
        module = getattr(peers.transformers.models, family)
        monkeypatch.setattr(getattr(module, f"modeling_{family}"), "torch", wide)
    return peers


def random_model(peers, config):
    """transformers' model of a config, in float64, every parameter random (biases and norms too); and its arrays."""
    torch, transformers = peers.torch, peers.transformers
    hf_config = transformers.AutoConfig.for_model(**config)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(hf_config, attn_implementation="eager").double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model, {name: array.numpy() for name, array in model.state_dict().items()}


@pytest.mark.parametrize("family, change", [(family, change) for family in TINY for change in VARIANTS[family]])
@pytest.mark.parametrize("padding", ["none", "left", "right"])
def test_model_logits_and_loss_agree_with_transformers(family, change, padding, double_peers):
    torch = double_peers.torch
    config = {**TINY[family], **change}
    model, params = random_model(double_peers, config)
    ids = np.random.default_rng(2).integers(0, config["vocab_size"], (2, 19))
    mask = np.ones_like(ids)
    mask[1, {"none": slice(0), "left": slice(0, 5), "right": slice(-5, None)}[padding]] = 0
    positions = reference.default_positions(ids, mask)
    labels = np.where(mask == 1, ids, -100)
    labels[:, 1:][mask[:, :-1] == 0] = -100  # what padding predicts is anyone's choice
    labels[0, 4:7] = -100
    with torch.no_grad():
        theirs = model(
            torch.tensor(ids), attention_mask=torch.tensor(mask), position_ids=torch.tensor(positions),
            labels=torch.tensor(labels), use_cache=False,
        )
    ours = reference.model_logits(config, params, ids, attention_mask=mask)
    assert np.abs(ours).max() > 0.5
    np.testing.assert_allclose(ours[mask == 1], theirs.logits.numpy()[mask == 1], rtol=0, atol=1e-10)
    loss = reference.model_loss(config, params, ids, labels=labels, attention_mask=mask)
    assert loss == pytest.approx(theirs.loss.item(), abs=2e-6)  # transformers takes the loss of float32 logits


def test_rope_types_are_given_by_their_frequencies(double_peers):
    torch = double_peers.torch
    scaling = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16, rope_theta=10000.0)
    config = {**TINY["llama"], "rope_parameters": scaling}
    model, params = random_model(double_peers, config)
    ids = np.random.default_rng(3).integers(0, config["vocab_size"], (1, 23))
    rotary = model.model.rotary_emb
    with torch.no_grad():
        theirs = model(torch.tensor(ids), use_cache=False).logits.numpy()
    with pytest.raises(ValueError, match="yarn"):
        reference.model_logits(config, params, ids)
    ours = reference.model_logits(
        config, params, ids, inv_freq=rotary.inv_freq.numpy(), rope_factor=rotary.attention_scaling
    )
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10)


def test_labels_of_none_count_no_padding():
    ids, mask = np.array([[9, 5, 6, 7, 9]]), np.array([[0, 1, 1, 1, 0]])
    assert reference.shift_labels(ids, attention_mask=mask).tolist() == [[-100, 6, 7, -100, -100]]
    assert reference.shift_labels(ids, labels=ids, attention_mask=mask).tolist() == [[5, 6, 7, 9, -100]]
