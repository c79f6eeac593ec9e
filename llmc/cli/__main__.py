"""python -m llmc.cli: the command line, where the script `llmc` is not on the path."""

import sys

from llmc.cli import main

if __name__ == "__main__":
    sys.exit(main())
