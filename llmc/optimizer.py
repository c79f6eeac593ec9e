"""AdamW: torch's numbers, in two passes over the gradients."""

import functools
import math
from collections.abc import Mapping

import numpy as np

from llmc.calls import public, warn
from llmc.checks import number, one_of, whole
from llmc.errors import ConfigError, NonFiniteError, ShapeError, UnknownNameError, nearest
from llmc.weights.parameter_groups import grouped, rate, restored
from llmc.run import Run


MOMENTS = ("exp_avg", "exp_avg_sq")
SAVED = ("lr", "betas", "eps", "weight_decay", "max_grad_norm")


def _betas(value, name):
    try:
        first, second = value
    except (TypeError, ValueError):
        raise ConfigError(f"{name} are {value!r}; two numbers in [0, 1) are needed") from None
    return tuple(float(number(each, name, 0, 1, open_high=True)) for each in (first, second))


def _norm(value, name):
    if value is None or (isinstance(value, float) and value == math.inf):
        return value
    return float(number(value, name, 0, open_low=True))


def _reaction(value, name):
    return one_of(value, name, ("raise", "skip"))


def _decays(name, ndim):
    """Whether weight decay is usual for a parameter: for the matrices of linears and embeddings it is, and for what
    makes connections depend on the token; not for what mixes heads or streams as they are."""
    leaf = name.rpartition(".")[2]
    return leaf.startswith("dynamic_") or (ndim > 1 and not leaf.startswith("static_"))


class _Setting:
    """A setting of an optimizer: what is set is checked first, whoever sets it."""

    def __init__(self, check, doc):
        self.check, self.__doc__ = check, doc

    def __set_name__(self, owner, name):
        self.name = name

    def __get__(self, optimizer, owner=None):
        return self if optimizer is None else optimizer._settings[self.name]

    def __set__(self, optimizer, value):
        optimizer._settings[self.name] = self.check(value, self.name)


