"""Places: which tensor of a checkpoint is which parameter, the head among them."""


from llmc.calls import warn
from llmc import checkpoint
from llmc.errors import CheckpointError, ShapeError
from llmc.weights.assign import FLOATS
from llmc.weights.authors_names import cutting, matched


def has_own_head(files, core):
    """Does a checkpoint hold a head that differs from its embedding? Of a model that ties them, that is said.

    Parameters
    ----------
    files : Checkpoint
    core : _core.Model
        Of the names.
    """
    head, embedding = _names(core)
    there = checkpoint.align(files.names(), [head, embedding]).found
    if len(there) < 2 or files.equal(there[head], there[embedding]):
        return False
    warn(f"{files.path}: {head} differs from {embedding}, though config.json ties them; it counts, and "
         f"tie_word_embeddings is False from here on")
    return True


def places(files, core, config):
    """Where each parameter is read from, in the authors' spelling too, everything checked before memory is taken.

    An untied head that is not there starts as the embedding, which is said.

    Parameters
    ----------
    files : Checkpoint
    core : _core.Model
        Of the names and shapes.
    config : Config

    Returns
    -------
    dict of str to (str, function or None)
        {parameter: (the file's tensor, what cuts the parameter out of it)}.

    Raises
    ------
    CheckpointError, ShapeError
        When a tensor is missing, surplus, of another shape, or not of floats; the message names file and tensor.
    """
    head, embedding = _names(core)
    untied = not config.tie_word_embeddings
    missing = untied and checkpoint.align(files.names(), [head, embedding]).missing == [head]
    tied = {} if untied and not missing else {head: embedding}
    found = matched(files.names(), core.shapes(), tied, config, str(files.path))
    cuts = {}
    for name, shape in core.shapes().items():
        stored, cuts[name] = cutting(found[name], name, shape, config)
        _check(files, found[name], stored)
    if missing:
        warn(f"{files.path}: no {head} in it, though config.json unties it; it starts as {embedding}")
    return {name: (found[name], cut) for name, cut in cuts.items()}


def _names(core):
    return f"{core.head_name}.weight", f"{core.embedding_name}.weight"


def _check(files, name, shape):
    if tuple(files.shape(name)) != shape:
        raise ShapeError(f"{files.file(name)}: {name} has shape {tuple(files.shape(name))}, config.json asks for "
                         f"{shape}")
    if files.reads_as(name) not in FLOATS:
        raise CheckpointError(f"{files.file(name)}: {name} has dtype {files.dtype(name)}; weights are float32, "
                              f"float16, bfloat16 or float64")
