"""A dataset of JSON lines: texts, or prompts whose responses alone are learnt."""

import os

import numpy as np

from llmc.calls import public
from llmc.data.items import check_block_size, item, resolve_index
from llmc.data.json_lines import records
from llmc.data.responses import Responses
from llmc.errors import DataError
from llmc.inputs import IGNORE


@public
class JsonlDataset:
    """JSON lines, each an object with `text`, or with `prompt` and `response`.

    A text is learnt whole; one longer than `block_size` is several items. Of a prompt and its response the response
    alone is learnt: the prompt's labels are -100. The two stand one behind the other with nothing between. They are
    tokenized apart, as they are when the model is asked, where that reads as the line does; a tokenizer that begins
    every text with a space (SentencePiece) gets them as one text, and a token that holds the end of the prompt and the
    beginning of the response is not learnt. Both kinds may stand in one file; other keys do not matter, nor do
    empty lines. Only the ids are kept in memory.

    Parameters
    ----------
    paths : path, or list of them
        UTF-8 files.
    tokenizer : Tokenizer
        Its special tokens are put around each line, and its `eos_token` at the end, if it has one, unless the line
        begins or ends with them itself.
    block_size : int
        The most tokens of an item, at least 2.

    Raises
    ------
    DataError
        For a line that is no such object, has no tokens, or whose prompt and response do not fit into `block_size`;
        the message has file and line.
    """

    def __init__(self, paths, tokenizer, block_size):
        self.block_size, responses = check_block_size(block_size), Responses(tokenizer)
        parts, bounds, learnt, total = [], [0], [], 0
        paths = [paths] if isinstance(paths, (str, bytes, os.PathLike)) else list(paths)
        for where, record in records(paths):
            row = self._row(responses, where, record)
            ends = [*range(total + self.block_size, total + len(row.ids), self.block_size), total + len(row.ids)]
            parts.append(row.ids)
            bounds += ends
            learnt += [row.told] + [0] * (len(ends) - 1)
            total += len(row.ids)
        if not parts:
            raise DataError(f"{', '.join(map(str, paths))}: there is no line in it; a dataset needs at least one")
        self._ids, self._bounds, self._learnt = np.concatenate(parts), np.array(bounds), np.array(learnt)

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

    def __len__(self):
        return len(self._bounds) - 1

    def __getitem__(self, index):
        index = resolve_index(index, len(self))
        result = item(self._ids[self._bounds[index] : self._bounds[index + 1]])
        result["labels"][: self._learnt[index]] = IGNORE
        return result

    def count_targets(self):
        """How many tokens of each item are predicted, and count in the loss, (N,)."""
        return np.maximum(np.diff(self._bounds) - np.maximum(self._learnt, 1), 0)

    def __repr__(self):
        return f"JsonlDataset({len(self)} items of at most {self.block_size} tokens, {len(self._ids)} in all)"
