"""Row: what makes an architecture, as kinds, names and numbers. No code asks for a family by its name."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field

from llmc.errors import ConfigError, shown
from llmc.families.activations import ACTIVATIONS


@dataclass(frozen=True)
class Row:
    """One architecture.

    Attributes
    ----------
    model_type : str
        Its word in config.json.
    architecture : str
        transformers' class for the whole language model.
    norm : "rms", "layer" or "bare"
        Of the norm behind the blocks, and of those in them where `branch_norm` says nothing else.
    position : "rope", "learned" or "none"
    feed_forward : "gated" or "mlp"
    order : "sequential" or "parallel"
        Attention and feed-forward one after the other, or both reading the stream.
    in_out : bool
        Linears of the blocks are stored (inputs, outputs), as transformers' Conv1D is.
    modules : dict
        {part: name relative to its parent}, the parts being "root", "embed", "positions", "block", "attention", "q",
        "k", "v" or "qkv", "o", "router" (of every memory but "own"), "memory_norm" (of "static" and "dynamic"),
        "feed_forward", "gate", "up", "down", "final_norm", "head",
        "attention_connection" and "feed_forward_connection" (of residual "hyper"), and the norms of each branch,
        "attention_norm_in" (before it), "attention_norm_out" (on what it gives), "attention_norm_sum" (after the
        addition), likewise `feed_forward_norm_…`. What is not named is not there.
    spellings : dict
        {canonical name of a field: the spelling that this family writes}, where they differ.
    defaults : dict
        The fields the family has, and what they are when they are not given.
    fixed : dict
        The fields it does not have, and the one value with which a configuration may still name them; None for a
        derived field is the value that follows from the others.
    may_be_none : tuple of str
        The derived fields that need not be given.
    checks : dict
        {field that no other family has: function of a value and its name that checks it and returns it}.
    activations : dict
        {name in config.json: word of the core}.
    heads_divide_width : bool
        Whether `hidden_size` must be a multiple of `num_attention_heads` although `head_dim` is given.
    pads : bool
        Whether the embedding of `pad_token_id` starts as zeros.
    deviations : dict
        {part: function of the configuration}: the standard deviation with which its weights start; of the others it is
        `initializer_range`.
    peft_targets : tuple of str
        What peft adapts when `target_modules` is None; empty: it has no default.
    implied : dict
        {field of `checks`: the value that it has where it was not given}; then it is not written either.
    exclusive : tuple of str
        Fields of `checks` that a family without them refuses, instead of keeping what it does not know; a word that
        other files use for something else is none of these.
    starts : dict
        {part, or (part, last word of the name): function of the configuration}: how its weights start where that is
        not normal; a function `(generator, out, rows, layer)` that fills `out` with the `rows` (a slice) of a weight,
        or None: normal.
    files : tuple of Spelling
        How files of its authors have tensors otherwise than Hugging Face would; they are read, and written when asked.
    memory : "own", "lime", "static" or "dynamic"
        Whose keys and values a head reads: its own layer's; routed ones of all layers up to its own; or its layer's of
        a mixture of the streams of all those layers, weighed by numbers that are learned or by the token.
    unadapted : tuple of str
        Parts whose linears can carry no adapter.
    residual : "plain" or "hyper"
        A branch is added to one stream; or to each of `hyper_rate` streams, as connections say.
    branch_norm : "rms", "layer", "bare" or None
        Of the norms in the blocks, where it is not `norm`.
    branch_norm_eps : float or None
        Theirs, where it is not the configuration's.
    by_layer : bool
        Whether fields that a layer has may be lists of one value a layer.
    rope_theta : float
        The rotary base where a configuration gives none.
    kept : tuple of str
        Fields that transformers' configuration of this family has beside, which change nothing here.
    """

    model_type: str
    architecture: str
    norm: str
    position: str
    feed_forward: str
    modules: dict
    defaults: dict
    order: str = "sequential"
    in_out: bool = False
    spellings: dict = field(default_factory=dict)
    fixed: dict = field(default_factory=dict)
    may_be_none: tuple = ("num_key_value_heads", "head_dim")
    checks: dict = field(default_factory=dict)
    activations: dict = field(default_factory=lambda: ACTIVATIONS)
    heads_divide_width: bool = True
    pads: bool = False
    deviations: dict[str, Callable] = field(default_factory=dict)
    implied: dict = field(default_factory=dict)
    exclusive: tuple = ()
    starts: dict[str, Callable] = field(default_factory=dict)
    peft_targets: tuple = ()
    files: tuple = ()
    memory: str = "own"
    residual: str = "plain"
    branch_norm: str | None = None
    branch_norm_eps: float | None = None
    unadapted: tuple = ()
    by_layer: bool = False
    rope_theta: float = 10000.0
    kept: tuple = ()

    def kinds(self, config):
        """The kinds of a model of this configuration, as words of the core, and the numbers that belong to them.

        Returns
        -------
        dict
        """
        hyper = self.residual == "hyper"
        return {"norm": self.norm, "branch_norm": self.branch_norm or self.norm,
                "branch_norm_eps": config.norm_eps if self.branch_norm_eps is None else self.branch_norm_eps,
                "order": self.order, "position": self.position, "memory": self.memory, "residual": self.residual,
                "streams": config.hyper_rate if hyper else 1, "dynamic": hyper and config.hyper_dynamic,
                "in_out": self.in_out}  # fmt: skip

    def names(self, config):
        """{part: name} of a model of this configuration."""
        return self.modules

    def biases(self, config):
        """{"qkv", "o", "mlp": whether those linears have biases}."""
        return {"qkv": config.attention_bias, "o": config.attention_bias, "mlp": config.mlp_bias}

    def layers(self, config):
        """What may differ from layer to layer.

        Returns
        -------
        list of dict
            One a layer: `window` (keys a query sees; 0: all), `rotary` (number of its rotary table), `feed_forward`,
            `intermediate_size`.
        """
        layer = {"window": config.sliding_window or 0, "rotary": 0, "feed_forward": self.feed_forward,
                 "intermediate_size": config.intermediate_size}  # fmt: skip
        return [dict(layer) for _ in range(config.num_hidden_layers)]

    def validate(self, config):
        """Raise ConfigError where values do not go together that no other family has."""

    def words(self):
        """The words that its tensors' names are made of, in files of its authors too."""
        names = (*self.modules.values(), *(spelling.name for spelling in self.files))
        return {word for name in names for word in name.split(".")} - {"weight", "bias"}

    def has_rope(self, config):
        """Whether positions are rotary."""
        return self.kinds(config)["position"] == "rope"


