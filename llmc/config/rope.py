"""Rotary position embedding: the inverse frequencies of every rope type, as transformers computes them in float32.

Rounding is followed step by step, because a position of a hundred thousand multiplies whatever is lost here: torch
turns a Python number that meets a float32 tensor into float32, raises to powers in float32, and divides a number by a
tensor as number * (1 / tensor).
"""

import copy
import difflib
import math
from collections.abc import Mapping

import numpy as np

from llmc import calls
from llmc.checks import flag, number, whole, wrong
from llmc.core import _core
from llmc.errors import ConfigError, shown

ORIGINAL = "original_max_position_embeddings"

# rope type -> (keys it must have, keys it may have besides rope_theta and partial_rotary_factor)
TYPES = {
    "default": (set(), set()),
    "linear": ({"factor"}, set()),
    "dynamic": ({"factor"}, set()),
    "yarn": (
        {"factor", ORIGINAL},
        {"attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"},
    ),
    "longrope": ({"short_factor", "long_factor", ORIGINAL}, {"attention_factor", "factor"}),
    "llama3": ({"factor", ORIGINAL, "low_freq_factor", "high_freq_factor"}, set()),
    "proportional": (set(), {"factor"}),
}
_LARGEST_NUMBER = float(np.finfo(np.float32).max)
GROWING = ("dynamic", "longrope")  # the frequencies depend on the length


def standardise(given, theta, fields):
    """One dict of rope parameters from any spelling, as transformers merges them.

    Parameters
    ----------
    given : dict or None
        `rope_parameters`, or an older `rope_scaling`, whose key may be `type` instead of `rope_type`.
    theta : float
        The base where `given` names none.
    fields : dict
        The other fields of the configuration; `partial_rotary_factor`, `original_max_position_embeddings` and
        `max_position_embeddings` count.

    Returns
    -------
    dict
        With `rope_type` and `rope_theta`, and with `original_max_position_embeddings` where the type wants it.

    Raises
    ------
    ConfigError
        When `given` is no dict.
    """
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError(f"rope_parameters is {shown(given)}, not a dict; write {{'rope_type': 'default'}} or null")
    parameters = copy.deepcopy(dict(given or {}))
    if parameters.get("partial_rotary_factor", 1.0) is None:
        del parameters["partial_rotary_factor"]
    kind = parameters.setdefault("rope_type", parameters.get("type", "default"))
    parameters["rope_theta"] = as_base(theta if parameters.get("rope_theta") is None else parameters["rope_theta"])
    if fields.get("partial_rotary_factor") is not None:
        parameters.setdefault("partial_rotary_factor", fields["partial_rotary_factor"])
    if isinstance(kind, str) and ORIGINAL in TYPES.get(kind, [()])[0]:
        if fields.get(ORIGINAL) is not None:
            parameters[ORIGINAL] = fields[ORIGINAL]
        parameters.setdefault(ORIGINAL, fields.get("max_position_embeddings"))
    return parameters


def as_base(theta):
    """A base as it is kept; several, one a layer, are a list."""
    return list(theta) if isinstance(theta, tuple) else theta


def validate(config):
    """Check the rope parameters of a configuration.

    Parameters
    ----------
    config : Config
        With `rope_parameters`, `head_dim` and `max_position_embeddings`.

    Raises
    ------
    ConfigError
        Naming the field, its value, and what it should be.
    """
    found = tables(config)
    if len(found) > _core.ROTARIES_MOST:
        raise ConfigError(f"rope_theta has {len(found)} different values; there can be {_core.ROTARIES_MOST}")
    for parameters in found:
        _validate(config, parameters)


