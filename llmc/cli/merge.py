"""llmc merge: an adapter and its base as one plain checkpoint."""

import os

from llmc.cli.outcome import say
from llmc.cli.parser import threads
from llmc.cli.sources import located_model, tokenizer_of
from llmc.dtype_words import dtype_word

EXAMPLE = "llmc merge adapter --out merged --dtype bfloat16"


def arguments(parser):
    """Its words."""
    parser.add_argument("adapter", metavar="DIR", help="an adapter's folder, of llmc lora or of peft")
    parser.add_argument("--out", required=True, metavar="DIR", help="where the merged checkpoint goes")
    parser.add_argument("--overwrite", action="store_true",
                        help="replace the model, adapter or checkpoints that are in --out")
    parser.add_argument("--base", metavar="DIR",
                        help="the base: a checkpoint's folder, or a hub name [the one that the adapter names]")
    parser.add_argument("--dtype", type=dtype_word, choices=("float32", "bfloat16", "float16"), default="float32",
                        help="how weights are stored [%(default)s]")
    threads(parser)


def run(args):
    """Merge, save, open what was saved, and print how far its logits are from the attached adapter's."""
    import llmc
    from llmc.lora.adapter_files import base_of, holds_adapter
    from llmc.lora.merging import probe
    from llmc.train.output_folder import OutputFolder

    if os.path.abspath(args.out) in (os.path.abspath(args.adapter), os.path.abspath(args.base or args.adapter)):
        raise llmc.ConfigError(f"{args.out} is what is to be merged, which this run reads; give --out another folder")
    if not args.base and not holds_adapter(args.adapter):
        raise FileNotFoundError(f"{args.adapter}: no adapter_config.json in it; name the adapter's own folder, or the "
                                f"base with --base DIR")
    base = args.base or base_of(args.adapter) or args.adapter
    folder = OutputFolder(args.out, args.overwrite, (args.adapter, base), ways="replace it (--overwrite), or name "
                          "another folder")
    model = llmc.Model.from_pretrained(located_model(base))
    if base != args.adapter:
        model.load_adapter(args.adapter)
    ids = probe(model.config)
    attached = model(ids)
    model.merge_adapter()
    if args.dtype != "float32":
        model.adapters.say_rounding(args.dtype)
    tokenizer = tokenizer_of(args.adapter) or tokenizer_of(base)
    with folder:
        model.merge_and_unload().save_pretrained(args.out, dtype=args.dtype)
        if tokenizer is None:
            say(f"{base}: no tokenizer in it to put beside the merged weights")
        else:
            tokenizer.save_pretrained(args.out)
        folder.succeeded()
    del model
    apart = abs(llmc.Model.from_pretrained(args.out)(ids) - attached).max()
    print(f"{args.out}: {base} with {args.adapter} merged, as {args.dtype}; "
          f"logits at most {apart:.2g} from those of the adapter attached")
