"""Small random models of every family: ours in float and in double, and transformers' with the same parameters."""

import functools
import json

import numpy as np
from conftest import TINY

import llmc
from llmc import _core64, core

# What each family computes differently when its config says so. Names are unique: a test's id says what broke.
CHANGES = {
    "openai-gpt": {
        "relu": dict(afn="relu"),
        "swish": dict(afn="swish"),
        "epsilon": dict(layer_norm_epsilon=0.3),
        "untied": dict(tie_word_embeddings=False),
        "one head": dict(n_head=1),
    },
    "gpt2": {
        "four times the width": dict(n_inner=None),
        "exact gelu": dict(activation_function="gelu"),
        "relu": dict(activation_function="relu"),
        "quick gelu": dict(activation_function="quick_gelu"),
        "tanh": dict(activation_function="tanh"),
        "unscaled": dict(scale_attn_weights=False),
        "scaled by layer": dict(scale_attn_by_inverse_layer_idx=True),
        "reordered": dict(scale_attn_by_inverse_layer_idx=True, reorder_and_upcast_attn=True),
        "epsilon": dict(layer_norm_epsilon=0.3),
        "untied": dict(tie_word_embeddings=False),
    },
    "llama": {
        "tied": dict(tie_word_embeddings=True),
        "attention bias": dict(attention_bias=True),
        "mlp bias": dict(mlp_bias=True, attention_bias=True, tie_word_embeddings=True),
        "one key head": dict(num_key_value_heads=1),
        "every key head": dict(num_key_value_heads=4),
        "head_dim from the width": dict(head_dim=None, hidden_size=48),
        "epsilon": dict(rms_norm_eps=0.3),
        "exact gelu": dict(hidden_act="gelu"),
        "tanh gelu": dict(hidden_act="gelu_pytorch_tanh"),
        "base": dict(rope_theta=333.0),
        "base among the parameters": dict(rope_parameters={"rope_type": "default", "rope_theta": 333.0}),
        "padding token": dict(pad_token_id=3),
    },
    "mistral": {
        "no window": dict(sliding_window=None),
        "window of one": dict(sliding_window=1),
        "window beyond": dict(sliding_window=64),
        "head_dim from the width": dict(head_dim=None, hidden_size=48),
        "tied": dict(tie_word_embeddings=True),
        "one key head": dict(num_key_value_heads=1),
    },
}
_LENGTHS = dict(short_factor=[1.0, 1.2, 1.5, 2.0, 3.0], long_factor=[2.0, 3.0, 4.0, 5.0, 8.0])
ROPES = {
    "linear": dict(rope_type="linear", factor=2.5),
    "dynamic": dict(rope_type="dynamic", factor=2.0),
    "yarn": dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16),
    "yarn with its numbers": dict(
        rope_type="yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=20.0, beta_slow=2.0,
        attention_factor=1.3,
    ),
    "llama3": dict(
        rope_type="llama3", factor=8.0, original_max_position_embeddings=16, low_freq_factor=1.0, high_freq_factor=4.0
    ),
    "longrope": dict(rope_type="longrope", original_max_position_embeddings=16, **_LENGTHS),
}  # fmt: skip
GROWING = ("dynamic", "longrope")  # their frequencies depend on the length, in both directions of 16 tokens


def rope_change(name, old=False):
    """Fields that choose one of `ROPES` with a trained length of 16, in the new spelling or in the old one."""
    parameters = dict(ROPES[name])
    if not old:
        return dict(max_position_embeddings=16, rope_parameters={**parameters, "rope_theta": 777.0})
    parameters["type"] = parameters.pop("rope_type")
    return dict(max_position_embeddings=16, rope_scaling=parameters, rope_theta=777.0)


CASES = {family: (family, {}) for family in TINY}
CASES |= {f"{f}: {name}": (f, change) for f, changes in CHANGES.items() for name, change in changes.items()}
CASES |= {f"llama: rope {name}": ("llama", rope_change(name)) for name in ROPES}
CASES |= {f"llama: old spelling of rope {name}": ("llama", rope_change(name, old=True)) for name in ROPES}
CASES["mistral: rope yarn"] = ("mistral", rope_change("yarn"))


def fields(case):
    """The config of a case of `CASES`, as a dict."""
    family, change = CASES[case]
    return {**TINY[family], **change}


class DoubleModel(llmc.Model):
    """A model in double, to be checked by slopes."""

    _core = _core64


core.choose(_core64)
# Models this small are done before a second thread wakes up. Other numbers of threads give the same bits: a test of its
# own shows it.
for each in (llmc._core, _core64):
    each.set_num_threads(1)


def tiny_model(config, seed=0, double=False, scale=0.1, precision=None):
    """A model of a config (dict), every parameter random: biases and norms too."""
    cls = DoubleModel if double else llmc.Model
    model = cls(llmc.Config(**config), seed=seed, precision=precision)
    rng = np.random.default_rng(seed)
    for array in model._parameters.values():
        array += scale * rng.standard_normal(array.shape)
    return model


def random_ids(config, *shape, seed=0):
    """Token ids of a shape, int64."""
    return np.random.default_rng(seed).integers(0, config["vocab_size"], shape)


def hf_model(peers, config, seed=0):
    """transformers' model of a config (dict), in float32, every parameter random."""
    torch, transformers = peers.torch, peers.transformers
    torch.set_num_threads(1)  # for models this small more threads only wait for each other
    torch.manual_seed(seed)
    hf_config = transformers.AutoConfig.for_model(**json.loads(json.dumps(config)))
    model = transformers.AutoModelForCausalLM.from_config(hf_config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.generation_config.eos_token_id = None
    return model


@functools.lru_cache(maxsize=None)
def _pair(case, folder):
    from conftest import require_peers

    model = hf_model(require_peers(), fields(case))
    model.save_pretrained(folder)
    return model, llmc.Model.from_pretrained(folder)


def pair(case, tmp_path_factory):
    """(transformers' model, ours opened from its files) of a case; made once, so do not change them."""
    return _pair(case, tmp_path_factory.getbasetemp() / case.replace(":", ""))


def close(ours, theirs, tolerance, what=""):
    """Absolute agreement, saying what differs and by how much."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape, f"{what}: shapes {ours.shape} and {theirs.shape}"
    worst = float(np.max(np.abs(ours - theirs), initial=0.0))
    assert worst <= tolerance, f"{what}: differs by {worst:.3g}, more than {tolerance:g}"


def close_relative(ours, theirs, tolerance, what=""):
    """Agreement relative to the largest element of `theirs`; of one below 1e-3 little but rounding may be left."""
    scale = max(float(np.max(np.abs(theirs), initial=0.0)), 1e-3)
    close(np.asarray(ours) / scale, np.asarray(theirs) / scale, tolerance, what)
