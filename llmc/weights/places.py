"""Places: which tensor of a checkpoint is which parameter, the head among them."""

import copy
import warnings

from llmc import checkpoint
from llmc.errors import CheckpointError, ShapeError
from llmc.weights.assign import FLOATS


def places(files, config, shapes_of):
    """Where each parameter is read from, everything checked before memory is taken.

    A head of its own counts where it differs from the embedding, whatever the config says. A head that is not there
    starts as the embedding.

    Parameters
    ----------
    files : Checkpoint
    config : Config
    shapes_of : callable
        From a Config to a `_core.Model` of shapes alone.

    Returns
    -------
    (Config, dict of str to str)
        The config, whose `tie_word_embeddings` is what the files say, and {parameter: the file's tensor}.

    Raises
    ------
    CheckpointError, ShapeError
        When a tensor is missing, surplus, of another shape, or not of floats; the message names file and tensor.
    """
    skeleton = shapes_of(config)
    head, embedding = f"{skeleton.head_name}.weight", f"{skeleton.embedding_name}.weight"
    there = checkpoint.align(files.names(), [head, embedding]).found
    shared = {head: embedding} if config.tie_word_embeddings or head not in there else {}
    if len(there) == 2 and shared and not files.equal(there[head], there[embedding]):
        warnings.warn(f"{files.path}: {head} differs from {embedding}, though config.json ties them; it counts, and "
                      f"tie_word_embeddings is False from here on", stacklevel=3)
        config, shared = copy.deepcopy(config), {}
        config.tie_word_embeddings = False
        skeleton = shapes_of(config)
    if head not in there and not config.tie_word_embeddings:
        warnings.warn(f"{files.path}: no {head} in it, though config.json unties it; it starts as {embedding}",
                      stacklevel=3)
    found = checkpoint.align(files.names(), skeleton.shapes(), shared)
    found.check(str(files.path))
    for name, shape in skeleton.shapes().items():
        _check(files, found.found[name], shape)
    return config, found.found


def _check(files, name, shape):
    if tuple(files.shape(name)) != shape:
        raise ShapeError(f"{files.file(name)}: {name} has shape {tuple(files.shape(name))}, config.json asks for "
                         f"{shape}")
    if files.dtype(name) not in FLOATS:
        raise CheckpointError(f"{files.file(name)}: {name} has dtype {files.dtype(name)}; weights are float32, "
                              f"float16, bfloat16 or float64")