def _validate(config, parameters):
    kind, head_dim = _validate_kind(config, parameters), config.head_dim
    if head_dim % 2:
        raise ConfigError(
            f"head_dim {head_dim} is odd, but rope rotates pairs; make head_dim, or hidden_size / num_attention_heads, "
            "even"
        )
    _number("rope_theta", parameters["rope_theta"])
    _validate_fraction(parameters, kind, config)
    for key in sorted(set().union(*TYPES[kind]) & parameters.keys()):
        _CHECKS[key](key, parameters[key], head_dim)
    if kind in ("linear", "dynamic", "llama3") and parameters["factor"] is None:
        raise ConfigError(f"rope_parameters: factor is null, but rope_type {shown(kind)} needs a number above 0")
    if kind == "llama3" and not parameters["low_freq_factor"] < parameters["high_freq_factor"]:
        raise ConfigError(
            f"rope_parameters: high_freq_factor {parameters['high_freq_factor']} is not above low_freq_factor "
            f"{parameters['low_freq_factor']}; exchange them"
        )
    for length in (1, 2 * config.max_position_embeddings):
        _validate_frequencies(config, parameters, length)


def _validate_kind(config, parameters):
    """The rope type, once it is one, and what it needs is there and flat."""
    kind = parameters.get("rope_type")
    if not isinstance(kind, str) or kind not in TYPES:
        close = difflib.get_close_matches(shown(kind).strip("'"), TYPES, n=1, cutoff=0.4)
        raise ConfigError(
            f"rope_parameters: rope_type {shown(kind)} is not one llmc has; nearest first: "
            + ", ".join(sorted(TYPES, key=lambda name: name not in close))
        )
    nested = [key for key, value in parameters.items() if isinstance(value, dict)]
    if nested:
        raise ConfigError(
            f"rope_parameters: {nested[0]!r} holds parameters of its own, but {config.model_type} has one rope for all "
            "layers; write them flat"
        )
    missing = sorted(TYPES[kind][0] - parameters.keys())
    if missing:
        raise ConfigError(f"rope_parameters: rope_type {shown(kind)} needs {', '.join(missing)}, which is not given")
    return kind


def tables(config):
    """The parameters of every rotary table that a model has.

    Returns
    -------
    list of dict
        `rope_parameters`, once for each base where `rope_theta` is a list of one a layer.
    """
    parameters = config.rope_parameters
    theta = parameters["rope_theta"]
    if not isinstance(theta, list) or not config._family.by_layer:
        return [parameters]
    different = [base for layer, base in enumerate(theta) if base not in theta[:layer]]  # they need not be numbers yet
    return [{**parameters, "rope_theta": base} for base in different]


def grows(config):
    """Whether the frequencies depend on the length."""
    return config.rope_parameters["rope_type"] in GROWING


def inverse_frequencies(config, length, table=0):
    """The inverse frequencies that a fresh transformers model without a cache uses for a sequence.

    Parameters
    ----------
    config : Config
        A configuration of a family with rope.
    length : int
        The largest position + 1.
    table : int
        Which of `tables`.

    Returns
    -------
    frequencies : numpy.ndarray
        (D/2,) float32, D the head size.
    attention_factor : float
        What cos and sin are multiplied by.

    Raises
    ------
    ConfigError
        When the configuration's rope parameters are impossible.
    """
    validate(config)
    return _frequencies(config, tables(config)[table], whole(length, "rope: length", 1, mistyped=ConfigError))


def warn(config):
    """Warn of what transformers also only warns of: keys that a rope type does not use, and factors below 1."""
    parameters = config.rope_parameters
    kind = parameters["rope_type"]
    used = set().union(*TYPES[kind], {"rope_type", "type", "rope_theta", "partial_rotary_factor"})
    unused = sorted(parameters.keys() - used)
    if unused:
        calls.warn(f"rope_parameters: rope_type {shown(kind)} does not use {', '.join(unused)}")
    if "factor" in used and (parameters.get("factor") or 1) < 1:
        calls.warn(f"rope_parameters: factor {parameters['factor']} is below 1, which shortens")


