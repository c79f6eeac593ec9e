"""AdamW: torch's numbers, in two passes over the gradients."""

import functools
import math
import warnings
from collections.abc import Mapping

import numpy as np

from llmc.calls import public
from llmc.errors import ConfigError, ShapeError, UnknownNameError, nearest
from llmc.run import Run


@functools.partial(public, may_be_none=("max_grad_norm",))
class AdamW:
    """AdamW with decoupled weight decay (Loshchilov and Hutter, 2019) and clipping by the global norm.

    Parameters
    ----------
    model : Model
    lr : float
        May be set between steps.
    betas : (float, float)
    eps : float
    weight_decay : float
    max_grad_norm : float or None
        Gradients are scaled by min(1, max_grad_norm / (norm + 1e-6)), as torch does; None: never.
    decay : "matrices" or "all"
        Weight decay on matrices and embeddings alone, or on biases and norms too.
    on_nonfinite : "raise" or "skip"
        What a gradient norm that is not finite does; nothing is changed either way.
    """

    def __init__(self, model, lr=3e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, max_grad_norm=1.0,
                 decay="matrices", on_nonfinite="raise"):  # fmt: skip
        if not hasattr(model, "_model"):
            raise TypeError(f"a model is needed, not {type(model).__name__}")
        if decay not in ("matrices", "all"):
            raise ConfigError(f"decay is {decay!r}; it is 'matrices' (and embeddings) or 'all'")
        if on_nonfinite not in ("raise", "skip"):
            raise ConfigError(f"on_nonfinite is {on_nonfinite!r}; it is 'raise' or 'skip'")
        try:
            beta1, beta2 = (float(b) for b in betas)
        except (TypeError, ValueError):
            raise ConfigError(f"betas are {betas!r}; two numbers in [0, 1) are needed") from None
        for name, value, most in (("betas", beta1, 1), ("betas", beta2, 1), ("eps", eps, math.inf),
                                  ("weight_decay", weight_decay, math.inf)):  # fmt: skip
            if not 0 <= value < most:
                raise ConfigError(f"{name}: {value} is outside [0, {most})")
        if max_grad_norm is not None and not max_grad_norm > 0:
            raise ConfigError(f"max_grad_norm is {max_grad_norm}; it must be above 0, or None")
        self.model, self.betas, self.eps = model, (beta1, beta2), float(eps)
        self.weight_decay, self.max_grad_norm, self.on_nonfinite = float(weight_decay), max_grad_norm, on_nonfinite
        self.lr = lr
        self._core = model._core.AdamW(model._model, decay == "all")
        self.skipped = 0

    @property
    def lr(self):
        """The learning rate of the next step."""
        return self._lr

    @lr.setter
    def lr(self, value):
        if not 0 <= value < math.inf:
            raise ConfigError(f"lr is {value}; it must be finite and at least 0")
        self._lr = float(value)

    @property
    def updates(self):
        """Steps done."""
        return self._core.updates

    def step(self, run):
        """Clip, update, and forget the gradients of `run`.

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
        norm, done, reason = self._core.step(
            run._core, self._lr, *self.betas, self.eps, self.weight_decay, self.max_grad_norm or 0.0,
            self.on_nonfinite == "skip",
        )  # fmt: skip
        if not done:
            self.skipped += 1
            warnings.warn(f"{reason} (skipped)", RuntimeWarning, stacklevel=3)
        return norm

    def state_dict(self):
        """{"step": int, "exp_avg": {name: view}, "exp_avg_sq": {name: view}, and the settings}."""
        first, second = self._core.moments()
        return {"step": self.updates, "exp_avg": first, "exp_avg_sq": second, "lr": self.lr, "betas": self.betas,
                "eps": self.eps, "weight_decay": self.weight_decay, "max_grad_norm": self.max_grad_norm}  # fmt: skip

    def load_state_dict(self, state):
        """Take over what `state_dict` gave: moments, step and settings.

        Raises
        ------
        UnknownNameError, ShapeError
            When a moment is missing, surplus or of another shape; nothing is changed.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"state is {type(state).__name__}, not the dict that state_dict() gives")
        for name in ("step", "exp_avg", "exp_avg_sq"):
            if name not in state:
                raise UnknownNameError(f"state has no {name!r}; it takes the dict that state_dict() gives")
        places = []
        for kind, views in zip(("exp_avg", "exp_avg_sq"), self._core.moments()):
            given = state[kind]
            for name in views.keys() ^ given.keys():
                state_of = "missing" if name in views else f"surplus; {nearest(name, views)}"
                raise UnknownNameError(f"{kind}: '{name}' is {state_of}")
            for name, view in views.items():
                shape = np.shape(given[name])
                if shape != view.shape:
                    raise ShapeError(f"{kind}: '{name}' has shape {shape}, this model's is {view.shape}")
                places.append((view, given, name))
        for view, given, name in places:
            view[...] = given[name]
        self._core.updates = int(state["step"])
        self.lr = state.get("lr", self.lr)
        self.betas = tuple(state.get("betas", self.betas))
        self.eps = state.get("eps", self.eps)
        self.weight_decay = state.get("weight_decay", self.weight_decay)
        self.max_grad_norm = state.get("max_grad_norm", self.max_grad_norm)
