"""What a generation is to do: what the call says, else what generation_config.json says, else the default."""

import weakref
from dataclasses import dataclass

import numpy as np

from llmc.calls import warn
from llmc.checks import flag, number, whole
from llmc.errors import ConfigError


def _tokens(value, name):
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{name} must be a list of token ids, not {value!r}")
    return [whole(token, name) for token in value]


def _texts(stop, tokenizer):
    texts = [stop] if isinstance(stop, str) else [] if stop is None else stop
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"stop must be a list of texts, not {stop!r}")
    if not all(texts):
        raise ConfigError("stop holds an empty text, which would end every row at once; leave it out")
    if texts and not hasattr(tokenizer, "decode"):
        raise TypeError(f"stop needs tokenizer=, to know the text of the new tokens; it is {tokenizer!r}")
    return tuple(texts)


# What a generation may be asked for: how it is checked, and what holds where nobody says anything.
OPTIONS = {
    "max_new_tokens": (lambda value, name: whole(value, name), 64),
    "min_new_tokens": (lambda value, name: whole(value, name), 0),
    "do_sample": (flag, False),
    "temperature": (lambda value, name: number(value, name, 0, open_low=True), 1.0),
    "top_k": (lambda value, name: whole(value, name, 1), None),
    "top_p": (lambda value, name: number(value, name, 0, 1, open_low=True), None),
    "min_p": (lambda value, name: number(value, name, 0, 1), None),
    "repetition_penalty": (lambda value, name: number(value, name, 0, open_low=True), 1.0),
    "suppress_tokens": (_tokens, ()),
}
OF_SAMPLING = {"temperature", "top_k", "top_p", "min_p"}  # said by a caller they mean sampling
# Fields of generation_config.json that change a text elsewhere and are not obeyed here, with what changes nothing.
_PASSED_OVER = {
    "bad_words_ids": None, "begin_suppress_tokens": None, "dola_layers": None, "encoder_repetition_penalty": 1,
    "exponential_decay_length_penalty": None, "forced_bos_token_id": None, "forced_eos_token_id": None,
    "guidance_scale": 1, "max_time": None, "min_length": 0, "no_repeat_ngram_size": 0, "num_beams": 1,
    "num_return_sequences": 1, "penalty_alpha": 0, "sequence_bias": None, "stop_strings": None, "token_healing": False,
    "watermarking_config": None,
}  # fmt: skip
_PASSED_OVER_SAMPLING = {"epsilon_cutoff": 0, "eta_cutoff": 0, "top_h": None, "typical_p": 1}

_said = set()  # the arguments of which this process has said that they mean sampling
_named = weakref.WeakKeyDictionary()  # model -> the fields of its file that were named


@dataclass(frozen=True)
class Settings:
    """One generation's.

    Attributes
    ----------
    max_new_tokens, min_new_tokens, do_sample, temperature, top_k, top_p, min_p, repetition_penalty
        As for `Model.generate`, none of them left open.
    suppressed : int array
        Tokens that are never taken.
    ends : int array
        Tokens that end a row.
    padding : int or None
        The token that is padding in a prompt; None when that is not said, or when it ends texts too.
    fill : int or None
        What stands behind the end of a row; None: rows have no end.
    stop : tuple of str
        Texts that end a row.
    """

    max_new_tokens: int
    min_new_tokens: int
    do_sample: bool
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float
    suppressed: np.ndarray
    ends: np.ndarray
    padding: int | None
    fill: int | None
    stop: tuple[str, ...]


def settings(model, eos_token_id, pad_token_id, stop, tokenizer, **said):
    """The settings of a call.

    Parameters
    ----------
    model : Model
    eos_token_id, pad_token_id, stop, tokenizer
        As for `Model.generate`.
    **said
        What the call says of `OPTIONS`; None: nothing.

    Raises
    ------
    ConfigError, TypeError
        For an impossible value; one of generation_config.json is a ConfigError that names the file.
    """
    config, file, size = model.config, model.config._generation or {}, model.config.vocab_size
    said = {name: OPTIONS[name][0](value, name) for name, value in said.items() if value is not None}
    do_sample = _samples(said, file)
    values = {**{name: default for name, (_, default) in OPTIONS.items()}, **said, "do_sample": do_sample}
    for name in OPTIONS.keys() - said.keys() - {"do_sample"} - (set() if do_sample else OF_SAMPLING):
        values[name] = _filed(name, file)
    _name_passed_over(model, file, do_sample)
    ends, stop = _ends(config.eos_token_id if eos_token_id is None else eos_token_id, size), _texts(stop, tokenizer)
    pad = _pad(config.pad_token_id if pad_token_id is None else pad_token_id, len(ends) or stop, size)
    fill = pad if pad is not None else int(ends[0]) if len(ends) else 0 if stop else None
    suppressed = np.array([token for token in values.pop("suppress_tokens") if token < size], dtype=np.int64)
    if len(np.union1d(suppressed, ends if values["min_new_tokens"] else [])) == size:
        raise ConfigError(f"suppress_tokens and the ends that min_new_tokens forbids are all {size} tokens there are")
    padding = None if pad in ends else pad
    return Settings(**values, suppressed=suppressed, ends=ends, padding=padding, fill=fill, stop=stop)


def _filed(name, file):
    """What generation_config.json says of an option, else its default."""
    (check, default), value = OPTIONS[name], file.get(name)
    if value is None or (name == "top_k" and value == 0):  # 0: every token, as transformers has it
        return default
    try:
        return check(value, name)
    except (ConfigError, TypeError) as error:
        raise ConfigError(f"generation_config.json: {error}") from None


def _samples(said, file):
    """Whether tokens are drawn: as the call says or means, else as the file says."""
    if "do_sample" in said:
        return said["do_sample"]
    if _filed("do_sample", file):
        return True
    meant = OF_SAMPLING & said.keys()
    for name in sorted(meant - _said):
        _said.add(name)
        warn(f"{name}={said[name]!r} without do_sample means sampling; do_sample=False takes the likeliest "
             f"token")
    return bool(meant)


def _name_passed_over(model, file, do_sample):
    fields = _PASSED_OVER | (_PASSED_OVER_SAMPLING if do_sample else {})
    changing = {name for name in fields if file.get(name) and file[name] != fields[name]}
    if changing <= _named.setdefault(model, set()):
        return
    _named[model] |= changing
    listed = ", ".join(f"{name} {file[name]!r}" for name in sorted(changing))
    warn(f"generation_config.json says {listed}: not done here, so the text is the one without")


def _ends(value, size):
    ends = [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]
    ends = [whole(end, "eos_token_id", -1) for end in ends]
    return np.array([end for end in ends if 0 <= end < size], dtype=np.int64)


def _pad(pad, rows_end, size):
    if pad is None:
        return None
    pad = whole(pad, "pad_token_id", -1)
    if rows_end and pad >= size:
        raise ConfigError(f"pad_token_id {pad} is outside [0, {size}), the vocabulary of this model")
    return None if pad < 0 else pad
