"""The datasets of llmc train: texts, rows, scenes or blocks of tokens, and a share of them held out."""

import os

from llmc.cli.sources import are_row_files, are_rows, are_scenes, ends_in_bin, require_files, rows_of
from llmc.show.table import count

HELD_OUT = 0.05
ROOM = 4  # bytes of memory, at least, for a byte of text: the text itself and its ids


class Part:
    """The items of `dataset` from `start` to `stop`."""

    def __init__(self, dataset, start, stop):
        self.dataset, self.start, self.stop = dataset, start, stop
        self.dropped_tokens = getattr(dataset, "dropped_tokens", 0)

    def __len__(self):
        return self.stop - self.start

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        return self.dataset[self.start + index]

    def count_targets(self):
        """How many tokens of each item are predicted, and count in the loss, (N,)."""
        return self.dataset.count_targets()[self.start : self.stop]


def read_texts(paths):
    """The texts of UTF-8 files; of rows and scenes those of every one, responses behind their prompts.

    Raises
    ------
    DataError
        For a file that is empty or not UTF-8, or a line that is no object with a text.
    MemoryError
        For texts that the free memory has no room for.
    """
    from llmc.data.row_files import records
    from llmc.data.rows import text_of
    from llmc.data.scene_files import located, read_scenes
    from llmc.data.scene_rendering import PLAIN, rendered
    from llmc.data.text_files import read_chunks
    from llmc.errors import DataError
    from llmc.system.free_memory import free_memory

    files = located(paths) if are_scenes(paths) else paths
    size, free = sum(map(os.path.getsize, files)), free_memory()
    if free is not None and ROOM * size > free:
        raise MemoryError(f"{', '.join(paths)}: {count(size, 'B')} of text are tokenized in memory, and "
                          f"{count(free, 'B')} are free; llmc tokenize makes a file of ids that may exceed memory")
    if are_scenes(paths):
        return [rendered(scene, PLAIN).text for scene in read_scenes(files)]
    if are_row_files(paths):
        require_files(paths, "rows are read")
        return [text_of(record) for _, record in records(paths)]
    texts = []
    for path in paths:
        texts.append("".join(read_chunks(path)))
        if not texts[-1].strip():
            raise DataError(f"{path}: there is no text in it ({len(texts[-1])} characters)")
    return texts


def datasets(settings, texts, tokenizer, vocab_size):
    """(to train on, to evaluate with or None).

    Parameters
    ----------
    settings : dict
        `data`, `eval_data`, `held_out`, `block_size`.
    texts : list of str or None
        Those of `data`; None when it is a file of tokens, rows or scenes.
    tokenizer : Tokenizer or None
    vocab_size : int
        The model's.

    Raises
    ------
    ConfigError
        When the tokenizer has ids that the model lacks.
    """
    from llmc.data.items import learnt_limit
    from llmc.errors import ConfigError

    if tokenizer is not None and learnt_limit(tokenizer) > vocab_size:
        raise ConfigError(f"the tokenizer's ids reach {learnt_limit(tokenizer) - 1}, the model's vocab_size is "
                          f"{vocab_size}; give the tokenizer it was made with, or a new model")
    size = settings["block_size"]
    data = _blocks(settings["data"], texts, tokenizer, size, vocab_size)
    if settings["eval_data"]:
        files = settings["eval_data"]
        texts = None if ends_in_bin(files) or are_rows(files) else read_texts(files)
        if tokenizer is None and not ends_in_bin(files):
            raise ConfigError(f"{files[0]} is text, and there is no tokenizer for it; name one with --tokenizer DIR")
        return data, _blocks(files, texts, tokenizer, size, vocab_size)
    return split(data, settings["held_out"])


def split(data, share):
    """(all but a share of a dataset, that share or None): the last items, of scenes those that their ids choose.

    At least one item is on each side.
    """
    from llmc.data import SceneDataset
    from llmc.inputs import IGNORE

    share = HELD_OUT if share is None else share
    if isinstance(data, SceneDataset) and share and len(data) > 1:
        return data.split(share)
    held = min(max(1, round(share * len(data))), len(data) - 1) if share else 0
    if not held:
        return data, None
    cut = len(data) - held
    while cut > 1 and not any((data[index]["labels"][1:] != IGNORE).any() for index in range(cut, len(data))):
        cut -= 1  # the last item may be the end of a text alone, with nothing to predict
    return Part(data, 0, cut), Part(data, cut, len(data))


def _blocks(files, texts, tokenizer, size, vocab_size):
    from llmc.data import TextDataset, TokenBlockDataset

    if are_rows(files):
        return rows_of(files, tokenizer, size)
    if texts is None:
        return TokenBlockDataset(files[0], size, vocab_size=vocab_size)
    return TextDataset(texts, tokenizer, size, append_eos=tokenizer.eos_token_id is not None)