_ROWS = {}


def add(row):
    """Make a family known: `Config(model_type=row.model_type)` and everything built on it.

    Parameters
    ----------
    row : Row

    Raises
    ------
    ConfigError
        When there is a row of that model_type already.
    """
    if not isinstance(row, Row):
        raise TypeError(f"a llmc.families.Row is needed, not {type(row).__name__}")
    if row.model_type in _ROWS:
        raise ConfigError(f"there is a family {row.model_type!r} already; give the new one a model_type of its own")
    _ROWS[row.model_type] = row


def rows():
    """{model_type: Row} of every family."""
    return dict(_ROWS)


def owners(name):
    """The model types of families whose own a field is, some of which may share it."""
    return [model_type for model_type, row in _ROWS.items() if name in row.exclusive and name in row.checks]


def kin(names, row):
    """The model types whose words stand in tensors' names where the row has none such.

    Parameters
    ----------
    names : iterable of str
    row : Row

    Returns
    -------
    list of str
    """
    foreign = {word for name in names for word in name.split(".")} - row.words()
    found = {model_type: len(other.words() & foreign) for model_type, other in _ROWS.items()}
    return [model_type for model_type, count in found.items() if count and count == max(found.values())]


def row_of(model_type):
    """The row of a model type.

    Raises
    ------
    ConfigError
        When there is none; the message lists those there are, nearest first.
    """
    if isinstance(model_type, str) and model_type in _ROWS:
        return _ROWS[model_type]
    near = difflib.get_close_matches(shown(model_type).strip("'"), _ROWS, n=len(_ROWS), cutoff=0.0)
    raise ConfigError(f"model_type {shown(model_type)} is not one llmc has; nearest first: {', '.join(near)}")
