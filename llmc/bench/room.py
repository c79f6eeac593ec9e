"""Room: the memory a program of a job needs, told from the config before anything is taken, and refused in words."""

from llmc.bench.alternate import WorkerError
from llmc.config import Config
from llmc.core import _core
from llmc.errors import ConfigError
from llmc.system.free_memory import free_memory
from llmc.show.table import count

PROGRAM = {"llmc": 0.2e9, "torch": 0.7e9}  # bytes of a process that has imported it and done nothing
TIMES = {"llmc": 1.0, "torch": 4.0}  # what torch keeps of a pass, in ours: GPT-2's training step in RESULTS.md


def need(library, work, sizes, precision):
    """Bytes that a process peaks at when it does this work of a job, about."""
    if "config" not in sizes:  # a piece: small
        return int(PROGRAM[library])
    forecast = _forecast(work, sizes, precision)
    weights, others = forecast["parameters"], sum(forecast[kind] for kind in ("gradients", "optimizer", "cache"))
    return int(PROGRAM[library] + weights + others + TIMES[library] * forecast["activations"])


def check(library, work, sizes, precision):
    """Raise WorkerError where there is less memory than such a process needs, or no such precision."""
    try:
        wanted, free = need(library, work, sizes, precision), free_memory()
    except ConfigError as error:
        raise WorkerError(str(error)) from None
    if free is not None and wanted > free:
        raise WorkerError(f"needs about {count(wanted, 'B')} of memory, {count(free, 'B')} are free")


def _forecast(work, sizes, precision):
    """Bytes by kind, as `model.estimate` names them, without a model."""

    def forecast(storage, *numbers, keep_all=False):
        model = _core.Model(Config(**sizes["config"]).spec(), bfloat16=precision != "float32", storage=storage)
        batch, length, backward, generate = numbers
        return model.estimate(batch, length, backward, False, [], keep_all, generate)

    batch, length = sizes.get("batch", 1), sizes.get("length", 1)
    if work == "decode":
        return forecast(precision, batch, length, False, sizes["prompt"] + sizes["new"])
    if work == "prompt":
        return forecast(precision, batch, length, False, 0)
    if work in ("lora", "frozen"):  # weights as narrow as they are multiplied, the pass that of a training
        trained = forecast("float32", batch, length, True, 0)
        return forecast(precision, batch, length, False, 0) | {"activations": trained["activations"]}
    return forecast("float32", batch, length, work == "train", 0, keep_all=sizes.get("keep") == "all")