def _number(key, value, head_dim=None, low_counts=False):
    name = f"rope_parameters: {key}"
    if number(value, name, 0, open_low=not low_counts, mistyped=ConfigError) > _LARGEST_NUMBER:
        raise ConfigError(wrong(name, value, "a finite number in float32"))


def _number_or_none(key, value, head_dim):
    if value is not None:
        _number(key, value)


def _weight_or_none(key, value, head_dim):
    if value is not None:
        _number(key, value, low_counts=True)


def _length(key, value, head_dim):
    whole(value, f"rope_parameters: {key}", 1, most=None, mistyped=ConfigError)


def _flag(key, value, head_dim):
    flag(value, f"rope_parameters: {key}", mistyped=ConfigError)


def _factors(key, value, head_dim):
    if not isinstance(value, (list, tuple)) or len(value) != head_dim // 2:
        found = f"a list of {len(value)}" if isinstance(value, (list, tuple)) else repr(value)
        raise ConfigError(
            f"rope_parameters: {key} is {found}, but head_dim {head_dim} needs a list of {head_dim // 2} numbers"
        )
    for index, factor in enumerate(value):
        _number(f"{key}[{index}]", factor)


_CHECKS = {
    "factor": _number_or_none,
    "attention_factor": _weight_or_none,
    "beta_fast": _weight_or_none,
    "beta_slow": _weight_or_none,
    "mscale": _weight_or_none,
    "mscale_all_dim": _weight_or_none,
    "low_freq_factor": _number,
    "high_freq_factor": _number,
    "short_factor": _factors,
    "long_factor": _factors,
    "truncate": _flag,
    ORIGINAL: _length,
}


def _validate_fraction(parameters, kind, config):
    """transformers' llama ignores partial_rotary_factor in the default type, and cannot run the others with it."""
    fraction = parameters.get("partial_rotary_factor", 1.0)
    _number("partial_rotary_factor", fraction, low_counts=True)
    if fraction > 1:
        raise ConfigError(f"rope_parameters: partial_rotary_factor {fraction} is above 1, more than a whole head")
    if kind not in ("default", "proportional") and int(config.head_dim * fraction) != config.head_dim:
        raise ConfigError(
            f"rope_parameters: partial_rotary_factor {fraction} with rope_type {shown(kind)} leaves part of a head "
            f"unrotated, which {config.model_type} cannot do (nor can transformers' own); use rope_type "
            "'proportional', or leave it out"
        )


def _validate_frequencies(config, parameters, length):
    try:
        frequencies, factor = _frequencies(config, parameters, length)
        sound = np.isfinite(frequencies).all() and math.isfinite(factor)
    except (ArithmeticError, ValueError, TypeError):
        sound = False
    if not sound:
        raise ConfigError(
            f"rope_parameters: {shown(parameters)} with head_dim {config.head_dim} and max_position_embeddings "
            f"{config.max_position_embeddings} gives frequencies that are not finite at length {length}; choose "
            "other parameters"
        )


def _frequencies(config, parameters, length):
    with np.errstate(all="ignore"):
        frequencies, factor = _TYPES[parameters["rope_type"]](config, parameters, length)
    return np.ascontiguousarray(frequencies, dtype=np.float32), float(factor)


def _power(base, exponents):
    """base ** exponents rounded once to float32; base is rounded first, as torch does."""
    return (np.float64(np.float32(base)) ** exponents.astype(np.float64)).astype(np.float32)


def _exponents(dim):
    return np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)


def _reciprocal(x):
    return np.float32(1) / x


def _default(config, parameters, length):
    return _reciprocal(_power(parameters["rope_theta"], _exponents(config.head_dim))), 1.0


def _linear(config, parameters, length):
    return _default(config, parameters, length)[0] / np.float32(parameters["factor"]), 1.0


