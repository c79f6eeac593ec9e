"""llmc lim: what every module of a model does to its input, on a text."""

import itertools
import os

from llmc.cli.outcome import Usage
from llmc.cli.parser import storage, threads, whole
from llmc.cli.sources import ends_in_bin, model_and_tokenizer

EXAMPLE = "llmc lim llmc-demo --text README.md --metrics lim,block_influence,ablation --out lim.png lim.html"
LONGEST = 512  # tokens of context, unless more are asked for
TABLES, PICTURE = (".csv", ".json", ".html"), ".png"


def arguments(parser):
    """Its words."""
    parser.add_argument("model", metavar="DIR", help="a checkpoint's folder, or a hub name")
    parser.add_argument("--text", nargs="+", required=True, metavar="FILE",
                        help='UTF-8 text, .jsonl of {"text"}, or one .bin of llmc tokenize')
    parser.add_argument("--metrics", default="lim", metavar="NAMES",
                        help="lim, negative_cosine, block_influence, angular_distance, relative_contribution, cka, "
                             "ablation, with commas between; or all (%(default)s)")
    parser.add_argument("--projections", choices=("truncate", "feature-mean"), default="truncate",
                        help="what an attention projection of another width is compared with (%(default)s)")
    parser.add_argument("--compare", metavar="DIR",
                        help="another checkpoint, or a LoRA adapter of this one; --out then takes .png")
    parser.add_argument("--out", nargs="+", default=[], metavar="FILE", help="where to write: .png, .html, .csv, .json")
    parser.add_argument("--max-tokens", type=whole(2, 2**63 - 1), default=16384, metavar="N",
                        help="of the text (%(default)s)")
    parser.add_argument("--block-size", type=whole(2), metavar="T",
                        help=f"tokens of context; by default the model's, at most {LONGEST}")
    parser.add_argument("--batch-size", type=whole(1), default=4, metavar="B", help="blocks at once (%(default)s)")
    storage(parser)
    threads(parser)


def run(args):
    """Print the report, and write what --out names."""
    from llmc.analysis import METRICS, lim

    _check_out(args)
    metrics = METRICS if args.metrics == "all" else tuple(name.strip() for name in args.metrics.split(","))
    model, tokenizer = model_and_tokenizer(args.model, not ends_in_bin(args.text), args.dtype, args.precision)
    batches = _batches(args, model, tokenizer)
    report = lim(model, batches, metrics=metrics, projections=args.projections)
    print(report)
    if not args.compare:
        for path in args.out:
            report.plot(path) if path.endswith(PICTURE) else report.save(path)
        return
    other = lim(_other(args, model), batches, metrics=metrics, projections=args.projections)
    print(f"\n{args.compare}: {other}")
    names = tuple(os.path.basename(os.path.normpath(name)) for name in (args.model, args.compare))
    for path in args.out:
        report.compare(other, path, names=names if names[0] != names[1] else ("before", "after"))


def _check_out(args):
    for path in args.out:
        ending = os.path.splitext(path)[1]
        if ending not in ((PICTURE,) if args.compare else (*TABLES, PICTURE)):
            raise Usage(f"lim: {path} ends in {ending or 'nothing'}; --out takes .png"
                        + (" with --compare" if args.compare else ", .html, .csv and .json"))


def _batches(args, model, tokenizer):
    """Batches of blocks of the text, up to --max-tokens."""
    from llmc.data import StreamingTextDataset, TokenBlockDataset
    from llmc.data.collate import collate

    block_size = min(args.block_size or min(model.config.max_position_embeddings, LONGEST), args.max_tokens)
    if ends_in_bin(args.text):
        data = TokenBlockDataset(args.text[0], block_size, vocab_size=model.config.vocab_size)
        blocks = map(data.__getitem__, range(len(data)))
    else:
        blocks = iter(StreamingTextDataset(files=args.text, tokenizer=tokenizer, block_size=block_size))
    blocks = list(itertools.islice(blocks, max(args.max_tokens // block_size, 1)))
    starts = range(0, len(blocks), args.batch_size)
    return [collate(blocks[i : i + args.batch_size], vocab_size=model.config.vocab_size) for i in starts]


def _other(args, model):
    if os.path.exists(os.path.join(args.compare, "adapter_config.json")):
        model.load_adapter(args.compare)
        return model
    return model_and_tokenizer(args.compare, False, args.dtype, args.precision)[0]
