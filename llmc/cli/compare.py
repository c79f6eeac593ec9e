"""llmc compare: a checkpoint beside transformers, module by module; the first that diverges is named."""

from llmc.cli.outcome import say
from llmc.cli.parser import between, threads, whole
from llmc.show.table import Table

EXAMPLE = "llmc compare llmc-demo --text 'The statement of a class'"
TOLERANCE = 1e-4  # of the largest element, or of 1: two float32 forwards sum in different orders


def arguments(parser):
    """Its words."""
    parser.add_argument("checkpoint", metavar="DIR", help="a checkpoint's folder, or a hub name")
    parser.add_argument("--text", help="what both read, with the checkpoint's tokenizer; by default random tokens")
    parser.add_argument("--length", type=whole(2), default=32, metavar="T", help="random tokens of a row (%(default)s)")
    parser.add_argument("--batch", type=whole(1), default=2, metavar="B", help="random rows (%(default)s)")
    parser.add_argument("--seed", type=whole(0, 2**64 - 1), default=0, metavar="N",
                        help="of the random tokens (%(default)s)")
    parser.add_argument("--tolerance", type=between(0, float("inf")), default=TOLERANCE, metavar="X",
                        help="the largest difference, relative to a module's largest output where that is above 1 "
                             "(%(default)s)")
    threads(parser)


def run(args):
    """Print a table of all modules that both have.

    Raises
    ------
    Error
        When a module diverges.
    ImportError
        Without torch or transformers.
    """
    from llmc.errors import Error

    torch, transformers = peers()
    ids, ours = read_ours(args)
    names, run = ours.names(), ours
    theirs = read_theirs(torch, transformers, args.checkpoint, ids)
    shared = [name for name in names if name in theirs]
    rows = [row(name, run.output(name), theirs[name], args.tolerance) for name in shared]
    rows.append(row("logits", run.logits, theirs["logits"], args.tolerance))
    missing = len(names) - len(shared)
    print(Table(["module", "difference", "largest", "verdict"], rows,
                f"{len(rows)} outputs of {ids.shape[0]} x {ids.shape[1]} tokens"
                + (f"; {missing} of llmc's modules are not in transformers" if missing else "")))
    diverging = [entry["module"] for entry in rows if entry["verdict"] != "agrees"]
    if diverging:
        raise Error(f"the first module that diverges is {diverging[0]} ({len(diverging)} of {len(rows)} do)")
    say(f"every output agrees within {args.tolerance:g}")


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


def read_theirs(torch, transformers, name, ids):
    """{module path: its output as an array, in float32}, and the logits, of transformers."""
    model = transformers.AutoModelForCausalLM.from_pretrained(name, attn_implementation="eager").float().eval()
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
    verdict = "agrees" if difference <= tolerance * max(1.0, largest) else "DIVERGES"  # also when not a number
    return {"module": name, "difference": difference, "largest": largest, "verdict": verdict}
