"""llmc lime: LIMe's paper again: models trained in pairs, its figures and tables, and a page."""

from llmc.cli.outcome import Usage
from llmc.cli.parser import threads, whole

EXAMPLE = "llmc lime --scale smoke --out llmc-lime"


def arguments(parser):
    """Its words."""
    parser.add_argument("--scale", default="smoke", metavar="SCALE",
                        help="smoke: everything, tiny, three minutes; small: the models on text, about 45 minutes; "
                             "aet: the arithmetic task alone, about an hour [%(default)s]")
    parser.add_argument("--figures", default="all", metavar="NAMES",
                        help="some of them, with commas: 5,7,table6,aet; models that are there are used again "
                             "[%(default)s]")
    parser.add_argument("--out", default="llmc-lime", metavar="DIR",
                        help="where everything goes; after Ctrl-C the same command goes on there [%(default)s]")
    parser.add_argument("--operands", metavar="NUMBERS",
                        help="numbers of operands of the arithmetic task, with commas [3,4]")
    parser.add_argument("--seed", type=whole(0), default=0, metavar="N",
                        help="the seed of the first model [%(default)s]")
    threads(parser)


def run(args):
    """Train, draw, and say where the page is."""
    from llmc import UnknownNameError
    from llmc.lime import reproduce

    try:
        numbers = reproduce(args.out, scale=args.scale, figures=args.figures, seed=args.seed,
                            operands=_operands(args.operands))  # fmt: skip
    except UnknownNameError as error:
        raise Usage(f"lime: {error}") from None
    print(f"{len(numbers)} figures and tables: {args.out}/index.html, the numbers in {args.out}/numbers.json")


def _operands(text):
    """Whole numbers with commas between, or None."""
    if text is None:
        return None
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise Usage(f"lime: --operands {text} is no list of whole numbers with commas, as 3,4") from None