def _proportional(config, parameters, length):
    dim = config.head_dim
    angles = int(parameters.get("partial_rotary_factor", 1.0) * dim // 2)
    frequencies = np.zeros(dim // 2, dtype=np.float32)
    exponents = np.arange(0, 2 * angles, 2, dtype=np.float32) / np.float32(dim)
    frequencies[:angles] = _reciprocal(_power(parameters["rope_theta"], exponents))
    factor = parameters.get("factor")
    return frequencies / np.float32(1.0 if factor is None else factor), 1.0


def _dynamic(config, parameters, length):
    """Up to the trained length the base is a Python number; beyond it torch computes the base in float32."""
    dim, trained, factor = config.head_dim, config.max_position_embeddings, parameters["factor"]
    theta, exponent = parameters["rope_theta"], dim / (dim - 2)
    if length <= trained:
        base = theta * ((factor * trained / trained) - (factor - 1)) ** exponent
    else:
        grown = np.float32(factor) * np.float32(length) / np.float32(trained) - np.float32(factor - 1)
        base = np.float32(theta) * np.float32(float(grown) ** exponent)
    return _reciprocal(_power(base, _exponents(dim))), 1.0


def _yarn(config, parameters, length):
    dim, theta, original = config.head_dim, parameters["rope_theta"], parameters[ORIGINAL]
    factor = parameters["factor"]
    if factor is None:
        factor = config.max_position_embeddings / original

    def mscale(scale, weight=1):
        return 1.0 if scale <= 1 else 0.1 * weight * math.log(scale) + 1.0

    attention_factor = parameters.get("attention_factor")
    if attention_factor is None:
        weight, weight_all = parameters.get("mscale"), parameters.get("mscale_all_dim")
        attention_factor = mscale(factor)
        if weight and weight_all:
            attention_factor = mscale(factor, weight) / mscale(factor, weight_all)

    def boundary(rotations):  # the dimension that turns this often within the original length
        return (dim * math.log(original / (rotations * 2 * math.pi))) / (2 * math.log(theta))

    low, high = boundary(parameters.get("beta_fast") or 32), boundary(parameters.get("beta_slow") or 1)
    if parameters.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    ramp = (np.arange(dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low)
    kept = np.float32(1) - np.clip(ramp, np.float32(0), np.float32(1))
    powers = _power(theta, _exponents(dim))
    interpolated, extrapolated = _reciprocal(np.float32(factor) * powers), _reciprocal(powers)
    return interpolated * (np.float32(1) - kept) + extrapolated * kept, attention_factor


def _longrope(config, parameters, length):
    original, factor = parameters[ORIGINAL], parameters.get("factor")
    if factor is None:
        factor = config.max_position_embeddings / original
    attention_factor = parameters.get("attention_factor")
    if attention_factor is None:
        attention_factor = 1.0 if factor <= 1.0 else math.sqrt(1 + math.log(factor) / math.log(original))
    scales = parameters["long_factor" if length > original else "short_factor"]
    powers = _power(parameters["rope_theta"], _exponents(config.head_dim))
    return _reciprocal(np.asarray(scales, dtype=np.float32) * powers), attention_factor


def _llama3(config, parameters, length):
    frequencies, _ = _default(config, parameters, length)
    factor = np.float32(parameters["factor"])
    low, high, original = parameters["low_freq_factor"], parameters["high_freq_factor"], parameters[ORIGINAL]
    wavelengths = _reciprocal(frequencies) * np.float32(2 * math.pi)
    long, short = wavelengths > np.float32(original / low), wavelengths < np.float32(original / high)
    scaled = np.where(long, frequencies / factor, frequencies)
    smooth = (_reciprocal(wavelengths) * np.float32(original) - np.float32(low)) / np.float32(high - low)
    blended = (np.float32(1) - smooth) * scaled / factor + smooth * scaled
    return np.where(~short & ~long, blended, scaled), 1.0


_TYPES = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "longrope": _longrope,
    "llama3": _llama3,
    "proportional": _proportional,
}
