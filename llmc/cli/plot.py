"""llmc plot: the losses of several trainings in one picture."""

import os

from llmc.cli.outcome import Usage, say
from llmc.show import picture

EXAMPLE = "llmc plot out-a out-b --out loss.pdf"


def arguments(parser):
    """Its words."""
    parser.add_argument("runs", nargs="+", metavar="DIR", help="output folders of llmc train and llmc lora")
    parser.add_argument("--out", default="loss.png", metavar="FILE",
                        help="the picture: .png, .pdf or .svg [%(default)s]")
    parser.add_argument("--log", action="store_true",
                        help="steps on a logarithmic axis, an evaluation over its step + 1: 0 is the model before "
                             "[linear]")


def run(args):
    """Draw the picture, and print a row for each run."""
    from llmc.train.together import plot_runs, read_runs, table_of

    ending = os.path.splitext(args.out)[1]
    if ending not in picture.ENDINGS:
        raise Usage(f"plot: {args.out} ends in {ending or 'nothing'}; --out takes {', '.join(picture.ENDINGS)}")
    runs = read_runs(args.runs)
    plot_runs(runs, args.out, args.log)
    print(table_of(runs))
    say(f"{args.out}: {len(runs)} run{'s' * (len(runs) != 1)}")
