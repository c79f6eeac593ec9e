"""LoraConfig: the fields of peft's adapter_config.json, honoured, kept, or refused by name."""

import copy
import math
import operator
import os
import re

from llmc.calls import public
from llmc.system.atomic import write_json
from llmc.checks import flag, number, whole, wrong
from llmc.config.json_files import check_writable, read_json
from llmc.errors import ConfigError, nearest, shown
from llmc.lora.presets import PRESETS
from llmc.system.small_file import is_there

FILE = "adapter_config.json"
TASKS = ("SEQ_CLS", "SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")
BIASES = ("none", "all", "lora_only")

# How A and B may start. The last three stand in files, whose adapters compute like any other; llmc cannot start them.
INITIALISATIONS = (True, False, "gaussian", "orthogonal", "eva", "mica", "lora_ga")
_CHANGES_BASE = "it also changes the base's weights, which llmc leaves as they are"

# Fields that change nothing that is computed here: their default, kept and written back.
_KEPT = {
    "task_type": None, "auto_mapping": None, "peft_version": None, "base_model_name_or_path": None, "revision": None,
    "inference_mode": False, "megatron_config": None, "megatron_core": "megatron.core", "loftq_config": {},
    "eva_config": None, "corda_config": None, "lora_ga_config": None, "qalora_group_size": 16,
    "ensure_weight_tying": False,
}  # fmt: skip

# Fields that would change the numbers in a way llmc does not compute: the default, which does not, and what they do.
_REFUSED = {
    "use_dora": (False, "weights split into magnitude and direction"),
    "velora_config": (None, "compressed activations in the backward pass"),
    "alora_invocation_tokens": (None, "adapters that begin at an invocation"),
    "use_qalora": (False, "pooled inputs"),
    "monteclora_config": (None, "sampled adapters"),
    "layer_replication": (None, "repeated layers"),
    "lora_bias": (False, "a bias beside B"),
    "target_parameters": (None, "adapters of bare parameters"),
    "trainable_token_indices": (None, "trained rows of an embedding"),
    "use_bdlora": (None, "block-diagonal factors"),
    "arrow_config": (None, "adapters routed by token"),
    "kasa_config": (None, "truncated base weights"),
}


