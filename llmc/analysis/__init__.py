"""Looking at what a model does: LIM and its kin, how well they predict a layer's worth, and what a scene's fields do."""

from llmc.analysis.lim import lim
from llmc.analysis.metrics import METRICS
from llmc.analysis.report import Report
from llmc.analysis.scene_attribution import scene_attribution
from llmc.analysis.scene_report import SceneReport

__all__ = ["METRICS", "Report", "SceneReport", "lim", "scene_attribution"]
