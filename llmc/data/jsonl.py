"""A dataset of JSON lines: texts, or prompts whose responses alone are learnt."""

import json
import os

import numpy as np

from llmc.calls import public
from llmc.data.items import check_block_size, item, resolve_index
from llmc.data.pieces import encode_document, special_frame
from llmc.errors import DataError

IGNORE = -100


@public
class JsonlDataset:
    """JSON lines, each an object with `text`, or with `prompt` and `response`.

    A text is learnt whole; one longer than `block_size` is several items. Of a prompt and its response the response
    alone is learnt: the prompt's labels are -100. The two are tokenized apart, as they are when the model is asked, and
    stand one behind the other with nothing between. Both kinds may stand in one file; other keys do not matter, nor do
    empty lines. Only the ids are kept in memory.

    Parameters
    ----------
    paths : path, or list of them
        UTF-8 files.
    tokenizer : Tokenizer
        Its special tokens are put around each line, and its `eos_token` at the end, if it has one.
    block_size : int
        The most tokens of an item, at least 2.

    Raises
    ------
    DataError
        For a line that is no such object, has no tokens, or whose prompt and response do not fit into `block_size`;
        the message has file and line.
    """

    def __init__(self, paths, tokenizer, block_size):
        self.block_size, self._tokenizer = check_block_size(block_size), tokenizer
        self._before, after = special_frame(tokenizer)
        ended = tokenizer.eos_token_id is None or tokenizer.eos_token_id in after
        self._after = after if ended else [*after, tokenizer.eos_token_id]
        parts, bounds, learnt, total = [], [0], [], 0
        paths = [paths] if isinstance(paths, (str, bytes, os.PathLike)) else list(paths)
        for where, record in records(paths):
            ids, first = self._ids_of(where, record)
            ends = [*range(total + self.block_size, total + len(ids), self.block_size), total + len(ids)]
            parts.append(ids)
            bounds += ends
            learnt += [first] + [0] * (len(ends) - 1)
            total += len(ids)
        if not parts:
            raise DataError(f"{', '.join(map(str, paths))}: there is no line in it; a dataset needs at least one")
        self._ids, self._bounds, self._learnt = np.concatenate(parts), np.array(bounds), np.array(learnt)

    def _ids_of(self, where, record):
        """(ids, how many of them are not learnt) of one line."""
        prompt, text = record.get("prompt", ""), record["response" if "prompt" in record else "text"]
        told, learnt = self._encode(prompt), self._encode(text)
        if not len(learnt):
            raise DataError(f"{where}: {text[:40]!r} has no tokens; leave the line out")
        ids = np.concatenate([self._before, told, learnt, self._after]).astype(np.int32)
        if "prompt" in record and len(ids) > self.block_size:
            raise DataError(f"{where}: prompt and response have {len(ids)} tokens, more than block_size "
                            f"{self.block_size}; raise it, or shorten them")
        return ids, len(self._before) + len(told) if "prompt" in record else 0

    def _encode(self, text):
        return np.concatenate([np.zeros(0, np.int64), *(encode_document(self._tokenizer, [text]) if text else ())])

    def __len__(self):
        return len(self._bounds) - 1

    def __getitem__(self, index):
        index = resolve_index(index, len(self))
        result = item(self._ids[self._bounds[index] : self._bounds[index + 1]])
        result["labels"][: self._learnt[index]] = IGNORE
        return result

    def __repr__(self):
        return f"JsonlDataset({len(self)} items of at most {self.block_size} tokens, {len(self._ids)} in all)"


def records(paths):
    """The objects of JSON-lines files.

    Yields
    ------
    (str, dict)
        "file:line", and what stands there.

    Raises
    ------
    DataError
        For a line that is not UTF-8, not JSON, or no object with `text`, or `prompt` and `response`, as strings.
    """
    for path in paths:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                where = f"{path}:{number}"
                if line.strip():
                    yield where, _record(where, line)


def _record(where, line):
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: byte {error.start} of the line is not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON: {error}; each line is one object") from None
    wanted = ("prompt", "response") if isinstance(record, dict) and "prompt" in record else ("text",)
    if not isinstance(record, dict) or any(name not in record for name in wanted):
        found = f"an object with {', '.join(map(repr, record)) or 'nothing'}" if isinstance(record, dict) \
            else type(record).__name__
        raise DataError(f"{where}: it holds {found}; a line is {{\"text\": …}} or {{\"prompt\": …, \"response\": …}}")
    for name in wanted:
        if not isinstance(record[name], str):
            raise DataError(f"{where}: {name} is {type(record[name]).__name__}, not a string")
    return record
