"""llmc diff: two checkpoints side by side: what changed, how much, and where."""

import os

from llmc.cli.outcome import Usage
from llmc.cli.outs import TABLES, check_out
from llmc.cli.parser import whole
from llmc.cli.sources import are_scenes, tokenizer_of
from llmc.show import picture
from llmc.system.hub import is_gguf

EXAMPLE = "llmc diff base tuned --out diff.html diff.png"


def arguments(parser):
    """Its words."""
    parser.add_argument("base", metavar="BASE", help="a folder or file; BASE+ADAPTER: with an adapter's folder")
    parser.add_argument("tuned", metavar="TUNED", help="likewise, or the folder of an adapter of BASE alone")
    parser.add_argument("--match", default="*", metavar="GLOB",
                        help="only tensors whose name matches, on either side [%(default)s]")
    parser.add_argument("--rename", nargs="+", default=[], metavar="PATTERN=REPLACEMENT",
                        help="regular expressions that make TUNED's name of a BASE's [none]")
    parser.add_argument("--metrics", default="change,spectrum,units", metavar="NAMES",
                        help="of change, spectrum, units and intruders (slow), with commas between; or all "
                             "[%(default)s]")
    parser.add_argument("--spectrum", choices=("auto", "exact", "randomised"), default="auto",
                        help="how singular values are found: auto, exact or randomised [%(default)s]")
    parser.add_argument("--top", type=whole(0), default=10, metavar="N",
                        help="tensors that are printed, and units listed of each [%(default)s]")
    parser.add_argument("--text", nargs="+", default=[], metavar="FILE",
                        help="trace what the changed weights move on this text [none]")
    parser.add_argument("--max-tokens", type=whole(1), default=512, metavar="N",
                        help="tokens of the text that are read [%(default)s]")
    parser.add_argument("--out", nargs="+", default=[], metavar="FILE",
                        help="files to write: .json, .csv, .html, .png, .pdf, .svg [none]")
    parser.add_argument("--exit-code", action="store_true",
                        help="exit with 1 where they differ in more than how they are stored [0]")


def run(args):
    """Print the diff, and write what --out names."""
    from llmc.analysis.titles import source_of
    from llmc.checkpoint import diff

    check_out("diff", args.out, (*TABLES, *picture.ENDINGS))
    metrics = args.metrics if args.metrics == "all" else tuple(name.strip() for name in args.metrics.split(","))
    found = diff(side(args.base), side(args.tuned), match=args.match, rename=_rename(args.rename), metrics=metrics,
                 spectrum=args.spectrum, top=args.top, text=_shown(args), max_tokens=args.max_tokens)  # fmt: skip
    if found.trace is not None:
        found.trace.source = source_of(args.text)
    print(found.text(args.top))
    for path in args.out:
        found.save(path) if path.lower().endswith(TABLES) else found.plot(path)
    if args.exit_code and found.summary["looks_like"] not in ("identical", "storage"):
        raise SystemExit(1)


def side(word):
    """A path, or the pair that BASE+ADAPTER names."""
    base, plus, adapter = word.rpartition("+")
    return (base, adapter) if plus and not os.path.lexists(word) else word


def _rename(rules):
    pairs = {}
    for rule in rules:
        pattern, equals, replacement = rule.partition("=")
        if not equals or not pattern:
            raise Usage(f"diff: --rename {rule}: write PATTERN=REPLACEMENT")
        pairs[pattern] = replacement
    return pairs or None


def _shown(args):
    """What --text names: scenes as a dataset, by the tokenizer of a side; else texts."""
    if not are_scenes(args.text):
        return text_of(args.text)
    from llmc.data import SceneDataset

    tokenizer = next(filter(None, map(tokenizer_of, _places(args))), None)
    if tokenizer is None:
        raise Usage("diff: --text names scenes, and neither side has a tokenizer to read them with")
    return SceneDataset(args.text, tokenizer)


def _places(args):
    """The folders and GGUF files of both sides, the tuned one's first."""
    for word in (args.tuned, args.base):
        given = side(word)
        for path in reversed(given) if isinstance(given, tuple) else [given]:
            if os.path.isdir(path) or is_gguf(path):
                yield path


def text_of(files):
    """The texts of --text, one a file."""
    from llmc.data.text_files import read_chunks

    return ["".join(read_chunks(path)) for path in files] or None
