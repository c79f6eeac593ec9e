"""llmc compare: a checkpoint beside transformers, module by module; the first that diverges is named."""

import argparse
import math

from llmc.cli.outcome import Usage
from llmc.cli.parser import between, threads, whole
from llmc.show.table import Table

EXAMPLE = ("llmc compare llmc-demo --text 'The statement of a class'\n"
           "  llmc compare llmc-demo --float64")
WORST = 5  # modules that are shown without --all
TOLERANCE = 1e-4  # of the largest element, or of 1: two float32 forwards sum in different orders


def arguments(parser):
    """Its words."""
    parser.add_argument("checkpoint", metavar="DIR", help="a checkpoint's folder, or a hub name")
    parser.add_argument("other", nargs="?", metavar="DIR", help=argparse.SUPPRESS)
    parser.add_argument("--all", action="store_true", help="print every module, not the five that differ most alone")
    parser.add_argument("--float64", action="store_true",
                        help="compare the logits of both, and of both with transformers' in float64, and stop")
    parser.add_argument("--text", help="what both read, with the checkpoint's tokenizer [random tokens]")
    parser.add_argument("--length", type=whole(2), default=32, metavar="T", help="random tokens of a row [%(default)s]")
    parser.add_argument("--batch", type=whole(1), default=2, metavar="B", help="random rows [%(default)s]")
    parser.add_argument("--seed", type=whole(0, 2**64 - 1), default=0, metavar="N",
                        help="what decides the random tokens [%(default)s]")
    parser.add_argument("--tolerance", type=between(0, float("inf")), default=TOLERANCE, metavar="X",
                        help="the largest difference, relative to a module's largest output where that is above 1 "
                             "[%(default)s]")
    threads(parser)


def run(args):
    """Print the modules that differ most, of all that both have.

    Raises
    ------
    Error
        When a module diverges.
    ImportError
        Without torch or transformers.
    """
    from llmc.errors import Error

    if args.other:
        raise Usage(f"compare: it puts one checkpoint beside transformers; what changed from {args.checkpoint} to "
                    f"{args.other} is shown by llmc diff {args.checkpoint} {args.other}")
    torch, transformers = peers()
    ids, ours = read_ours(args)
    if args.float64:
        return print(against_float64(torch, transformers, args.checkpoint, ids, ours.logits))
    names, run = ours.names(), ours
    theirs = read_theirs(torch, transformers, args.checkpoint, ids)
    shared = [name for name in names if name in theirs]
    rows = [row(name, run.output(name), theirs[name], args.tolerance) for name in shared]
    rows.append(row("logits", run.logits, theirs["logits"], args.tolerance))
    missing = len(names) - len(shared)
    shown = rows if args.all else sorted(rows, key=badness, reverse=True)[:WORST]
    print(Table(["module", "difference", "largest", "of the largest", "verdict"], shown,
                f"{len(shown)} of {len(rows)} outputs of {ids.shape[0]} x {ids.shape[1]} tokens"
                + ("" if len(shown) == len(rows) else ", those that differ most; --all shows all")
                + (f"; {missing} of llmc's modules are not in transformers" if missing else "")))
    diverging = [entry["module"] for entry in rows if entry["verdict"] != "agrees"]
    if diverging:
        raise Error(f"the first module that diverges is {diverging[0]} ({len(diverging)} of {len(rows)} do)")
    print(f"Every one of the {len(rows)} outputs agrees with transformers' within {args.tolerance:g} of its largest "
          f"element, or of 1 where that is smaller.")


def badness(entry):
    """By what a row is shown before others: its difference; shapes that differ and what is no number come first."""
    share = entry.get("of the largest", math.inf)
    return math.inf if math.isnan(share) else share


def against_float64(torch, transformers, name, ids, ours):
    """A table of how far the logits of llmc and of torch in float32 are from each other, and from float64."""
    import numpy as np

    single = read_theirs(torch, transformers, name, ids)["logits"]
    double = read_theirs(torch, transformers, name, ids, torch.float64)["logits"]
    largest = float(np.abs(double).max())
    rows = []
    for what, one, other in (("llmc against float64", ours, double), ("torch against float64", single, double),
                             ("llmc against torch", ours, single)):
        apart = np.abs(one.astype(np.float64) - other)
        rows.append({"logits": what, "largest difference": float(apart.max()), "mean": float(apart.mean()),
                     "of the largest logit": float(apart.max()) / largest})
    return Table(["logits", "largest difference", "mean", "of the largest logit"], rows,
                 f"{ids.shape[0]} x {ids.shape[1]} tokens; the largest logit is {largest:.4g}; float64 is what "
                 f"transformers computes with every number in double")


def peers():
    """The modules torch and transformers.

    Raises
    ------
    ImportError
        When one of them is not there.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise ImportError(f"compare needs torch and transformers, and here: {error}; "
                          f"pip install torch transformers") from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return torch, transformers


def read_ours(args):
    """(ids (B, T), the run that has read them and kept every module's output)."""
    import numpy as np

    from llmc import DataError
    from llmc.cli.sources import model_and_tokenizer

    model, tokenizer = model_and_tokenizer(args.checkpoint, needs_tokenizer=args.text is not None)
    if args.text is None:
        length = min(args.length, model.config.max_position_embeddings)
        ids = np.random.default_rng(args.seed).integers(0, model.config.vocab_size, (args.batch, length))
    else:
        ids = np.array([tokenizer.encode(args.text)])
        if not ids.size:
            raise DataError(f"--text {args.text!r} has no tokens")
    run = model.run(*ids.shape, keep="all")
    run.forward(ids)
    return ids, run


def read_theirs(torch, transformers, name, ids, dtype=None):
    """{module path: its output as an array, in float32 unless another dtype is given}, and the logits."""
    model = transformers.AutoModelForCausalLM.from_pretrained(name, attn_implementation="eager")
    model = model.to(dtype or torch.float32).eval()
    outputs = {}

    def keep(path):
        def hook(module, inputs, output):
            tensor = first_tensor(torch, output)
            if tensor is not None:
                outputs[path] = tensor.detach().numpy()

        return hook

    for path, module in model.named_modules():
        if path:
            module.register_forward_hook(keep(path))
    with torch.no_grad():
        outputs["logits"] = model(torch.from_numpy(ids), use_cache=False).logits.numpy()
    return outputs


def first_tensor(torch, output):
    """What a module gave: the tensor itself, or the first of several; None when there is none."""
    while isinstance(output, (tuple, list, dict)) and len(output):
        output = next(iter(output.values())) if isinstance(output, dict) else output[0]
    return output if isinstance(output, torch.Tensor) else None


def row(name, ours, theirs, tolerance):
    """One row of the table."""
    import numpy as np

    if len(theirs) == 1:  # what is the same for every row: embedded positions
        theirs = np.broadcast_to(theirs, (len(ours), *theirs.shape[1:]))
    if ours.shape != theirs.shape:
        return {"module": name, "verdict": f"shapes {ours.shape} and {theirs.shape}"}
    difference, largest = float(np.abs(ours - theirs).max()), float(np.abs(theirs).max())
    share = difference / max(1.0, largest)
    verdict = "agrees" if share <= tolerance else "DIVERGES"  # also when not a number
    return {"module": name, "difference": difference, "largest": largest, "of the largest": share, "verdict": verdict}
