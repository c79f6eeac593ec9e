"""Looking at what a model does: LIM and its kin, how well they predict what a layer is worth; a scene's fields."""

from llmc.analysis.lim import lim
from llmc.analysis.metrics import METRICS
from llmc.analysis.report import Report
from llmc.analysis.scene_attribution import scene_attribution
from llmc.analysis.scene_report import SceneReport

__all__ = ["METRICS", "Report", "SceneReport", "lim", "scene_attribution"]
