"""The weights that a model computes with: its parameters, an adapter's copies in their places, low-rank branches."""

import warnings

import numpy as np

from llmc import checkpoint
from llmc.lora.attached import copy_name
from llmc.system import hub
from llmc.weights.places import places


class ComputedWeights:
    """The parameters of a model, by name, as its passes read them.

    Parameters
    ----------
    model : llmc.Model

    Attributes
    ----------
    norm, norm_eps
        The kind of its norms, and what they add to the variance.
    """

    def __init__(self, model):
        self._dense, self._tied, self._core = dict(model._parameters), model._tied(), model._model
        self.config, self._copies, self._branches = model.config, {}, {}
        self.norm, self.norm_eps = model._spec["norm"], model._spec["norm_eps"]
        for name in model.adapters.computing():
            adapter, tensors = model.adapters[name], model.adapters.parameters(name)
            for path, branch in adapter.branches.items():
                A, B = (np.array(tensors[f"{path}.lora_{half}.{name}.weight"], np.float32) for half in "AB")
                self._branches.setdefault(path, []).append((A, B * np.float32(branch.scale)))
            for parameter in adapter.copies:
                self._copies[parameter] = np.array(tensors[copy_name(parameter, name)])

    def let_go(self, source):
        """Forget the model: its own parameters are read again, when asked, from the checkpoint that it came from."""
        files, self._core = checkpoint.open(hub.located(source)), type(self._core)(self.config.spec(), False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what there is to say was said when the model was opened
            self._dense = _Read(files, places(files, self._core, self.config))

    def __contains__(self, name):
        return name in self._copies or self._tied.get(name, name) in self._dense

    def stored(self, name):
        """A parameter as it is stored; None where there is none of this name."""
        if name in self._copies:
            return self._copies[name]
        name = self._tied.get(name, name)
        return self._dense[name] if name in self._dense else None

    def array(self, name):
        """A parameter as float32; None where there is none of this name."""
        found = self.stored(name)
        return None if found is None else np.asarray(found, dtype=np.float32)

    def branches(self, path):
        """[(A (R, I), B (O, R))] of the low-rank branches beside a linear; their scales are in B."""
        return self._branches.get(path, [])

    def is_in_out(self, path):
        """Whether the weight of a linear lies as (I, O)."""
        return bool(self._core.in_out) and path != self._core.head_name


class _Read:
    """{parameter: array} that is read from files when asked."""

    def __init__(self, files, found):
        self._files, self._found = files, found

    def __contains__(self, name):
        return name in self._found

    def __getitem__(self, name):
        stored, cut = self._found[name]
        array = self._files[stored]
        return cut(array) if cut else array
