"""The fields of a GGUF file as those of a configuration, and back."""

import numpy as np

from llmc.checkpoint.formats.gguf_file import FAMILIES
from llmc.checkpoint.formats.gguf_header import read_header
from llmc.checkpoint.formats.gguf_numbers import GgufEntry
from llmc.checkpoint.formats.regular_file import RegularFile
from llmc.config import rope
from llmc.errors import CheckpointError, ConfigError, shown

DIVISORS = "rope_freqs.weight"
# {field: key behind the architecture}; those of the first table have to be there.
NEEDED = {
    "hidden_size": "embedding_length", "num_hidden_layers": "block_count", "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count", "max_position_embeddings": "context_length",
}  # fmt: skip
OPTIONAL = {"num_key_value_heads": "attention.head_count_kv", "head_dim": "attention.key_length",
            "rope_theta": "rope.freq_base", "sliding_window": "attention.sliding_window"}  # fmt: skip
EPSILON = {"llama": "attention.layer_norm_rms_epsilon", "gpt2": "attention.layer_norm_epsilon"}
IDS = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "pad_token_id": "padding_token_id"}
_LLAMA3 = dict(rope_type="llama3", low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)


def read_fields(path, window=None):
    """The fields of a configuration that a GGUF file speaks of, `model_type` among them.

    Parameters
    ----------
    path : str
    window : int, optional
        Keys that a query sees; files of Mistral, which are stored as LLaMA, do not say it.

    Returns
    -------
    fields : dict
    divisors : (D/2,) float32 or None
        What the file says that the frequencies of positions are divided by, for `check_divisors`.

    Raises
    ------
    CheckpointError
        When the file is damaged, or a field is missing.
    ConfigError
        When it is of a family, or asks for something, that llmc has not.
    """
    with RegularFile(path) as file:
        header = read_header(file)
        if header.architecture not in FAMILIES:
            raise ConfigError(f"{path}: general.architecture {shown(header.architecture)} is not one llmc opens from a "
                              f"GGUF file; it opens {', '.join(FAMILIES)}")
        fields = {field: _number(header, key) for field, key in NEEDED.items()}
        fields |= {field: _number(header, key) for field, key in OPTIONAL.items() if _key(header, key) in header.fields}
        tensors = {tensor.name: tensor for tensor in header.tensors}
        fields["norm_eps"] = _shortest(_number(header, EPSILON[header.architecture]))
        fields["vocab_size"] = _vocabulary(header, tensors)
        fields["tie_word_embeddings"] = "output.weight" not in tensors
        fields["model_type"] = FAMILIES[header.architecture]
        fields["dtype"] = "float32"
        for field, key in IDS.items():
            fields[field] = header.fields.get(f"tokenizer.ggml.{key}")
        divisors = _divisors(file, tensors[DIVISORS]) if DIVISORS in tensors else None
        if header.architecture == "llama":
            _as_llama(header, fields, tensors, divisors, window)
        else:
            _as_gpt2(fields)
    return fields, divisors


def _as_llama(header, fields, tensors, divisors, window):
    if header.fields.get("llama.expert_count", 0):
        raise ConfigError(f"{header.path}: llama.expert_count is {header.fields['llama.expert_count']}; llmc has no "
                          "family with experts")
    fields["attention_bias"], fields["mlp_bias"] = "blk.0.attn_q.bias" in tensors, "blk.0.ffn_up.bias" in tensors
    size = fields.get("head_dim") or fields["hidden_size"] // max(fields["num_attention_heads"], 1)
    for key in ("attention.value_length", "rope.dimension_count"):
        if header.fields.get(_key(header, key), size) != size:
            raise ConfigError(f"{header.path}: llama.{key} is {header.fields[_key(header, key)]}, a head has {size} "
                              "numbers; llmc has no LLaMA where the two differ")
    fields["rope_scaling"] = _scaling(header, divisors)
    if window is not None:
        fields["sliding_window"] = window
    if fields.get("sliding_window") is not None:
        fields["model_type"] = "mistral"


def _as_gpt2(fields):
    fields["tie_word_embeddings"] = True  # output.weight is a copy of the embedding; where it differs, it counts
    for field in ("num_key_value_heads", "head_dim", "rope_theta", "sliding_window"):
        fields.pop(field, None)


def _scaling(header, divisors):
    """rope_scaling, or None."""
    word = header.fields.get("llama.rope.scaling.type", "none")
    if divisors is not None:  # of Llama 3.1, which says no word of it
        return {**_LLAMA3, "factor": max(float(divisors[-1]), 1.0)}
    if word == "none":
        return None
    if word not in ("linear", "yarn"):
        raise ConfigError(f"{header.path}: llama.rope.scaling.type {shown(word)}: llmc reads none, linear and yarn")
    scaling = {"rope_type": word, "factor": _number(header, "rope.scaling.factor")}
    original = _key(header, "rope.scaling.original_context_length")
    if original in header.fields:
        scaling["original_max_position_embeddings"] = header.fields[original]
    return scaling


