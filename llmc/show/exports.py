"""What is found, elsewhere: rows as a DataFrame, and reports as .csv, .json or .html."""

import os

from llmc.errors import ConfigError
from llmc.system.atomic import atomic_write, write_json


def dataframe(rows, owner, columns=None):
    """Rows as a pandas DataFrame.

    Parameters
    ----------
    rows : list of dict
    owner : str
        What has them, for the message.
    columns : list of str, optional

    Raises
    ------
    ImportError
        Without pandas.
    """
    try:
        import pandas
    except ImportError:
        raise ImportError(f"to_dataframe needs pandas (pip install pandas); {owner}.rows needs nothing") from None
    return pandas.DataFrame(rows) if columns is None else pandas.DataFrame(rows, columns=columns)


def save(path, what, as_dict, as_csv, as_page, indent=2, draws=True):
    """Write a report; the file appears whole.

    Parameters
    ----------
    path : path
        Its ending says which of the three.
    what : str
        "a report", for the message.
    as_dict, as_csv, as_page : callable
        What a .json holds; the text of a .csv, and of a .html.
    indent : int or None
        Of a .json; None: all in a line, for what has very many numbers.
    draws : bool
        Whether it has a `plot`, for the message.

    Raises
    ------
    ConfigError
        For another ending.
    OSError
        When the place cannot be written to.
    """
    ending = os.path.splitext(os.fspath(path))[1].lower()
    if ending == ".json":
        write_json(path, as_dict(), indent=indent)
        return
    if ending not in (".csv", ".html"):
        pictures = "; .plot draws pictures" if draws else ""
        raise ConfigError(f"{os.fspath(path)}: {what} is saved as .csv, .json or .html{pictures}")
    text = as_csv() if ending == ".csv" else as_page()
    with atomic_write(path, "w") as file:
        file.write(text)
