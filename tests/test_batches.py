"""Batches: items padded on the right, padding never a target, items that make no batch refused."""

import numpy as np
import pytest

from llmc.data import collate
from llmc.errors import DataError


def ids(*numbers):
    return {"input_ids": np.array(numbers), "labels": np.array(numbers), "attention_mask": np.ones(len(numbers), int)}



def test_a_batch_is_padded_on_the_right_to_its_longest_item():
    data = [ids(5), ids(1, 2, 3, 4), ids(6, 7)]
    batch = collate(data, pad_token_id=9)
    lengths = [len(item["input_ids"]) for item in data]
    assert all(values.shape == (3, max(lengths)) and values.dtype == np.int64 for values in batch.values())
    for row, (item, length) in enumerate(zip(data, lengths, strict=True)):
        assert batch["input_ids"][row].tolist() == item["input_ids"].tolist() + [9] * (max(lengths) - length)
        assert batch["labels"][row].tolist() == item["labels"].tolist() + [-100] * (max(lengths) - length)
        assert batch["attention_mask"][row].tolist() == [1] * length + [0] * (max(lengths) - length)


def test_items_without_labels_or_mask_get_them():
    batch = collate([{"input_ids": [1, 2, 3], "attention_mask": [0, 1, 1]}, {"input_ids": [4]}])
    assert batch["labels"].tolist() == [[-100, 2, 3], [4, -100, -100]]
    assert batch["attention_mask"].tolist() == [[0, 1, 1], [1, 0, 0]]


def test_labels_that_do_not_count_stay_so():
    batch = collate([{"input_ids": [1, 2, 3], "labels": [-100, -100, 3]}], vocab_size=4)
    assert batch["labels"].tolist() == [[-100, -100, 3]]


@pytest.mark.parametrize("items, words", [
    ([], "no items"), ([5], "item 0 is int"), ([{"ids": [1]}], "without input_ids"),
    ([{"input_ids": []}], "not a row of integers"),
    ([{"input_ids": [1.5]}], "float64"), ([{"input_ids": [[1]]}], r"shape \(1, 1\)"),
    ([{"input_ids": [1]}, {"input_ids": [1, 7]}], "item 1: input_ids holds 7, which is not from 0 to 6"),
    ([{"input_ids": [-1]}], "holds -1"), ([{"input_ids": [1, 2], "labels": [1]}], "labels has 1 entries, input_ids 2"),
    ([{"input_ids": [1], "labels": [-5]}], "labels holds -5"),
    ([{"input_ids": [1], "attention_mask": [2]}], "attention_mask holds 2"),
])
def test_items_that_make_no_batch_are_refused(items, words):
    with pytest.raises(DataError, match=words):
        collate(items, vocab_size=7)
