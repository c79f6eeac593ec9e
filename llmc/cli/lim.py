"""llmc lim: what every module of a model does to its input, on a text."""

import itertools
import os

from llmc.cli import texts
from llmc.cli.outcome import Usage
from llmc.cli.parser import whole
from llmc.cli.sources import model_and_tokenizer
from llmc.show import picture

EXAMPLE = "llmc lim llmc-demo --text README.md --metrics lim,block_influence,ablation --out lim.png lim.html"
LONGEST = 512  # tokens of context, unless more are asked for
TABLES = (".html", ".csv", ".json")


def arguments(parser):
    """Its words."""
    texts.add(parser, LONGEST, batch_size=4, kinds='UTF-8 text, rows (.jsonl, .json, .csv, .parquet) of '
              'text, or one .bin of llmc tokenize')
    parser.add_argument("--metrics", default="lim", metavar="NAMES",
                        help="what to measure: lim, negative_cosine, block_influence, angular_distance, "
                             "relative_contribution, lim_per_token, cka, ablation, with commas between; or all "
                             "[%(default)s]")
    parser.add_argument("--skip-first", type=whole(0), default=0, metavar="N",
                        help="leave the first N tokens of each row out of every metric [%(default)s]")
    parser.add_argument("--projections", choices=("truncate", "feature-mean"), default="truncate",
                        help="what an attention projection of another width is compared with [%(default)s]")
    parser.add_argument("--compare", metavar="DIR",
                        help="another checkpoint, or a LoRA adapter of this one, to put beside; --out then takes "
                             "pictures [none]")
    parser.add_argument("--out", nargs="+", default=[], metavar="FILE",
                        help="files to write: .png, .pdf, .svg, .html, .csv, .json [none]")
    parser.add_argument("--max-tokens", type=whole(2, 2**63 - 1), default=16384, metavar="N",
                        help="tokens of the text that are read [%(default)s]")


def run(args):
    """Print the report, and write what --out names."""
    from llmc.analysis import METRICS, lim
    from llmc.analysis.report import most_changed
    from llmc.analysis.titles import source_of

    _check_out(args)
    metrics = METRICS if args.metrics == "all" else tuple(name.strip() for name in args.metrics.split(","))
    model, tokenizer = texts.opened(args)
    batches = _batches(args, model, tokenizer)
    options = dict(metrics=metrics, projections=args.projections, skip_first=args.skip_first)
    report = lim(model, batches, **options)
    report.source = source_of(args.text)
    print(report)
    if not args.compare:
        for path in args.out:
            report.save(path) if path.endswith(TABLES) else report.plot(path)
        return
    other = lim(_other(args, model), batches, **options)
    other.source = report.source
    print(f"\n{args.compare}: {other}")
    names = tuple(os.path.basename(os.path.normpath(name)) for name in (args.model, args.compare))
    names = names if names[0] != names[1] else ("before", "after")
    print(f"\nwhat changed most\n{most_changed(report.compare(other, names=names), names)}")
    for path in args.out:
        report.compare(other, path, names=names)


def _check_out(args):
    taken = picture.ENDINGS if args.compare else (*picture.ENDINGS, *TABLES)
    for path in args.out:
        ending = os.path.splitext(path)[1]
        if ending not in taken:
            raise Usage(f"lim: {path} ends in {ending or 'nothing'}; --out takes {', '.join(taken)}"
                        + (" with --compare" if args.compare else ""))


def _batches(args, model, tokenizer):
    """Batches of blocks of the text, up to --max-tokens."""
    from llmc.data.collate import collate

    size = min(texts.block_size(args, model, LONGEST), args.max_tokens)
    blocks = texts.blocks(args.text, model, tokenizer, size)
    blocks = list(itertools.islice(blocks, max(args.max_tokens // size, 1)))
    starts = range(0, len(blocks), args.batch_size)
    return [collate(blocks[i : i + args.batch_size], vocab_size=model.config.vocab_size) for i in starts]


def _other(args, model):
    if os.path.exists(os.path.join(args.compare, "adapter_config.json")):
        model.load_adapter(args.compare)
        return model
    return model_and_tokenizer(args.compare, False, args.dtype, args.precision)[0]
