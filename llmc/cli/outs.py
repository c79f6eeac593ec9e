"""What --out names: files of tables and pictures, refused by their endings before the work begins."""

import os

from llmc.cli.outcome import Usage

TABLES = (".json", ".csv", ".html")


def check_out(command, paths, taken):
    """Raise Usage for a path with an ending that is not among those taken, or in a folder that is not there."""
    for path in paths:
        ending = os.path.splitext(path)[1].lower()
        if ending not in taken:
            raise Usage(f"{command}: {path} ends in {ending or 'nothing'}; --out takes {', '.join(taken)}")
        folder = os.path.dirname(path) or "."
        if not os.path.isdir(folder):
            raise Usage(f"{command}: {path}: there is no folder {folder}; make it first")
