"""The numbers of every figure and table, from the finished models of a reproduction."""

import math
import os
from dataclasses import asdict, dataclass
from functools import lru_cache, partial

import numpy as np

from llmc import analysis
from llmc.analysis.lime.retrieval_curves import curves_of
from llmc.lime.benchmarks import benchmarks
from llmc.lime.corpus import analysed_ids, texts, words_in
from llmc.lime.learning import result_of
from llmc.lime.paper import config
from llmc.lime.recipes import arithmetic_name, recipes_of
from llmc.lime.scales import ARITHMETIC_MODELS, SCALES
from llmc.lime.settings_tables import architectures, hyperparameters
from llmc.model import Model
from llmc.train.log import LOG, read_log

CLOUDS = ("llama", "lime")  # whose words are laid out in the plane
ROUTED = ("lime", "lime1-static", "lime1-dynamic", "lime1-top-p", "lime-fair")
DYNAMIC, PRUNED = "lime1-dynamic", "lime1-top-p"
PAPER_DEPTHS = (32, 64, 128)
PAPER_STEPS, BATCH = 84, 64  # of a classifier in a fold: 4/5 of 4 · 1668 rows, 64 at a time


class Findings:
    """What the figures and tables show.

    Parameters
    ----------
    out : path
        The folder whose `models/` has the models.
    scale : Scale
    recipes : dict
        As `recipes_of` gives them.
    """

    def __init__(self, out, scale, recipes):
        self.out, self.scale, self.recipes = out, scale, recipes
        self._models, self._routes = {}, {}

    def needs(self, key):
        """The names of the models that an entry is made of."""
        return list(WAYS[key].needs(self))

    def rests_on(self, key):
        """What decides the numbers of an entry: recipes, those of all models where it needs none, and what is read."""
        recipes = [self.recipes[name] for name in self.needs(key) or self.recipes]
        return [*recipes, asdict(self.scale.analysed)] if WAYS[key].part == "text" else recipes

    def folder(self, name):
        """Where a model lies."""
        return os.path.join(self.out, "models", name)

    # --- names -------------------------------------------------------------------------------------------------------
    def at_one_depth(self):
        """The models on text of one depth."""
        return self.scale.text.models

    def with_routers(self):
        """Those of them that have routers."""
        return [name for name in self.scale.text.models if name in ROUTED]

    def at_depths(self):
        """The models of three depths."""
        return [name for name, recipe in self.recipes.items() if recipe["part"] == "deep"]

    def pruned_at_depths(self):
        """The pruned ones of them, the deepest last."""
        return [f"{PRUNED}-{depth}" for depth in self.scale.deep.depths]

    def on_arithmetic(self):
        """The models on arithmetic."""
        return [name for name, recipe in self.recipes.items() if recipe["part"] == "arithmetic"]

    # --- what is looked at -------------------------------------------------------------------------------------------
    def tokenizer(self):
        """The text's."""
        return texts(self.scale.vocabulary)[0]

    def ids(self):
        """The text that is read, (B, T)."""
        return analysed_ids(self.scale.vocabulary, self.scale.text.length, self.scale.analysed.sequences)

    def words(self):
        """{token: word} of the words that are told apart."""
        return words_in(self.tokenizer(), self.ids())

    def occurrences(self):
        """How many of each word are looked at."""
        ids = self.ids()
        return min(self.scale.analysed.count, *(int(np.count_nonzero(ids == token)) for token in self.words()))

    def epochs(self):
        """In so many a classifier takes about as many steps as the paper's."""
        rows = 0.8 * len(self.words()) * self.occurrences()
        return max(1, round(PAPER_STEPS / math.ceil(rows / BATCH)))

    def model(self, name):
        """A model, opened once."""
        if name not in self._models:
            self._models[name] = Model.from_pretrained(self.folder(name))
        return self._models[name]

    def routes(self, name):
        """What `router_weights` says of a model; dynamic routers read the text."""
        if name not in self._routes:
            ids = self.ids() if name == DYNAMIC else None
            self._routes[name] = analysis.router_weights(self.model(name), ids)
        return self._routes[name]


def find(key, out, scale, seed, operands):
    """An entry of numbers.json: plain lists and numbers, NaN as None.

    Parameters
    ----------
    key : str
    out, scale, seed, operands : str, str, int, list of int or None
        As `reproduce` takes them.
    """
    return plain(WAYS[key].numbers(_findings(out, scale, seed, operands and tuple(operands))))


@lru_cache(maxsize=1)
def _findings(out, scale, seed, operands):
    return Findings(out, SCALES[scale], recipes_of(SCALES[scale], seed, operands))


# --- figures ---------------------------------------------------------------------------------------------------------
def losses(names, by, here):
    """Courses of losses."""
    names = names(here)
    length = here.recipes[names[0]]["data"]["length"]
    return analysis.loss_per_flops({name: here.folder(name) for name in names}, length, by=by)


def retrieval(curve, here):
    """A curve of every model with routers."""
    return {name: curves_of(here.routes(name))[curve] for name in here.with_routers()}


def pruned_retrieval(here):
    """Both curves of the deepest pruned model."""
    found = curves_of(here.routes(here.pruned_at_depths()[-1]))
    return {curve: found[curve] for curve in ("mean_retrieval", "self_retrieval")}


def maps(here):
    """The routers of every model that has them."""
    return {name: here.routes(name)["weights"] for name in here.with_routers()}


def deepest_map(here):
    """Those of the deepest pruned model."""
    return here.routes(here.pruned_at_depths()[-1])["weights"]


