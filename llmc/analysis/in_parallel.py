"""Work on rows in several threads: NumPy lets go of the interpreter while it computes."""

from concurrent.futures import ThreadPoolExecutor

from llmc.core import get_num_threads

_PIECES = 8  # whatever the number of threads: so the sums, and their bits, do not depend on it


def in_pieces(work, count):
    """Call `work(first, last)` on pieces that together are range(count).

    Returns
    -------
    list
        What each gave, in their order.
    """
    borders = [count * piece // _PIECES for piece in range(_PIECES + 1)]
    pieces = [(first, last) for first, last in zip(borders, borders[1:]) if last > first]
    threads = min(get_num_threads(), len(pieces))
    if threads < 2:
        return [work(*piece) for piece in pieces]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda piece: work(*piece), pieces))
