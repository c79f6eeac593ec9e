"""python -m llmc.bench.contestant JSON: one program doing the work of one job, a worker of alternate.py."""

import json
import sys
import warnings

from llmc.bench.alternate import serve
from llmc.errors import ConfigError

FIELDS = ("library", "work", "sizes", "precision", "compiled")


def command(**fields):
    """The words behind the Python interpreter's that start a contestant with these FIELDS."""
    return ["-m", "llmc.bench.contestant", json.dumps({name: fields[name] for name in FIELDS})]


def main(text):
    """Make what the work needs, announce it, and serve."""
    asked = json.loads(text)
    sizes = {**asked["sizes"], "precision": asked["precision"]}
    try:
        if asked["library"] == "torch":
            warnings.simplefilter("ignore")
            from llmc.bench import theirs

            step, about = getattr(theirs, asked["work"])(**sizes, compiled=asked["compiled"]), {}
        else:
            from llmc.bench import ours

            step, about = getattr(ours, asked["work"])(**sizes)
        serve(step, about)
    except (ConfigError, MemoryError, ImportError) as error:
        why = "no memory" if isinstance(error, MemoryError) else " ".join(str(error).split())
        print(json.dumps({"refused": why}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
