"""Tensors under the names of a family's authors: found and cut into ours, or made of ours."""

import functools
from collections.abc import Mapping

from llmc import checkpoint
from llmc.errors import CheckpointError, quoted
from llmc.families import kin, row_of


def matched(names_in_file, names_in_model, tied, config, where):
    """{the model's name: the file's}, in Hugging Face's spelling or in that of the family's authors.

    Raises
    ------
    CheckpointError
        When a tensor is missing or surplus; where it is one of another family, that is said.
    """
    row = row_of(config.model_type)
    found = checkpoint.align(names_in_file, names_in_model, tied, row.files)
    try:
        found.check(where)
    except CheckpointError:
        others = kin(found.surplus, row)
        if not others:
            raise
        more = f" and {len(found.surplus) - 1} more" if found.surplus[1:] else ""
        raise CheckpointError(
            f"{where}: model_type is {config.model_type}, but {quoted(found.surplus[0])}{more} are no tensors of it; "
            f"names like these are of {' and '.join(others)}: give config= of that model_type (llmc.Config) in the "
            "place of config.json, or make the model of it"
        ) from None
    return found.found


def cutting(name_in_file, name_in_model, shape, config):
    """(the shape that a tensor of a file needs, what cuts a parameter of `shape` out of it or None: it is that)."""
    piece = checkpoint.piece_of(name_in_file, name_in_model, row_of(config.model_type).files)
    if piece is None:
        return tuple(shape), None
    spelling, place = piece
    return spelling.shape(config, shape), functools.partial(spelling.cut, place=place, config=config)


class InAuthorsNames(Mapping):
    """{the authors' name: array}, each made when it is asked for.

    Parameters
    ----------
    tensors : mapping of str to array
        Of a model.
    config : Config
        Its configuration.
    layers : dict of str to int
        The layer of each.
    """

    def __init__(self, tensors, config, layers):
        self._tensors, self._config, self._sources = tensors, config, {}
        for name in tensors:
            theirs, spelling = _theirs(name, layers[name], row_of(config.model_type).files)
            self._sources.setdefault(theirs, (spelling, []))[1].append(name)

    def __getitem__(self, name):
        spelling, ours = self._sources[name]
        arrays = [self._tensors[each] for each in ours]
        return spelling.join(arrays, self._config) if spelling else arrays[0]

    def __iter__(self):
        return iter(self._sources)

    def __len__(self):
        return len(self._sources)


def _theirs(name, layer, spellings):
    """(the authors' name of one of our tensors, its spelling or None: it is the same)."""
    for spelling in spellings:
        for part in spelling.of:
            if name.endswith(f".{part}") and layer >= spelling.first_layer:
                return name.removesuffix(part) + spelling.name, spelling
    return name, None
