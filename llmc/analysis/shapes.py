"""The shape rules of LIM: which numbers of an input and an output of unequal shapes are compared."""

SAME, LAST_DIMENSION, FEATURE_MEAN, SKIPPED = "same", "last-dimension", "feature-mean", "skipped"


def shape_case(module, input_shape, output_shape, projections):
    """How a module's output is compared with its input.

    Parameters
    ----------
    module : Module
    input_shape : tuple of int
        (B, T) for a module that reads ids.
    output_shape : tuple of int
    projections : {"truncate", "feature-mean"}
        What is done with attention projections whose widths differ.

    Returns
    -------
    str
        "same": as it is. "last-dimension": over the common leading features. "feature-mean": with the mean of the
        input over its features. "skipped": not at all.
    """
    if len(input_shape) != len(output_shape) or input_shape[:-1] != output_shape[:-1]:
        return SKIPPED
    if input_shape == output_shape:
        return SAME
    if projections == "feature-mean" and module.is_attention_projection:
        return FEATURE_MEAN
    return LAST_DIMENSION


def mismatch_line(name, input_shape, output_shape):
    """The line that reports a module whose shapes differ."""
    return f"layer {name}: input {list(input_shape)}, output {list(output_shape)}"


def is_shape_line(line):
    """Whether a line of `mismatches` reports shapes, not a value that does not exist."""
    return ": input [" in line
