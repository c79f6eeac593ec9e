"""Table 1, the benchmarks: why a reproduction leaves it out."""

from importlib.util import find_spec

from llmc.lime.paper import TASKS

FILE = "table1_benchmarks.csv"


def why_left_out():
    """In words for the page: models of these scales know no facts, and the tasks' data have to be fetched."""
    if find_spec("lm_eval") is None:
        return f"{FILE} is left out: lm-evaluation-harness is not installed (pip install 'llmc[eval]')."
    return (f"{FILE} is left out: its tasks' data are not looked for, and models as small as these answer by chance; "
            f"`llmc eval models/lime --tasks {','.join(TASKS)} --num-fewshot 1` asks them.")  # fmt: skip
