"""Separability: how well a linear classifier, trained on some rows, tells classes apart on the others."""

import numpy as np

from llmc.calls import public
from llmc.checks import number, whole
from llmc.errors import DataError, ShapeError
from llmc.inputs import as_array

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8  # of Adam, torch's


@public
def separability(x, y, folds=5, seed=42, epochs=1, lr=1e-2, batch_size=64):
    """How well a linear classifier tells classes apart on rows it has not seen.

    In each fold of a shuffled k-fold a linear map with bias is trained by Adam on the mean cross entropy of batches,
    and scored by the share of right answers on the rows that were held out.

    Parameters
    ----------
    x : (n, features)
    y : (n,) integers
        Classes.
    folds : int
        At least 2; every class has as many rows or more.
    seed : int
        Of the folds, as scikit-learn's `KFold(folds, shuffle=True, random_state=seed)` cuts them, of the classifiers'
        first numbers (uniform up to 1 / sqrt(features)) and of the order of the rows.
    epochs, batch_size : int
    lr : float

    Returns
    -------
    dict
        "accuracy", "std" : float, mean and population deviation over the folds.
        "folds" : (folds,) float64

    Raises
    ------
    DataError
        For one class alone, fewer than `folds` rows of a class, or numbers that are not finite.
    ShapeError, ConfigError, TypeError
        For arrays that do not belong together, or numbers outside of their ranges.
    """
    folds, seed, epochs, batch_size = checked(folds, seed, epochs, batch_size)
    lr = number(lr, "lr", 0, open_low=True)
    x, y = as_array(x, "x"), as_array(y, "y")
    if x.dtype.kind not in "fiu" or y.dtype.kind not in "iu":
        raise TypeError(f"x are numbers and y whole numbers, not {x.dtype} and {y.dtype}")
    if x.ndim != 2 or not x.size or y.shape != x.shape[:1]:
        raise ShapeError(f"x has shape {x.shape} and y {y.shape}; (n, features) and (n,) are needed")
    if not np.isfinite(x).all():
        raise DataError("x holds numbers that are not finite")
    names, classes, counts = np.unique(y, return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise DataError(f"y has one class, {names[0]}: there is nothing to tell apart")
    require_rows(dict(zip(names.tolist(), counts.tolist())), folds, "class")
    return scores(x, classes, folds, seed, epochs, lr, batch_size)


def checked(folds, seed, epochs, batch_size):
    """The whole numbers of a cross validation."""
    return (whole(folds, "folds", 2), whole(seed, "seed", most=2**32 - 1), whole(epochs, "epochs"),
            whole(batch_size, "batch_size", 1))  # fmt: skip


def require_rows(counts, folds, what):
    """DataError where {class: rows} has fewer than `folds`."""
    name = min(counts, key=counts.get)
    if counts[name] < folds:
        raise DataError(f"{what} {name} has {counts[name]} rows, and {folds} folds need as many or more; give more "
                        f"text, or fewer folds")  # fmt: skip


def scores(x, classes, folds, seed, epochs, lr, batch_size):
    """What `separability` returns, of checked arrays; classes count from 0."""
    kept, held = cut(len(x), folds, seed)
    weights, biases = _train(x, classes, kept, np.random.default_rng(seed), epochs, lr, batch_size)
    right = np.array([
        np.mean(np.argmax(x[rows].astype(np.float64) @ weight + bias, axis=-1) == classes[rows])
        for rows, weight, bias in zip(held, weights, biases)
    ])  # fmt: skip
    return {"accuracy": float(right.mean()), "std": float(right.std()), "folds": right}


def cut(n, folds, seed):
    """The rows that are kept and those held out, in each fold: two lists of rising numbers."""
    order = np.arange(n)
    np.random.RandomState(seed).shuffle(order)
    held = [np.sort(rows) for rows in np.array_split(order, folds)]
    return [np.setdiff1d(np.arange(n), rows, assume_unique=True) for rows in held], held


def _train(x, classes, kept, rng, epochs, lr, batch_size):
    """The classifiers of all folds at once: weights (folds, features, classes) and biases (folds, classes).

    Folds differ by a row at most; a batch that one of them has fewer rows for is filled with rows that weigh nothing,
    and a fold that has none left waits.
    """
    folds, features, count = len(kept), x.shape[1], int(classes.max()) + 1
    most = 1 / np.sqrt(features)
    parameters = rng.uniform(-most, most, (folds, features + 1, count))  # the bias is the last line
    first, second, steps = np.zeros_like(parameters), np.zeros_like(parameters), np.zeros((folds, 1, 1))
    answers = np.eye(count)[classes]
    for _ in range(epochs):
        order = _orders(kept, rng)
        for start in range(0, order.shape[1], batch_size):
            rows = order[:, start : start + batch_size]
            there = rows >= 0
            gradient = _gradient(x[rows], answers[rows], there, parameters)
            active = there.any(axis=1)[:, None, None]
            steps += active
            first = np.where(active, BETA1 * first + (1 - BETA1) * gradient, first)
            second = np.where(active, BETA2 * second + (1 - BETA2) * gradient**2, second)
            size = np.sqrt(second / (1 - BETA2**steps)) + EPS
            parameters = np.where(active, parameters - lr * first / (1 - BETA1**steps) / size, parameters)
    return parameters[:, :-1], parameters[:, -1]


def _orders(kept, rng):
    """The rows of every fold in an order of its own, (folds, most); -1 where there are fewer."""
    most = max(map(len, kept))
    return np.array([np.pad(rng.permutation(rows), (0, most - len(rows)), constant_values=-1) for rows in kept])


def _gradient(x, answers, there, parameters):
    """Of the mean cross entropy over the rows that are there: (folds, features + 1, classes)."""
    x = x.astype(np.float64)
    logits = x @ parameters[:, :-1] + parameters[:, None, -1]
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    error = (shares - answers) * (there / np.maximum(there.sum(axis=1, keepdims=True), 1))[..., None]
    return np.concatenate([x.transpose(0, 2, 1) @ error, error.sum(axis=1, keepdims=True)], axis=1)