def _divisors(file, stored):
    """The numbers that the frequencies are divided by."""
    factors = np.empty(stored.shape, np.float32)
    GgufEntry(stored.kind, stored.shape, stored.start, 1).read_into(file, factors)
    return factors


def check_divisors(config, divisors, path):
    """Raise ConfigError unless a file's `rope_freqs.weight` is the scaling that the configuration computes."""
    plain = rope.inverse_frequencies(config.replace(rope_scaling=None), 1, 0)[0]
    scaled = rope.inverse_frequencies(config, 1, 0)[0]
    if divisors.shape != plain.shape or not np.allclose(scaled * divisors, plain, rtol=1e-5, atol=0):
        raise ConfigError(f"{path}: rope_freqs.weight is not the scaling of Llama 3.1 with factor "
                          f"{shown(config.rope_scaling['factor'])} and an original context of 8192; llmc reads no "
                          "other")


def _vocabulary(header, tensors):
    if "token_embd.weight" not in tensors:
        raise CheckpointError(f"{header.path}: no tensor token_embd.weight in it")
    return tensors["token_embd.weight"].shape[0]


def _key(header, key):
    return f"{header.architecture}.{key}"


def _number(header, key):
    key = _key(header, key)
    if key not in header.fields:
        raise CheckpointError(f"{header.path}: no field {key} in it")
    value = header.fields[key]
    if type(value) not in (int, float):
        what = "one number a layer, which llmc has no LLaMA of" if isinstance(value, np.ndarray) else shown(value)
        raise CheckpointError(f"{header.path}: {key} is {what}; one number is needed")
    return value


def _shortest(number):
    """A float32 as the shortest decimal number that rounds to it: 1e-05 for 9.99999974e-06."""
    return float(str(np.float32(number)))


def written_fields(config):
    """What a GGUF file says of a configuration.

    Returns
    -------
    architecture : str
        llama.cpp's word for the family.
    fields : dict
        {key: number or str}.
    divisors : (D/2,) float32 or None
        For the tensor `DIVISORS`.

    Raises
    ------
    ConfigError
        When llama.cpp has no word for the family or for its positions.
    """
    written_as = {model_type: word for word, model_type in FAMILIES.items()} | {"mistral": "llama"}
    architecture = written_as.get(config.model_type)
    if architecture is None:
        raise ConfigError(f"model_type {shown(config.model_type)} has no GGUF file here; "
                          f"{', '.join(FAMILIES.values())} and mistral have")
    fields = {key: getattr(config, field) for field, key in NEEDED.items()} | {EPSILON[architecture]: config.norm_eps}
    fields["vocab_size"] = config.vocab_size
    divisors = None
    if architecture == "llama":
        fields |= {key: getattr(config, field) for field, key in OPTIONAL.items()
                   if getattr(config, field) is not None}  # fmt: skip
        fields |= {"attention.value_length": config.head_dim, "rope.dimension_count": config.head_dim}
        scaling = config.rope_scaling or {"rope_type": "default"}
        if scaling["rope_type"] == "llama3":
            divisors = _divided_by(config)
        else:
            fields |= _written_scaling(scaling)
    return architecture, {f"{architecture}.{key}": value for key, value in fields.items()}, divisors


def _divided_by(config):
    divisors = (rope.inverse_frequencies(config.replace(rope_scaling=None), 1, 0)[0]
                / rope.inverse_frequencies(config, 1, 0)[0]).astype(np.float32)
    told = config.replace(rope_scaling={**_LLAMA3, "factor": float(divisors[-1])})
    check_divisors(told, divisors, "save_gguf")
    return divisors


def _written_scaling(scaling):
    kind = scaling["rope_type"]
    if kind == "default":
        return {}
    left = scaling.keys() - {"rope_type", "rope_theta", "factor", rope.ORIGINAL}
    if kind not in ("linear", "yarn") or left:
        raise ConfigError(f"rope_scaling {shown(dict(scaling))} has no words in a GGUF file; linear, llama3 and yarn "
                          "with a factor and an original context have")
    fields = {"rope.scaling.type": kind, "rope.scaling.factor": float(scaling["factor"])}
    if rope.ORIGINAL in scaling:
        fields["rope.scaling.original_context_length"] = scaling[rope.ORIGINAL]
    return fields
