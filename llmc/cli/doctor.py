"""llmc doctor: what runs here."""

EXAMPLE = "llmc doctor > doctor.txt      # paste it into a bug report"


def arguments(parser):
    """None of its own."""


def run(args):
    """Print the table."""
    import llmc

    print(llmc.doctor())