def entropies(of, here):
    """Matrix entropies of every model."""
    found = {name: analysis.matrix_entropy(here.model(name), here.ids(), of=of) for name in here.at_one_depth()}
    return {name: {key: each[key] for key in ("mean", "std")} for name, each in found.items()}


def separabilities(of, here):
    """How well words are told apart in every model."""
    options = dict(tokens=list(here.words()), of=of, count=here.occurrences(), epochs=here.epochs())
    found = {name: analysis.token_separability(here.model(name), here.ids(), **options)
             for name in here.at_one_depth()}  # fmt: skip
    return {name: {key: each[key] for key in ("accuracy", "std")} for name, each in found.items()}


def clouds(of, here):
    """Words in the plane."""
    words, count = list(here.words()), here.occurrences()
    options = dict(tokens=words, of=of, count=count, perplexity=min(30.0, len(words) * count / 4))
    return {name: analysis.tsne(here.model(name), here.ids(), **options) for name in CLOUDS}


def accuracies(here):
    """The share of right answers, a number per seed."""
    part, names = here.scale.arithmetic, here.on_arithmetic()
    operands = sorted({here.recipes[name]["data"]["operands"] for name in names})

    def accuracy(name):
        return result_of(here.folder(name), here.recipes[name])["accuracy"]

    return {name: {str(number): [accuracy(arithmetic_name(number, name, at)) for at in range(part.seeds)]
                   for number in operands} for name in ARITHMETIC_MODELS}  # fmt: skip


def courses(here):
    """The held-out losses over training: `steps`, and of each seed the `losses` at them."""
    part, names = here.scale.arithmetic, here.on_arithmetic()
    operands = sorted({here.recipes[name]["data"]["operands"] for name in names})

    def course(number, name):
        logs = [read_log(os.path.join(here.folder(arithmetic_name(number, name, at)), LOG)) for at in range(part.seeds)]
        told = [[entry for entry in log if "eval_loss" in entry] for log in logs]
        return {"steps": [entry["step"] for entry in told[0]],
                "losses": [[entry["eval_loss"] for entry in each] for each in told]}  # fmt: skip

    return {name: {str(number): course(number, name) for number in operands} for name in ARITHMETIC_MODELS}


# --- tables ----------------------------------------------------------------------------------------------------------
def circuits(here):
    """Which words open which routes."""
    return analysis.circuits(here.model(DYNAMIC), here.tokenizer(), here.ids())


def pruned_routes(here):
    """Routes of the paper's depths, and of the models here those that are pruned."""
    totals = ("weights", "table_total")
    paper = {depth: analysis.pruning(config("lime1-static", "deep", num_hidden_layers=depth)) for depth in PAPER_DEPTHS}
    ours = [here.model(name) for name in here.pruned_at_depths()]
    return ([{"layers": depth} | {key: found[key] for key in totals} for depth, found in paper.items()]
            + [{"layers": model.config.num_hidden_layers}
               | {key: found[key] for key in (*totals, "pruned", "share", "table_share")}
               for model, found in ((model, analysis.pruning(model)) for model in ours)])  # fmt: skip


# --- which are which -------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Way:
    """How an entry of numbers.json comes about.

    Attributes
    ----------
    part : str
        Of the scale that has it: "text", "deep" or "arithmetic".
    needs, numbers : callable
        Of Findings: the names of its models, and the entry.
    seconds : float
        About how long it takes.
    """

    part: str
    needs: object
    numbers: object
    seconds: float = 1.5


def _nothing(here):
    return ()


def _deepest(here):
    return here.pruned_at_depths()[-1:]


_ALL, _ROUTED = Findings.at_one_depth, Findings.with_routers
WAYS = {
    "fig01": Way("text", _ALL, partial(losses, _ALL, "flops")),
    "fig02": Way("text", _ROUTED, partial(retrieval, "mean_retrieval")),
    "fig03": Way("text", _ROUTED, partial(retrieval, "self_retrieval_heads")),
    "fig04": Way("text", _ROUTED, partial(retrieval, "expected_representation")),
    "fig05": Way("text", _ALL, partial(entropies, "values"), 3),
    "fig06": Way("text", lambda here: CLOUDS, partial(clouds, "values"), 10),
    "fig07": Way("text", _ALL, partial(separabilities, "values"), 3),
    "fig08": Way("deep", Findings.at_depths, partial(losses, Findings.at_depths, "tokens")),
    "fig09": Way("deep", _deepest, pruned_retrieval),
    "fig10": Way("text", _ROUTED, partial(retrieval, "self_retrieval")),
    "fig11": Way("text", _ALL, partial(entropies, "hiddens"), 3),
    "fig12": Way("text", _ALL, partial(separabilities, "hiddens"), 3),
    "fig13": Way("text", _ROUTED, maps),
    "fig14": Way("deep", _deepest, deepest_map),
    "fig15": Way("text", lambda here: CLOUDS, partial(clouds, "hiddens"), 10),
    "table1": Way("text", _ALL, benchmarks, 60),
    "table2": Way("text", lambda here: [DYNAMIC], circuits),
    "table3": Way("text", _nothing, lambda here: hyperparameters(here.recipes), 0.1),
    "table4": Way("text", _nothing, lambda here: architectures(here.recipes), 0.1),
    "table5": Way("deep", Findings.pruned_at_depths, pruned_routes),
    "table6": Way("text", _nothing, lambda here: analysis.flops_table(), 0.1),
    "aet": Way("arithmetic", Findings.on_arithmetic, accuracies),
    "aet_curves": Way("arithmetic", Findings.on_arithmetic, courses),
}
NEED_SCIKIT_LEARN = ("fig06", "fig15")
BENCHMARKS = "table1"


def plain(value):
    """A value as JSON has it: lists for arrays, None for NaN."""
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
