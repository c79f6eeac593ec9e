"""Config: the fields of Hugging Face's config.json, in every spelling, checked, for every family of llmc.families."""

import copy
import json
import types

from llmc.calls import public
from llmc.config import rope, validation
from llmc.config.on_disk import IDS, OnDisk
from llmc.config.read_only import read_only, refuse
from llmc.errors import ConfigError, nearest, shown
from llmc.families import owners, row_of
from llmc.config.fields import CANONICAL, DERIVED, FIELDS, REFUSED, ROPE_FIELDS, TRANSFORMERS

GENERATION = (  # fields of generation_config.json that a generation obeys, beside the ids
    "do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "min_new_tokens", "max_new_tokens",
    "suppress_tokens",
)  # fmt: skip


class _Unsaid(str):
    """The family where none is named: not the same as its name, for `Config()` says nothing at all."""


@public
class Config(OnDisk):
    """What a model is: the fields of its config.json.

    Every field can be read, given and set under each of its names: `n_embd` and `hidden_size` are one field, as are
    `n_layer` and `num_hidden_layers`, `dtype` and `torch_dtype`, `rope_parameters` and `rope_theta` with
    `rope_scaling`. Other fields that transformers' configuration has, and names that begin with `_`, are kept and
    written back; those of a file (`from_pretrained`, `from_dict`) all are.

    Parameters
    ----------
    model_type : str
        "openai-gpt", "gpt2", "llama", "mistral", "lime", "lime1-static", "lime1-dynamic", "hc" or "hc-paper".
    **fields
        As in config.json; what is not given has transformers' default.

    Raises
    ------
    ConfigError
        When a number is impossible, two numbers disagree, or a field asks for what llmc does not do; for no field.
    TypeError
        For a name that is no field; it names the nearest.
    """

    def __init__(self, model_type=_Unsaid("llama"), **fields):
        if not fields and isinstance(model_type, _Unsaid):
            raise ConfigError("Config: no field is given; the least is the family, whose defaults are the sizes of its "
                              "paper: llmc.Config(model_type='llama', hidden_size=256, num_hidden_layers=4, "
                              "num_attention_heads=4, intermediate_size=688, vocab_size=4096)")
        self._fill(str(model_type) if isinstance(model_type, str) else model_type, fields)
        for name in self._extra:
            self._require_field(name)
        self.validate()
        if self._has_rope:
            rope.warn(self)

    def _require_field(self, name):
        if not (name.startswith("_") or name in TRANSFORMERS or name in REFUSED or name in self._family.kept):
            near = nearest(name, [*self._names, *ROPE_FIELDS])
            raise TypeError(f"Config has no argument {name!r}; it is no field of {self.model_type}; {near}")

    def _fill(self, model_type, fields):
        family = row_of(model_type)
        state = self.__dict__
        state.update(
            model_type=model_type, _family=family, _fields=dict(family.defaults), _extra={}, _generation=None,
            _frozen=False,
        )  # fmt: skip
        given = {}
        for name, value in fields.items():
            canonical = self._canonical(name)
            if canonical is None:
                if name not in ROPE_FIELDS and name != "architectures":
                    self._refuse_others(name, value)
                    self._extra[name] = copy.deepcopy(value)
                continue
            before = given.setdefault(canonical, (name, value))
            if before[0] != name and before[1] != value:
                raise ConfigError(
                    f"{before[0]} {shown(before[1])} and {name} {shown(value)} are the same field and disagree; "
                    "give one of them"
                )
        for canonical, (name, value) in given.items():
            self._set(canonical, name, value)
        self._set_rope(fields)

    def _canonical(self, name):
        """The canonical name of a field, or None."""
        return self._names.get(name)

    @property
    def _names(self):
        """{name under which a field is known in this family: its canonical name}."""
        own = {spelling: field for field, spelling in self._family.spellings.items()}
        return CANONICAL | {name: name for name in self._family.checks} | own

    @property
    def _has_rope(self):
        return self._family.has_rope(self)

    def _set(self, canonical, name, value):
        check = self._family.checks.get(canonical) or FIELDS[canonical][0]
        value = check(value, name)
        if value is None and canonical in DERIVED and canonical not in self._family.may_be_none:
            raise ConfigError(f"{name} is null, but {self.model_type} needs a number")
        if canonical in self._family.fixed:
            only = self._family.fixed[canonical]
            if canonical not in DERIVED and value not in (None, only):
                raise ConfigError(
                    f"{name} {shown(value)}: {self.model_type} has no such field and computes as with {only!r}; "
                    "leave it out"
                )
        self._fields[canonical] = value
        if canonical in IDS and self._generation is not None:
            self._generation[canonical] = value

    def _refuse_others(self, name, value):
        """Raise ConfigError for what only other families have: it would be kept, and change nothing."""
        families = owners(name)
        if families and value is not None:
            raise ConfigError(f"{name} {shown(value)}: {self.model_type} has no such field, {', '.join(families)} "
                              f"{'has' if len(families) == 1 else 'have'}; leave it out, or take that model_type")

    def _set_rope(self, fields):
        given = {name: fields[name] for name in ROPE_FIELDS if fields.get(name) is not None}
        if given and not self._has_rope:
            name, value = next(iter(given.items()))
            raise ConfigError(f"{name} {shown(value)}: {self.model_type} has no rotary positions; leave it out")
        theta = given.get("rope_theta", self._family.rope_theta)
        parameters = given.get("rope_scaling") or given.get("rope_parameters")
        sizes = {"max_position_embeddings": self._fields["max_position_embeddings"]}
        self.__dict__["_rope"] = rope.standardise(parameters, theta, {**fields, **sizes})

    # Reading and setting

    def __getattr__(self, name):
        state = self.__dict__
        if "_family" not in state or name.startswith("__"):
            raise AttributeError(name)
        if (canonical := self._canonical(name)) is not None:
            return self._value(canonical)
        if self._generation is not None and name in GENERATION and name in self._generation:
            return self._generation[name]
        if name == "architectures":
            return [self._family.architecture]
        if name in ROPE_FIELDS:
            return self._rope_value(name)
        if name in self._extra:
            return self._extra[name]
        near = nearest(name, [*self._names, *self._extra])
        raise AttributeError(f"a {self.model_type} configuration has no {name}; {near}")

    def _value(self, canonical):
        if canonical in IDS and self._generation is not None:
            return self._generation.get(canonical)
        value = self._fields.get(canonical)
        if value is None:
            value = self._family.fixed.get(canonical, self._family.implied.get(canonical))
        return self._derived(canonical) if value is None and canonical in DERIVED else value

    def _derived(self, canonical):
        if canonical == "head_dim":
            return self.hidden_size // self.num_attention_heads
        return self.num_attention_heads if canonical == "num_key_value_heads" else 4 * self.hidden_size

    def _rope_value(self, name):
        if not self._has_rope:
            return None
        if name == "rope_parameters":
            return self._rope
        if name == "rope_scaling":
            scaling = {key: value for key, value in self._rope.items() if key != "rope_theta"}
            return None if scaling == {"rope_type": "default"} else types.MappingProxyType(scaling)
        return self._rope.get(name)

    def __setattr__(self, name, value):
        if name.startswith("_"):
            raise AttributeError(name)
        if self._frozen and name in GENERATION:
            self._set_generation(name, value)
            return
        if self._frozen and name not in IDS:
            refuse(name)
        if name in ("model_type", "architectures"):
            raise AttributeError(f"{name} cannot be changed; make a new Config")
        if (canonical := self._canonical(name)) is not None:
            self._set(canonical, name, value)
        elif name not in ROPE_FIELDS:
            self._refuse_others(name, value)
            self._extra[name] = value
            if name == rope.ORIGINAL and self._has_rope:
                self._set_rope({**self._extra, "rope_parameters": self._rope})
        elif not self._has_rope or name in ("rope_parameters", "rope_scaling"):
            theta = self.rope_theta
            self._set_rope({**self._extra, name: value, **({"rope_theta": theta} if theta else {})})
        else:
            self._rope[name] = rope.as_base(value) if name == "rope_theta" else value

    def _set_generation(self, name, value):
        if self._generation is None:
            ids = {each: self._fields[each] for each in IDS if self._fields[each] is not None}
            self.__dict__["_generation"] = ids
        self._generation[name] = value

    # Copies

    def replace(self, **fields):
        """A configuration with other values of some fields; this one stays as it is.

        Parameters
        ----------
        **fields
            Of the family, or that this configuration holds.

        Returns
        -------
        Config

        Raises
        ------
        TypeError
            For a field that is neither; it names the nearest.
        ConfigError
            When the new values are impossible.
        """
        other = copy.deepcopy(self)
        other._require_known(fields, "Config.replace")
        for name, value in fields.items():
            setattr(other, name, value)
        other.validate()
        return other

    def _require_known(self, fields, call):
        """Raise TypeError, naming the call, unless the family or this configuration has the fields."""
        for name in fields:
            canonical = self._canonical(name)
            family = self._family
            known = name in self._extra or any(canonical in has for has in (self._fields, family.fixed, family.checks))
            if not known and not (name in ROPE_FIELDS and self._has_rope):
                self._refuse_others(name, fields[name])
                near = nearest(name, [*self._names, *ROPE_FIELDS, *self._extra])
                raise TypeError(f"{call} has no argument {name!r}; it is no field of {self.model_type}, nor of this "
                                f"configuration; {near}")

    def frozen(self):
        """A copy whose fields cannot be set, but for token ids and what a generation does by default."""
        other = copy.deepcopy(self)
        state = other.__dict__
        for fields in ("_fields", "_extra"):
            state[fields] = {name: value if name in IDS else read_only(value, name)
                             for name, value in state[fields].items()}  # fmt: skip
        state["_rope"] = read_only(state["_rope"], "rope_parameters")
        state["_frozen"] = True
        return other

    def __getstate__(self):
        return {name: value for name, value in self.__dict__.items() if name not in ("_family", "_frozen")}

    def __setstate__(self, state):
        self.__dict__.update(copy.deepcopy(state), _family=row_of(state["model_type"]), _frozen=False)

    def __dir__(self):
        return sorted({*super().__dir__(), *self._names, *ROPE_FIELDS, *self._extra})

    def __eq__(self, other):
        return self.to_dict() == other.to_dict() if isinstance(other, Config) else NotImplemented

    def __repr__(self):
        return "Config " + json.dumps(self.to_dict(), indent=2, default=repr)

    @property
    def padding_idx(self):
        """The row of the embedding that starts as zeros and gets no gradient as an input, or None (torch's word)."""
        pad = self._fields["pad_token_id"]
        return None if pad is None or not self._family.pads else pad % self.vocab_size

    # Checking

    def validate(self):
        """Check every field against the others.

        Raises
        ------
        ConfigError
            Naming the field, the values that disagree, and the remedy.
        """
        validation.validate(self)

    def _name(self, canonical):
        return self._family.spellings.get(canonical, canonical)

    # Looking

    def drawing(self):
        """A block of this architecture as text: norms, branches, where they rejoin the stream, sizes; print it.

        It is read from the plan that a model of this configuration records. Layers of one kind are drawn once.

        Returns
        -------
        str
        """
        from llmc.core import _core
        from llmc.show.drawing import drawing

        self.validate()
        return drawing(self, _core.Model(self.spec(), False))

    # For the core

    def spec(self):
        """What the C core builds a model from, of a configuration that is valid.

        Returns
        -------
        dict
            Kinds as words, `names` of modules by part, `layers` with what may differ among them, and numbers.

        """
        family, biases = self._family, self._family.biases(self)
        return family.kinds(self) | {
            "names": family.names(self),
            "layers": family.layers(self),
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": self.max_position_embeddings,
            "rotaries": len(rope.tables(self)) if self._has_rope else 0,
            "padding_idx": -1 if self.padding_idx is None else self.padding_idx,
            "norm_eps": self.norm_eps,
            "activation": family.activations[self.hidden_act],
            "router_top_p": self._fields.get("router_top_p") or 1.0,
            "qkv_bias": biases["qkv"],
            "o_bias": biases["o"],
            "mlp_bias": biases["mlp"],
            "tie_word_embeddings": self.tie_word_embeddings,
            "attention_scale": self.head_dim**-0.5 if self.scale_attn_weights else 1.0,
            "scale_by_layer": self.scale_attn_by_inverse_layer_idx,
            "embd_pdrop": self.embd_pdrop,
            "resid_pdrop": self.resid_pdrop,
            "attn_pdrop": self.attn_pdrop,
        }

    # Files

    @classmethod
    def from_dict(cls, fields):
        """The configuration of a config.json that is read already; all of its fields are kept and written back.

        Parameters
        ----------
        fields : dict
            With `model_type`.

        Returns
        -------
        Config

        Raises
        ------
        ConfigError
            When what it says is impossible, or llmc does not do it.
        """
        if not hasattr(fields, "keys"):
            raise TypeError(f"fields is {type(fields).__name__}, not a dict as config.json holds it")
        config = cls._of_fields(dict(fields))
        config.validate()
        if config._has_rope:
            rope.warn(config)
        return config

    @classmethod
    def _of_fields(cls, fields):
        config = cls.__new__(cls)
        if "model_type" not in fields:
            found = f"its architectures are {fields.get('architectures')}"
            raise ConfigError(f"there is no model_type; add the one that fits: {found}")
        config._fill(fields.pop("model_type"), fields)
        return config

    def to_dict(self):
        """The fields as config.json holds them, in the family's spelling.

        Rope is written as `rope_theta` and `rope_scaling`, which every transformers reads: releases before 5 would
        take `rope_parameters` for an unknown field and compute with the default base.

        Returns
        -------
        dict
            {str: JSON value}.
        """
        written = {"model_type": self.model_type, "architectures": [self._family.architecture]}
        for canonical, value in self._fields.items():
            # As transformers does: n_inner stays null and follows the width, the other two are spelled out.
            if value is None and canonical in ("head_dim", "num_key_value_heads"):
                value = self._derived(canonical)
            written[self._name(canonical)] = value
        if self._has_rope:
            scaling = self.rope_scaling
            written["rope_theta"] = self._rope["rope_theta"]
            written["rope_scaling"] = None if scaling is None else dict(scaling)
        written.update(self._extra)
        first = {name: written[name] for name in ("model_type", "architectures")}
        return copy.deepcopy(first | {name: written[name] for name in sorted(written)})
