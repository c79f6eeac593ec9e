"""Where a user looks: is a progress bar of any use here?"""

import sys


def bars_are_seen():
    """True in a terminal and in a notebook; elsewhere (a file, a pipe) lines serve better."""
    return sys.stderr.isatty() or _in_notebook()


def _in_notebook():
    """Is this process the kernel of a notebook? (An imported ipykernel does not make it one.)"""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None