@public
class LoraConfig:
    """Which linears get a low-rank branch, y = W x + s B(A(dropout(x))), and which one.

    Takes every field of peft's `adapter_config.json`. A field that would change the numbers in a way llmc does not
    compute is refused by name; fields of later releases are accepted where they are off.

    Parameters
    ----------
    r : int
        Rank of the branch: A is (r, in), B is (out, r).
    target_modules : str or list of str, optional
        A preset, "all-linear", names (a module matches when its path is the name or ends with it after a dot), or a
        regular expression over the whole path. None: peft's choice for the family.
    lora_alpha : float
        The branch is scaled by lora_alpha / r.
    lora_dropout : float
        Of the input of A, in training.
    layers_to_transform : int or list of int, optional
        Only these layers. Lower layers hold language and syntax, the middle ones meaning and context, the upper ones
        reasoning and generation: a new domain's words ask for the lower ones, a task's answers for the upper ones.
    layers_pattern : str or list of str, optional
        Name of the list that the layer's number follows, "layers" or "h".
    exclude_modules : str or list of str, optional
        What is left out, by names or by a regular expression.
    rank_pattern, alpha_pattern : dict
        {end of a path, as a regular expression: another rank or alpha}; the first that matches counts.
    use_rslora : bool
        Scale by lora_alpha / sqrt(r) (Kalajdzievski, 2023).
    bias : "none", "all" or "lora_only"
        Biases that train too: none, all of the model, or those of the adapted modules.
    modules_to_save : list of str, optional
        Modules that train whole and are saved with the adapter.
    init_lora_weights : True, False, "gaussian" or "orthogonal"
        True: A uniform as torch's Linear, B zero. False: both as torch's Linear, so that the start is not the base.
        "gaussian": A normal with deviation 1/r, B zero. "orthogonal": both random, B A zero. Files may say "eva",
        "lora_ga" or "mica" too; "pissa", "olora", "corda" and "loftq" change the base's weights, and are refused.
    **fields
        The others of adapter_config.json.

    Notes
    -----
    The presets, each in the names of the model's family, and when to take which:

    ============  ===================  ==============================================================================
    "domain"      q, v                 a new domain, style or body of knowledge
    "context"     q, k, v              how context is understood: logic, code, structured data
    "attention"   q, k, v, o           hard reasoning, specialised analysis
    "mlp"         gate, up, down       formats, how information is generalised
    "all-linear"  all of them          everything, at the most memory
    ============  ===================  ==============================================================================

    GPT and GPT-2 keep q, k and v in one matrix, c_attn, of which an adapter of peft's reaches all rows: "domain" is
    refused there, and "context" adapts the whole of it.

    Raises
    ------
    ConfigError
        When a field is impossible, is not peft's, or is one that llmc does not compute.
    """

    def __init__(self, r=8, target_modules=None, exclude_modules=None, lora_alpha=8, lora_dropout=0.0,
                 fan_in_fan_out=False, bias="none", use_rslora=False, modules_to_save=None, init_lora_weights=True,
                 layers_to_transform=None, layers_pattern=None, rank_pattern=None, alpha_pattern=None,
                 **fields):  # fmt: skip
        self.r = _rank(r, "r")
        self.target_modules = _names(target_modules, "target_modules")
        self.exclude_modules = _names(exclude_modules, "exclude_modules")
        self.lora_alpha = _alpha(lora_alpha, "lora_alpha")
        self.lora_dropout = _dropout(lora_dropout)
        self.fan_in_fan_out = _flag(fan_in_fan_out, "fan_in_fan_out")
        self.bias = _one_of(bias, BIASES, "bias")
        self.use_rslora = _flag(use_rslora, "use_rslora")
        self.modules_to_save = _list(modules_to_save, "modules_to_save")
        self.init_lora_weights = _initialisation(init_lora_weights)
        self.layers_to_transform = _layers(layers_to_transform)
        self.layers_pattern = _list_or_one(layers_pattern, "layers_pattern")
        self.rank_pattern = _pattern(rank_pattern, "rank_pattern", _rank)
        self.alpha_pattern = _pattern(alpha_pattern, "alpha_pattern", _alpha)
        self._others = _others(fields)
        self._check()

    def _check(self):
        if isinstance(self.target_modules, str) and self.target_modules not in PRESETS:
            for name in ("layers_to_transform", "layers_pattern"):
                if getattr(self, name) is not None:
                    raise ConfigError(f"{name} cannot go with target_modules {shown(self.target_modules)}: a regular "
                                      f"expression says the layers itself; give a preset or a list of names")
        if self.layers_pattern and self.layers_to_transform is None:
            raise ConfigError(f"layers_pattern {shown(self.layers_pattern)} needs layers_to_transform")

    def __getattr__(self, name):
        others = self.__dict__.get("_others", {})
        if name in others:
            return others[name]
        raise AttributeError(f"LoraConfig has no {name}; {nearest(name, [*self.__dict__, *others])}")

    def __eq__(self, other):
        return isinstance(other, LoraConfig) and self.to_dict() == other.to_dict()

    __hash__ = None

    def __repr__(self):
        default = LoraConfig().to_dict()
        changed = {name: value for name, value in self.to_dict().items() if value != default.get(name)}
        return f"LoraConfig({', '.join(f'{name}={value!r}' for name, value in changed.items())})"

    def to_dict(self):
        """Every field, as adapter_config.json holds it; patterns keep their order."""
        own = {name: value for name, value in self.__dict__.items() if not name.startswith("_")}
        return copy.deepcopy(dict(sorted({"peft_type": "LORA", **self._others, **own}.items())))

    def replace(self, **fields):
        """A copy in which these fields are others."""
        return LoraConfig(**{**self.to_dict(), **fields})

    def scale(self, rank, alpha):
        """What the branch is multiplied with."""
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    @classmethod
    def from_pretrained(cls, directory):
        """Read the adapter_config.json of a folder.

        Raises
        ------
        FileNotFoundError
            When there is none.
        CheckpointError, ConfigError
            When it is damaged, or asks for what llmc does not do.
        """
        path = os.path.join(directory, FILE)
        if not is_there(path):
            raise FileNotFoundError(f"{path}: there is no such file; an adapter's folder holds an {FILE}")
        fields = read_json(path)
        fields.pop("runtime_config", None)  # of one run alone: peft ignores it too
        if "peft_type" not in fields:
            raise ConfigError(f"{path}: no peft_type in it, so it is no adapter's; add \"peft_type\": \"LORA\"")
        try:
            return cls(**fields)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    def save_pretrained(self, directory):
        """Write adapter_config.json.

        Raises
        ------
        ConfigError
            When target_modules is a preset, which peft does not know: `model.save_adapter` writes the names it means.
        """
        targets = self.target_modules
        if isinstance(targets, str) and targets in PRESETS and targets != "all-linear":
            raise ConfigError(f"target_modules {targets!r} is a preset; peft needs the modules' names: add "
                              f"the adapter to a model and call save_adapter")
        fields = self.to_dict()
        check_writable(FILE, fields)
        os.makedirs(directory, exist_ok=True)
        write_json(os.path.join(directory, FILE), fields)


