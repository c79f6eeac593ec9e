"""The text that every Python carries, and a cut of any text into a part to train on and a part held out."""

from llmc.calls import public
from llmc.errors import DataError


@public
def builtin_text():
    """The help pages of the Python language (`pydoc_data.topics`), about 460 kB of English, sorted by title.

    The same Python gives the same text; another version's pages differ a little.
    """
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name].strip("\n") for name in sorted(topics)) + "\n"


@public
def split_text(text, held_out=0.1):
    """Cut a text in two: the beginning to train on, the end to evaluate with.

    The cut is at a blank line where there is one. Paragraphs of the end that also stand in the beginning are taken
    out of the end, so that a low loss on it is no feat of memory.

    Parameters
    ----------
    text : str
    held_out : float
        The share of the characters that is held out, above 0 and below 1.

    Returns
    -------
    train, held_out : str

    Raises
    ------
    DataError
        If the share is impossible, or nothing is left of one of the parts.
    """
    if not isinstance(text, str):
        raise TypeError(f"text is {type(text).__name__}, not str")
    if not 0 < held_out < 1:
        raise DataError(f"held_out is {held_out}; it is a share above 0 and below 1")
    wish = int(len(text) * (1 - held_out))
    cut = text.find("\n\n", wish)
    cut = cut + 2 if cut >= 0 else max(wish, 1)
    train = text[:cut]
    known = set(train.split("\n\n"))
    end = "\n\n".join(paragraph for paragraph in text[cut:].split("\n\n") if paragraph not in known)
    if not train.strip() or not end.strip():
        raise DataError(f"a text of {len(text)} characters with held_out={held_out} leaves {len(train)} characters to "
                        f"train on and {len(end)} that are new to hold out; give a longer text")
    return train, end
