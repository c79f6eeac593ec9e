"""llmc extract-lora: a low-rank adapter out of a full fine-tune, and how much of the change it holds."""

import re

from llmc.cli.lora import spans
from llmc.cli.outcome import Usage
from llmc.cli.parser import between, threads, whole

EXAMPLE = "llmc extract-lora base tuned --rank 8 --output-dir adapter"


def arguments(parser):
    """Its words."""
    parser.add_argument("base", metavar="BASE", help="a folder or file; BASE+ADAPTER: with an adapter's folder")
    parser.add_argument("tuned", metavar="TUNED", help="what became of it, likewise")
    parser.add_argument("--rank", type=whole(1), metavar="N", help="at most this rank [16; with --energy no limit]")
    parser.add_argument("--energy", type=between(0, 1, open_low=True), metavar="X",
                        help="of each matrix the smallest rank that keeps this share of its squared change [by rank]")
    parser.add_argument("--target-modules", nargs="+", default=["all-linear"], metavar="NAME",
                        help="modules to adapt, as llmc lora names them [%(default)s]")
    parser.add_argument("--layers-to-transform", type=spans, metavar="LAYERS",
                        help="layers to adapt: 0-3,8 for one [all]")
    parser.add_argument("--modules-to-save", nargs="+", metavar="NAME",
                        help="modules that are kept whole; changed: the embeddings, head and norms that changed [none]")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32",
                        help="how the factors are stored: float32, bfloat16 or float16 [%(default)s]")
    parser.add_argument("--method", choices=("auto", "exact", "randomised"), default="auto",
                        help="exact, randomised, or auto: exact up to min(out, in) = 2048 [%(default)s]")
    parser.add_argument("--text", nargs="+", default=[], metavar="FILE",
                        help="measure on it what the adapter is worth [none]")
    parser.add_argument("--max-tokens", type=whole(1), default=512, metavar="N",
                        help="tokens of the text that are read [%(default)s]")
    parser.add_argument("--output-dir", required=True, metavar="DIR", help="where the adapter goes")
    threads(parser)


def run(args):
    """Write the adapter, and print what it holds."""
    from llmc.checkpoint import extract_lora
    from llmc.cli.diff import side, text_of
    from llmc.lora.presets import PRESETS

    targets = args.target_modules
    if len(targets) == 1 and (targets[0] in PRESETS or re.search(r"[\\*+?|()\[\]^$]", targets[0])):
        targets = targets[0]
    saved = args.modules_to_save
    if saved and "changed" in saved:
        if len(saved) > 1:
            raise Usage("extract-lora: --modules-to-save takes changed, or names; not both")
        saved = "changed"
    found = extract_lora(side(args.base), side(args.tuned), out=args.output_dir, rank=args.rank, energy=args.energy,
                         target_modules=targets, layers_to_transform=args.layers_to_transform, modules_to_save=saved,
                         dtype=args.dtype, method=args.method, text=text_of(args.text),
                         max_tokens=args.max_tokens)  # fmt: skip
    print(found)
    print(f"\neverything is in {args.output_dir}")
