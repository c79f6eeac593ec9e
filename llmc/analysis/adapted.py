"""The two linears of every low-rank branch, as peft's modules: what each reads and gives.

The core multiplies by A and B in one step, so a pass keeps what the adapted linears read, and the rest is done here.
"""

import numpy as np


class Adapters:
    """The adapters that take part in a model's forward pass.

    Attributes
    ----------
    names : list of str
        "….q_proj.lora_A.default", "….q_proj.lora_B.default" and so on.
    linears : list of str
        The linears they stand beside.
    """

    def __init__(self, model):
        self._linear, self._matrices = {}, {}
        for adapter in model.adapters.computing():
            weights = model.adapters.parameters(adapter)
            tail = f".lora_A.{adapter}.weight"
            for name in [name for name in weights if name.endswith(tail)]:
                linear = name.removesuffix(tail)
                a, b = weights[name], weights[f"{linear}.lora_B.{adapter}.weight"]
                for half, matrices in (("A", (a,)), ("B", (a, b))):
                    self._linear[f"{linear}.lora_{half}.{adapter}"] = linear
                    self._matrices[f"{linear}.lora_{half}.{adapter}"] = matrices
        self.names = list(self._linear)
        self.linears = list(dict.fromkeys(self._linear.values()))

    def among(self, shapes):
        """`shapes` of hook points, with the adapters' behind the linears they belong to."""
        found = {}
        for name, (read, given) in shapes.items():
            found[name] = read, given
            for each in self.names:
                if self._linear[each] == name:
                    widths = [read[-1], *(len(matrix) for matrix in self._matrices[each])]
                    found[each] = tuple((*read[:-1], width) for width in widths[-2:])
        return found

    def flow(self, run, name):
        """What `name` read (B, T, I) and gave (B, T, O) in the last forward of a run that keeps its linear, float64."""
        given = run.input(self._linear[name]).astype(np.float64)
        for matrix in self._matrices[name]:
            read, given = given, given @ matrix.T.astype(np.float64)
        return read, given
