"""Looking at what a model does: LIM and its kin, and analyses that are imported when they are named."""

from importlib import import_module

from llmc.analysis.lim import lim
from llmc.analysis.metrics import METRICS
from llmc.analysis.report import Report

_LATE = {  # name -> the file that has it
    "arithmetic_accuracy": "arithmetic_accuracy",
    "scene_attribution": "scene_attribution",
    "SceneReport": "scene_report",
    "trace": "trace",
    "Trace": "traced",
    "router_weights": "lime.router_weights",
    "retrieval_curves": "lime.retrieval_curves",
    "router_heatmap": "lime.router_heatmap",
    "representations": "lime.representations",
    "renyi_entropy": "lime.matrix_entropy",
    "matrix_entropy": "lime.matrix_entropy",
    "separability": "lime.separability",
    "token_separability": "lime.token_separability",
    "tsne": "lime.tsne",
    "circuits": "lime.circuits",
    "pruning": "lime.pruning",
    "top_p_weights": "lime.pruning",
    "flops": "lime.flops",
    "flops_table": "lime.flops_table",
    "loss_per_flops": "lime.loss_per_flops",
}

__all__ = ["METRICS", "Report", "lim", *_LATE]


def __getattr__(name):
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"llmc.analysis.{_LATE[name]}"), name)
    globals()[name] = found  # also where a file has the name of what it holds
    return found


def __dir__():
    return sorted({*globals(), *__all__})
