"""Assigning: arrays, or torch's tensors, as the numbers of parameters."""

import ml_dtypes
import numpy as np

from llmc.errors import CheckpointError, ShapeError
from llmc.weights.authors_names import cutting, matched
from llmc.weights.stored import writing

FLOATS = tuple(np.dtype(t) for t in ("float32", "float16", ml_dtypes.bfloat16, "float64"))


def assign(core, views, tensors, tied, config):
    """Overwrite every parameter with the tensor of its name.

    Parameters
    ----------
    core : _core.Model
        Whose readers are kept out.
    views : dict of str to array
        The parameters.
    tensors : mapping of str to array
    tied : dict of str to str
        Names that share one tensor.
    config : Config
        Whose family's authors may have other names for them.

    Raises
    ------
    CheckpointError, ShapeError
        When a name is missing or surplus, a shape differs, or numbers are not real; nothing is changed.
    """
    found, cuts = matched(tensors, views, tied, config, "load_state_dict"), {}
    for name, view in views.items():  # one at a time: a checkpoint's are read as they are asked for
        shape, cuts[name] = cutting(found[name], name, view.shape, config)
        array = as_array(name, tensors[found[name]])
        if array.shape != shape:
            raise ShapeError(f"{found[name] if cuts[name] else name}: shape {array.shape} is given, {shape} is needed")
        if array.dtype not in FLOATS and array.dtype.kind not in "iu":
            raise CheckpointError(f"{name}: dtype {array.dtype} is given; weights are real numbers")
    with writing(core):
        for name, view in views.items():
            array = as_array(name, tensors[found[name]])
            view[...] = cuts[name](array) if cuts[name] else array


def as_array(name, tensor):
    """A tensor as an array; one of torch with its gradients left behind, and bfloat16 widened, for NumPy has none.

    Raises
    ------
    CheckpointError
        When a tensor of torch has no numbers that NumPy can read; the message names it.
    """
    if type(tensor).__module__.partition(".")[0] != "torch":
        return np.asarray(tensor)
    try:
        tensor = tensor.detach().cpu()
        return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise CheckpointError(f"{name}: a tensor of torch that NumPy cannot read: {error}") from None
