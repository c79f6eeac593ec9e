"""The scales at which LIMe's paper is reproduced: sizes and steps that a laptop has time for."""

from dataclasses import dataclass

TEXT_MODELS = {  # name -> (model_type, fields of its own)
    "llama": ("llama", {}),
    "lime": ("lime", {}),
    "lime1-static": ("lime1-static", {}),
    "lime1-dynamic": ("lime1-dynamic", {}),
    "lime1-top-p": ("lime1-static", {"router_top_p": 0.9}),
    "hc": ("hc", {"hyper_rate": 4, "hyper_dynamic": True}),
    "hc-paper": ("hc-paper", {"hyper_rate": 4, "hyper_dynamic": True}),
    "llama-kv": ("llama", {"kv_init": "authors"}),
    "lime-fair": ("lime", {"kv_init": "llama", "router_init": "identity"}),
    "lime-kv": ("lime", {"kv_init": "authors", "router_init": "identity"}),
}  # fmt: skip
ARITHMETIC_MODELS = ("llama", "llama-kv", "lime", "lime-fair", "lime-kv")
DEEP_MODELS = ("llama", "lime1-top-p")


@dataclass(frozen=True)
class OnText:
    """Trainings on text.

    Attributes
    ----------
    models : tuple of str
        Of TEXT_MODELS.
    fields : dict
        Sizes of all of them.
    depths : tuple of int
        Of each model there is one of every depth, or one alone of that which `fields` has.
    steps, batch, length : int
    learning_rate : float
        The paper's is 1e-3; models as narrow as these are slow to learn with it.
    """

    models: tuple
    fields: dict
    steps: int
    batch: int
    length: int
    learning_rate: float
    depths: tuple = ()


@dataclass(frozen=True)
class OnArithmetic:
    """Trainings on the arithmetic task, a model for each number of operands and each seed.

    Attributes
    ----------
    operands : tuple of int
    seeds, rows, held_out, batch : int
    steps : {operands: int}
        What is not there has the most.
    """

    operands: tuple
    seeds: int
    rows: int
    held_out: int
    steps: dict
    batch: int = 32

    def steps_of(self, operands):
        """Steps of a training."""
        return self.steps.get(operands, max(self.steps.values()))


@dataclass(frozen=True)
class Analysed:
    """What the analyses look at.

    Attributes
    ----------
    sequences : int
        Of the text that is held out.
    count : int
        The most occurrences of a word.
    questions : int
        Of each benchmark.
    """

    sequences: int
    count: int
    questions: int


@dataclass(frozen=True)
class Scale:
    """All that a scale trains and looks at; None: it has no such part."""

    text: OnText | None = None
    deep: OnText | None = None
    arithmetic: OnArithmetic | None = None
    analysed: Analysed | None = None
    vocabulary: int = 1024


_AT_DEPTH_ONE = tuple(name for name in TEXT_MODELS if name != "lime-kv")


def _llama(hidden_size, layers, heads):
    return dict(hidden_size=hidden_size, intermediate_size=4 * hidden_size, num_hidden_layers=layers,
                num_attention_heads=heads)  # fmt: skip


SCALES = {
    "tiny": Scale(
        text=OnText(_AT_DEPTH_ONE, _llama(16, 3, 2), steps=12, batch=4, length=32, learning_rate=1e-3),
        deep=OnText(DEEP_MODELS, _llama(16, 2, 2), steps=8, batch=4, length=32, learning_rate=1e-3,
                    depths=(2, 3, 4)),
        arithmetic=OnArithmetic((3, 4), seeds=1, rows=200, held_out=20, steps={3: 12}),
        analysed=Analysed(sequences=200, count=20, questions=2), vocabulary=512),
    "smoke": Scale(
        text=OnText(_AT_DEPTH_ONE, _llama(48, 6, 4), steps=300, batch=8, length=64, learning_rate=5e-3),
        deep=OnText(DEEP_MODELS, _llama(32, 4, 4), steps=120, batch=8, length=64,
                    learning_rate=5e-3, depths=(4, 8, 12)),
        arithmetic=OnArithmetic((3, 4), seeds=2, rows=4_000, held_out=200, steps={3: 200}),
        analysed=Analysed(sequences=192, count=60, questions=20), vocabulary=512),
    "small": Scale(
        text=OnText(_AT_DEPTH_ONE, _llama(128, 10, 4), steps=1_200, batch=8, length=128, learning_rate=2e-3),
        deep=OnText(DEEP_MODELS, _llama(64, 8, 4), steps=600, batch=8, length=128,
                    learning_rate=2e-3, depths=(8, 16, 32)),
        analysed=Analysed(sequences=128, count=200, questions=200)),
    "aet": Scale(
        arithmetic=OnArithmetic((3, 4), seeds=5, rows=20_000, held_out=2_000, steps={3: 8_000, 4: 10_000})),
}  # fmt: skip