def _others(fields):
    """The fields beside those that are honoured, checked."""
    kind = fields.pop("peft_type", "LORA")
    if getattr(kind, "value", kind) != "LORA":
        raise ConfigError(f"peft_type {shown(kind)}: only LORA adapters are known here")
    known = _KEPT | {name: neutral for name, (neutral, _) in _REFUSED.items()}
    others = copy.deepcopy(known)
    for name, value in fields.items():
        if name in _REFUSED and value:
            raise ConfigError(f"{name} {shown(value)}: {_REFUSED[name][1]} are not computed here; leave it out")
        if name not in known and value is not None and value is not False and value not in ([], {}):
            raise ConfigError(f"{name} {shown(value)}: LoraConfig has no such field, and it is not off; "
                              f"{nearest(name, [*known, *LoraConfig.__init__.__code__.co_varnames[1:15]])}")
        others[name] = copy.deepcopy(value)
    task = others["task_type"]
    if task is not None and getattr(task, "value", task) not in TASKS:
        raise ConfigError(f"task_type {shown(task)}: it is one of {', '.join(TASKS)}, or None")
    others["task_type"] = getattr(task, "value", task)
    return others


def _rank(value, name):
    return whole(value, name, 1, mistyped=ConfigError)


def _alpha(value, name):
    return number(value, name, 0, open_low=True, mistyped=ConfigError)


def _dropout(value):
    return float(number(value, "lora_dropout", 0, 1, open_high=True, mistyped=ConfigError))


def _flag(value, name):
    return flag(value, name, mistyped=ConfigError)


def _one_of(value, choices, name):
    if value not in choices:
        raise ConfigError(wrong(name, value, f"one of {', '.join(map(repr, choices))}"))
    return value


def _initialisation(value):
    if isinstance(value, str):
        name = value.lower()
        if name.startswith(("pissa", "corda")) or name in ("olora", "loftq"):
            raise ConfigError(f"init_lora_weights {value!r}: {_CHANGES_BASE}; take True, or convert the adapter in "
                              f"peft: save_pretrained(…, path_initial_model_for_weight_conversion=…)")
        value = name
    elif type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    return _one_of(value, INITIALISATIONS, "init_lora_weights")


def _list(value, name):
    """A list of strings, or None."""
    if value is None:
        return None
    if isinstance(value, (set, frozenset)):
        value = sorted(value)
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) and item for item in value):
        raise ConfigError(wrong(name, value, "a list of names"))
    return list(value)


def _list_or_one(value, name):
    return value if isinstance(value, str) else _list(value, name)


def _names(value, name):
    """A list of names, or a regular expression."""
    if not isinstance(value, str):
        return _list(value, name)
    return value if value in PRESETS else _regular_expression(value, name)


def _regular_expression(text, name):
    try:
        re.compile(text)
    except re.error as error:
        raise ConfigError(f"{name} {shown(text)} is not a regular expression: {error}") from None
    return text


def _layers(value):
    if value is None:
        return None
    one = not isinstance(value, (list, tuple, range))
    numbers = [value] if one else list(value)
    try:
        numbers = [-1 if isinstance(layer, bool) else operator.index(layer) for layer in numbers]
    except TypeError:
        numbers = [-1]
    if any(layer < 0 for layer in numbers):
        raise ConfigError(f"layers_to_transform is {shown(value)}; layers are counted from 0")
    return numbers[0] if one else numbers


def _pattern(value, name, check):
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ConfigError(wrong(name, value, "a dict from ends of paths to numbers"))
    return {_regular_expression(key, name): check(number, f"{name}[{key!r}]") for key, number in value.items()}
