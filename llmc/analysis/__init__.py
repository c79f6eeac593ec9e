"""Looking at what a model does: LIM and its kin, and how well they predict what a layer is worth."""

from llmc.analysis.arithmetic_accuracy import arithmetic_accuracy
from llmc.analysis.lim import lim
from llmc.analysis.metrics import METRICS
from llmc.analysis.report import Report

__all__ = ["METRICS", "Report", "arithmetic_accuracy", "lim"]
