"""A dataset of rows, of files or in memory: texts, prompts with responses, conversations, or ids."""

import os

import numpy as np

from llmc.calls import public
from llmc.data.collate import collate, targets_of
from llmc.data.items import check_block_size, item, resolve_index
from llmc.data.conversations import conversation_ids
from llmc.data.row_files import records
from llmc.data.rows import kind_of, rows
from llmc.data.responses import Responses
from llmc.errors import DataError
from llmc.inputs import IGNORE


@public
class JsonlDataset:
    """Rows, each with `text`, `prompt` and `response`, `messages` or `input_ids`: in files, or dicts in memory.

    A text is learnt whole; one longer than `block_size` is several items. Of a prompt and its response the response
    alone is learnt: the prompt's labels are -100. The two stand one behind the other with nothing between. They are
    tokenized apart, as they are when the model is asked, where that reads as the line does; a tokenizer that begins
    every text with a space (SentencePiece) gets them as one text, and a token that holds the end of the prompt and the
    beginning of the response is not learnt. `messages` are a conversation: the ids are those of the tokenizer's chat
    template, and the assistant's turns are learnt, each with the token that ends it. Ids, with `labels` and
    `attention_mask` if a row has them, are an item as they stand. All kinds may be mixed; other keys do not matter, nor
    do empty lines. Only the ids are kept in memory.

    Parameters
    ----------
    paths : path, or list of them; or list of dict, or what has `__len__` and gives dicts by `__getitem__`
        Files: JSON lines, a `.json` of one list, a `.csv` with a header, a `.parquet` (by pyarrow); or the rows
        themselves.
    tokenizer : Tokenizer
        Its special tokens are put around each line, and its `eos_token` at the end, if it has one, unless the line
        begins or ends with them itself.
    block_size : int
        The most tokens of an item, at least 2.

    Raises
    ------
    DataError
        For a line that is no such object, has no tokens, or whose prompt and response, or conversation, do not fit into
        `block_size`; the message has file and line.
    """

    def __init__(self, paths, tokenizer, block_size):
        self.block_size, responses = check_block_size(block_size), Responses(tokenizer)
        parts, bounds, learnt, total = [], [0], [], 0
        self._given = {}  # {item: as it was given}
        paths = [paths] if isinstance(paths, (str, bytes, os.PathLike)) else paths
        for where, record in _rows(paths):
            if "input_ids" in record:
                self._given[len(learnt)] = _given(where, record)
                bounds.append(total)
                learnt.append(0)
                continue
            if kind_of(record) == ("messages",):
                self._given[len(learnt)] = self._conversation(tokenizer, where, record["messages"])
                bounds.append(total)
                learnt.append(0)
                continue
            row = self._row(responses, where, record)
            ends = [*range(total + self.block_size, total + len(row.ids), self.block_size), total + len(row.ids)]
            parts.append(row.ids)
            bounds += ends
            learnt += [row.told] + [0] * (len(ends) - 1)
            total += len(row.ids)
        if not learnt:
            raise DataError(f"{', '.join(map(str, paths))}: there is no row in it; a dataset needs at least one")
        self._ids = np.concatenate([np.zeros(0, np.int32), *parts])
        self._bounds, self._learnt = np.array(bounds), np.array(learnt)

    def _row(self, responses, where, record):
        """The row of one line."""
        prompted, text = "prompt" in record, record["response" if "prompt" in record else "text"]
        row = responses.row(record["prompt"], text) if prompted else responses.text(text)
        if row is None:
            behind = " of its own behind its prompt" if text and prompted else ""
            remedy = ", or give it the space that the prompt ends in" if behind else ""
            raise DataError(f"{where}: {text[:40]!r} has no tokens{behind}; leave the line out{remedy}")
        if prompted and len(row.ids) > self.block_size:
            raise DataError(f"{where}: prompt and response have {len(row.ids)} tokens, more than block_size "
                            f"{self.block_size}; raise it, or shorten them")
        return row

    def _conversation(self, tokenizer, where, messages):
        """The item of a conversation, of which the assistant's turns are learnt."""
        ids, learnt = conversation_ids(messages, tokenizer, where)
        if len(ids) > self.block_size:
            raise DataError(f"{where}: the conversation has {len(ids)} tokens, more than block_size {self.block_size}; "
                            "raise it, or shorten it")
        found = item(np.array(ids, np.int32))
        found["labels"][~np.array(learnt)] = IGNORE
        return found

    def __len__(self):
        return len(self._bounds) - 1

    def __getitem__(self, index):
        index = resolve_index(index, len(self))
        if index in self._given:
            return {name: array.copy() for name, array in self._given[index].items()}
        result = item(self._ids[self._bounds[index] : self._bounds[index + 1]])
        result["labels"][: self._learnt[index]] = IGNORE
        return result

    def count_targets(self):
        """How many tokens of each item are predicted, and count in the loss, (N,)."""
        counts = np.maximum(np.diff(self._bounds) - np.maximum(self._learnt, 1), 0)
        for index, given in self._given.items():
            counts[index] = targets_of(given)
        return counts

    def __repr__(self):
        return f"JsonlDataset({len(self)} items of at most {self.block_size} tokens, {len(self._ids)} in all)"


def _rows(source):
    """("file:line" or "row N", row) of files, or of rows in memory."""
    in_memory = hasattr(source, "__getitem__") and len(source) and hasattr(source[0], "keys")
    return rows(source) if in_memory else records(source)


def _given(where, record):
    """An item of ids as they stand, with the labels and the mask that they have."""
    wanted = {name: record[name] for name in ("input_ids", "labels", "attention_mask") if name in record}
    try:
        return {name: array[0] for name, array in collate([wanted]).items()}
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