@functools.partial(public, may_be_none=("max_grad_norm",))
class AdamW:
    """AdamW with decoupled weight decay (Loshchilov and Hutter, 2019) and clipping by the global norm.

    Every setting may be set between steps.

    Parameters
    ----------
    model : Model
    lr : float
        The rate of every parameter whose group has none of its own.
    betas : (float, float)
    eps : float
    weight_decay : float
    max_grad_norm : float or None
        Gradients are scaled by min(1, max_grad_norm / (norm + 1e-6)), as torch does; None: never.
    decay : "matrices" or "all"
        Weight decay on linears and embeddings alone (what depends on the token in connections is some), or on biases,
        norms and the static weights of routers and connections too.
    on_nonfinite : "raise" or "skip"
        What a gradient norm that is not finite does; nothing is changed either way.
    groups : list of dict, optional
        {"params": a glob over whole parameter names or a list of them, "lr": float, "weight_decay": float}, the last
        two optional. The first group that matches a parameter has it; a weight decay of a group holds for all of them.

    Raises
    ------
    ConfigError
        For a value that is impossible, a key that a group does not have, and a model with nothing to train.
    UnknownNameError
        For a glob of a group that matches no parameter.
    TypeError
        For a value of the wrong type.
    """

    lr = _Setting(rate, "The learning rate of the next step.")
    betas = _Setting(_betas, "Decay rates of the two moments.")
    eps = _Setting(rate, "Added to the root of the second moment.")
    weight_decay = _Setting(rate, "Times the rate: the share that a parameter loses at every step.")
    max_grad_norm = _Setting(_norm, "The norm that gradients are scaled down to; None: never.")
    on_nonfinite = _Setting(_reaction, "'raise' or 'skip', when the gradient norm is not finite.")

    def __init__(self, model, lr=3e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, max_grad_norm=1.0,
                 decay="matrices", on_nonfinite="raise", groups=None):  # fmt: skip
        if not hasattr(model, "_model"):
            raise TypeError(f"a model is needed, not {type(model).__name__}")
        one_of(decay, "decay", ("matrices", "all"))
        self.model, self._settings = model, {}
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.max_grad_norm, self.on_nonfinite = max_grad_norm, on_nonfinite
        self._core = model._core.AdamW(model._model)
        self.skipped = 0
        self._warned = False
        dimensions = {name: view.ndim for name, view in self._core.moments()[0].items()}
        self._groups = grouped(groups, list(dimensions), self._settings)
        place = {name: i for i, group in enumerate(self._groups) for name in group["params"]}
        self._members = [(place[name], decay == "all" or _decays(name, ndim)) for name, ndim in dimensions.items()]

    @property
    def groups(self):
        """The groups as they were given, and the rest: `{"params": names, "lr": float, "weight_decay": float}` each.

        "lr" of one may be set between steps; it no longer follows the optimizer's then.
        """
        return list(self._groups)

    @property
    def updates(self):
        """Steps done."""
        return self._core.updates

    def step(self, run):
        """Clip, update, and forget the gradients of `run`.

        Without a single target since they were forgotten (labels that are all -100) nothing is updated, and a warning
        says so once.

        Returns
        -------
        float
            The norm of all gradients before clipping.

        Raises
        ------
        NonFiniteError
            When the norm is not finite; nothing is changed. With on_nonfinite="skip" it is counted in `skipped`.
        """
        if not isinstance(run, Run):
            raise TypeError(f"step takes a run of the model, not {type(run).__name__}")
        rates, decays = self._rates_and_decays()
        norm, outcome, reason = self._core.step(run._core, rates, decays, *self.betas, self.eps,
                                                self.max_grad_norm or 0.0, self.on_nonfinite == "skip")
        if outcome == "skipped":
            self.skipped += 1
            warn(f"{reason} (skipped)", RuntimeWarning)
        elif outcome == "nothing" and not self._warned:
            self._warned = True
            warn("no label counted since the gradients were forgotten (all are -100, or padding): nothing was "
                 "updated", RuntimeWarning)
        return norm

    def _rates_and_decays(self):
        """Two lists, of every trained parameter in the order of the moments."""
        lrs, decays = ([group[key] for group in self._groups] for key in ("lr", "weight_decay"))
        whole_group = ["weight_decay" in group.own for group in self._groups]
        return ([lrs[i] for i, _ in self._members],
                [decays[i] if usual or whole_group[i] else 0.0 for i, usual in self._members])

    def state_dict(self):
        """{"step": int, "exp_avg": {name: view}, "exp_avg_sq": {name: view}, the settings, "groups": what they say}."""
        return {"step": self.updates, **dict(zip(MOMENTS, self._core.moments())),
                **{name: self._settings[name] for name in SAVED}, "groups": [group.saved() for group in self._groups]}

    def load_state_dict(self, state):
        """Take over what `state_dict` gave: moments and step, and what it has of settings and groups.

        All of it is checked before anything is changed.

        Raises
        ------
        UnknownNameError, ShapeError, NonFiniteError
            When a moment is missing, surplus, of another shape or not finite.
        ConfigError, TypeError
            When the step or the moments are missing, and for settings that an AdamW would not take.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"load_state_dict takes what state_dict gave, not {type(state).__name__}")
        for key in ("step", *MOMENTS):
            if key not in state:
                has = ", ".join(map(str, state)) or "nothing"
                raise ConfigError(f"the state of an AdamW has {key!r}; this one has {has}")
        step = whole(state["step"], "step")
        settings = {name: vars(AdamW)[name].check(state[name], name) for name in SAVED if name in state}
        said = restored(self._groups, state["groups"]) if "groups" in state else [group.own for group in self._groups]
        moments = [(state[kind], views) for kind, views in zip(MOMENTS, self._core.moments())]
        for kind, (given, views) in zip(MOMENTS, moments):
            _check_moments(kind, given, views)
        for given, views in moments:
            for name, view in views.items():
                view[...] = given[name]
        self._core.updates = step
        self._settings.update(settings)
        for group, own in zip(self._groups, said):
            group.own = own


def _check_moments(kind, given, views):
    if not isinstance(given, Mapping):
        raise TypeError(f"{kind} must be {{parameter: array}}, not {type(given).__name__}")
    names = set(given)  # what reads from a file would read a moment to say whether it is there
    for name in [*(name for name in views if name not in names), *(name for name in given if name not in views)]:
        state = "missing" if name in views else f"surplus; {nearest(str(name), views)}"
        raise UnknownNameError(f"{kind}: '{name}' is {state}")
    for name, view in views.items():
        moment = np.asarray(given[name])
        if moment.dtype.kind not in "fiu" and moment.dtype.name != "bfloat16":
            raise TypeError(f"{kind}: '{name}' has dtype {moment.dtype}; numbers are needed")
        if moment.shape != view.shape:
            raise ShapeError(f"{kind}: '{name}' has shape {moment.shape}, this model's is {view.shape}")
        lowest, highest = float(moment.min()), float(moment.max())
        if not math.isfinite(lowest) or not math.isfinite(highest):
            raise NonFiniteError(f"{kind}: '{name}' is not finite; nothing was changed")
        if kind == "exp_avg_sq" and lowest < 0:
            raise ConfigError(f"{kind}: '{name}' holds {lowest}; a mean of squares is at least 0")
