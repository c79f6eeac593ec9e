"""bench: the jobs a user asks of a language model on a CPU, rated against what the machine can do at best, and beside
torch where it is installed. `llmc bench` is its face.

Weights are random, of public models' shapes: nothing is downloaded.
"""

from llmc.bench.jobs import JOBS, PRECISIONS, Job, select
from llmc.bench.machine import Machine
from llmc.bench.measure import Result, measure, missing
from llmc.bench.rates import Report

__all__ = ["JOBS", "PRECISIONS", "Job", "Machine", "Report", "Result", "measure", "missing", "select"]
