"""Looking at what a model does: LIM and its kin, and how well they predict what a layer is worth."""

from llmc.analysis.lim import lim
from llmc.analysis.metrics import METRICS
from llmc.analysis.report import Report
from llmc.analysis.trace import trace
from llmc.analysis.traced import Trace

__all__ = ["METRICS", "Report", "Trace", "lim", "trace"]
