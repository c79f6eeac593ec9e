"""The order of the data: which items each optimizer step reads, given a seed and a position."""

import itertools

import numpy as np

from llmc.errors import DataError


class Batches:
    """The micro-batches of one optimizer step after the other.

    A dataset with `__len__` and `__getitem__` is shuffled anew each epoch, by a permutation that depends on the seed
    and the epoch alone; any other iterable is read in its own order. Neither a micro-batch nor a step runs across the
    end of an epoch: the last ones are short.

    Parameters
    ----------
    dataset : dataset or iterable
    batch_size : int
        Items of a micro-batch.
    accumulation : int
        Micro-batches of a step.
    seed : int
    position : (int, int)
        Epochs done, and items read of the next one: where to begin.

    Attributes
    ----------
    position : (int, int)
        Where the next step begins.

    Raises
    ------
    DataError
        For a dataset without items, or an iterable that has fewer than the position says.
    """

    def __init__(self, dataset, batch_size, accumulation, seed, position=(0, 0)):
        self.dataset, self.batch_size, self.accumulation, self.seed = dataset, batch_size, accumulation, seed
        self.position = tuple(position)
        self.length = length_of(dataset)
        self._order_of = None
        self._items = None

    @property
    def steps_per_epoch(self):
        """Optimizer steps of an epoch; None for an iterable."""
        return None if self.length is None else -(-self.length // (self.batch_size * self.accumulation))

    @property
    def epoch(self):
        """Epochs done, a float where the length is known."""
        epoch, item = self.position
        return epoch + (item / self.length if self.length else 0.0)

    def take(self):
        """The next step: a list of micro-batches, each a pair (numbers of the items, items); empty: no data is left."""
        first = self.position[1]
        items = self._take_shuffled() if self.length is not None else self._take_in_order()
        numbers = self._numbers if self.length is not None else range(first, first + len(items))
        size = self.batch_size
        return [(list(numbers[i : i + size]), items[i : i + size]) for i in range(0, len(items), size)]

    def _take_shuffled(self):
        epoch, item = self.position
        if self._order_of != epoch:
            self._order, self._order_of = permutation(self.length, self.seed, epoch), epoch
        self._numbers = self._order[item : item + self.batch_size * self.accumulation].tolist()
        items = [self.dataset[number] for number in self._numbers]
        item += len(items)
        self.position = (epoch, item) if item < self.length else (epoch + 1, 0)
        return items

    def _take_in_order(self):
        epoch, item = self.position
        if self._items is None:
            if epoch and is_one_shot(self.dataset):
                return []
            self._items = iter(self.dataset)
            skipped = sum(1 for _ in itertools.islice(self._items, item))
            if skipped < item:
                raise DataError(f"train_dataset gave {skipped} items, {item} had been read of it; give the same data")
            self._ahead = list(itertools.islice(self._items, 1))
            if not self._ahead:
                raise DataError("train_dataset gave no items; an iterable is iterated afresh in every epoch")
        items = self._ahead + list(itertools.islice(self._items, self.batch_size * self.accumulation - 1))
        self._ahead = list(itertools.islice(self._items, 1))
        self.position = (epoch, item + len(items)) if self._ahead else (epoch + 1, 0)
        if not self._ahead:
            self._items = None
        return items


def permutation(length, seed, epoch):
    """The order of `length` items in an epoch: a shuffle without replacement that (seed, epoch) determine.

    It is the order of the numbers of a counter-based generator, so it is the same in every release of NumPy.
    """
    numbers = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(length)
    return np.argsort(numbers, kind="stable")


def length_of(dataset):
    """The number of items, or None for an iterable that does not know it.

    Raises
    ------
    TypeError
        When it is neither a dataset nor an iterable.
    DataError
        When it is empty.
    """
    if hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__"):
        if not len(dataset):
            raise DataError(f"the dataset, a {type(dataset).__name__}, has no items")
        return len(dataset)
    if not hasattr(dataset, "__iter__"):
        kind = type(dataset).__name__
        raise TypeError(f"a dataset has __len__ and __getitem__, or can be iterated; {kind} does neither")
    return None


def is_one_shot(dataset):
    """Whether it can be read only once, as a generator."""
    if length_of(dataset) is not None:
        return False
    return not getattr(dataset, "restartable", True) or hasattr(dataset, "__next__")
