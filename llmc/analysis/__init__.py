"""Looking at what a model does: LIM and its kin, a scene's fields; the analyses of LIMe load when named."""

from importlib import import_module

from llmc.analysis.arithmetic_accuracy import arithmetic_accuracy
from llmc.analysis.lim import lim
from llmc.analysis.metrics import METRICS
from llmc.analysis.report import Report
from llmc.analysis.scene_attribution import scene_attribution
from llmc.analysis.scene_report import SceneReport
from llmc.analysis.trace import trace
from llmc.analysis.traced import Trace

_LIME = {  # name -> the file in lime/ that has it
    "router_weights": "router_weights",
    "retrieval_curves": "retrieval_curves",
    "router_heatmap": "router_heatmap",
    "representations": "representations",
    "renyi_entropy": "matrix_entropy",
    "matrix_entropy": "matrix_entropy",
    "separability": "separability",
    "token_separability": "token_separability",
    "tsne": "tsne",
    "circuits": "circuits",
    "pruning": "pruning",
    "top_p_weights": "pruning",
    "flops": "flops",
    "flops_table": "flops_table",
    "loss_per_flops": "loss_per_flops",
}

__all__ = ["METRICS", "Report", "SceneReport", "Trace", "arithmetic_accuracy", "lim", "scene_attribution", "trace",
           *_LIME]


def __getattr__(name):
    if name not in _LIME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found = getattr(import_module(f"llmc.analysis.lime.{_LIME[name]}"), name)
    return found


def __dir__():
    return sorted({*globals(), *__all__})
