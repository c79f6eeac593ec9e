"""Linear centred kernel alignment of every module's input and output (Kornblith et al., 2019): a pass of its own."""

import numpy as np

from llmc.analysis.shapes import SKIPPED

CHUNK = 4096  # features that are in double at a time
REMEMBERED = 4  # what one module gives the next one reads


def measure_cka(run, batch, measurement, adapters):
    """Run a batch forward with everything kept, and add each module's alignment to the measurement.

    Over batches the value is the mean of theirs. With fewer tokens than features any two representations are nearly
    aligned, so batches should hold several times as many tokens as the model is wide.

    Parameters
    ----------
    run : llmc.run.Run
        Made with `keep="all"`.
    batch : Batch
    measurement : Measurement
    adapters : Adapters
    """
    run.forward(batch.ids, attention_mask=batch.mask)
    real, grams = batch.counted, {}
    for module in measurement.modules:
        name = module.name
        if measurement.cases[name] == SKIPPED:
            continue
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is not a value, and is reported
            if name in adapters.names:
                value = _alignment(*adapters.flow(run, name), real, {})
            else:
                value = _alignment(run.input(name), run.output(name), real, grams)
        if value is None:
            measurement.miss(name, "cka", "no two tokens of the input, or of the output, differ")
        elif not np.isfinite(value):
            measurement.miss(name, "cka", "numbers are not finite")
        else:
            measurement.add(name, "cka", value, np.count_nonzero(real))


def _alignment(x, y, real, grams):
    """The alignment of x (B, T, I) and y (B, T, O) over the real tokens; None where one of them does not vary."""
    if np.count_nonzero(real) > x.shape[-1] + y.shape[-1]:
        x, y = _centred(x, real), _centred(y, real)
        together, alone, other = (np.linalg.norm(a.T @ b) for a, b in ((x, y), (x, x), (y, y)))
        together, both = together**2, alone * other
    else:
        a, b = _gram(x, real, grams), _gram(y, real, grams)
        together, both = np.vdot(a, b), np.linalg.norm(a) * np.linalg.norm(b)
    if both != 0:
        return float(together / both)
    return 0.0 if not x.any() and not y.any() else None


def _centred(array, real):
    """The real tokens of `array` less their mean, (N, C) float64; a feature that does not vary is exactly zero."""
    rows = array[real].astype(np.float64)
    rows -= rows[0].copy()
    rows -= rows.mean(axis=0)
    return rows


def _gram(array, real, grams):
    """The inner products (N, N) of the centred tokens."""
    key = array.__array_interface__["data"][0], array.shape, array.strides
    if key not in grams:
        gram = 0.0
        for first in range(0, array.shape[-1], CHUNK):
            rows = _centred(array[..., first : first + CHUNK], real)
            gram = gram + rows @ rows.T
        if len(grams) == REMEMBERED:
            del grams[next(iter(grams))]
        grams[key] = gram
    return grams[key]
