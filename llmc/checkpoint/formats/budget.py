"""Budget: what reading the description of one file may cost in memory."""

from llmc.errors import CheckpointError

FLOOR = 8 << 20


class Budget:
    """An allowance of 8 MiB plus twice the file's size.

    A hostile byte can ask for a whole Python object, so every object that a file makes a reader build is paid for
    here at about its true price, before it is built.

    Parameters
    ----------
    where : str
        The file, for the error message.
    file_size : int
        Its size in bytes.
    """

    __slots__ = ("where", "left")

    def __init__(self, where, file_size):
        self.where = where
        self.left = FLOOR + 2 * file_size

    def spend(self, count):
        """Pay for `count` bytes, or raise `CheckpointError`."""
        self.left -= count
        if self.left < 0:
            raise CheckpointError(
                f"{self.where}: describing its tensors would take more memory than 8 MiB and twice the file's size; "
                "no real checkpoint does"
            )
