"""A dataset of scenes: each an item whose response alone is learnt, and every token of it known by its field."""

import json
import os

import numpy as np

from llmc.calls import public
from llmc.checks import one_of
from llmc.data.items import check_block_size, item, resolve_index
from llmc.data.responses import Responses
from llmc.data.scene import REQUIRED, Scene, chosen
from llmc.data.scene_files import checked_scenes, read_scenes
from llmc.data.scene_rendering import RESPONSE, TEMPLATE, rendered, templated
from llmc.data.scene_split import held_out
from llmc.data.scene_statistics import statistics_of, table_of
from llmc.errors import ConfigError, DataError
from llmc.inputs import IGNORE
from llmc.system.atomic import atomic_write


@public
class SceneDataset:
    """Scenes, each an item: the fields as its prompt, and the response, which alone is learnt.

    Prompt and response are tokenized as `JsonlDataset` does; `to_jsonl` writes lines of which it makes the same items.

    Parameters
    ----------
    scenes : path, or list of them, or list of Scene
        Paths as for `read_scenes`.
    tokenizer : Tokenizer
        Its special tokens are put around each text, and its `eos_token` at the end, if it has one.
    block_size : int, optional
        The most tokens of an item; None: no limit.
    template : "plain", "chatml" or dict of str
        `system, before, field, response, end`, in which `{field}` and `{value}` stand for name and value; those that a
        dict lacks are plain's.
    fields, required
        As for `read_scenes`.
    learn : "response" or "all"
        "all": every label counts.
    too_long : "error" or "skip"
        What becomes of a scene that is longer than `block_size`.

    Attributes
    ----------
    scenes : list of Scene
        Those of the items.
    fields : tuple of str
        The names that are rendered where a scene has them, in their order.
    skipped : int
        Scenes left out because they are too long.

    Raises
    ------
    DataError
        For a fault in the files, a scene that is too long, no scene.
    ConfigError
        For a template, fields or words there are not.
    FileNotFoundError, ImportError
        As by `read_scenes`.

    Examples
    --------
    >>> data = SceneDataset("scenes/", tokenizer, block_size=512)
    >>> print(data.render(0).text)
    """

    def __init__(self, scenes, tokenizer, block_size=None, *, template="plain", fields=None, required=REQUIRED,
                 learn="response", too_long="error"):  # fmt: skip
        self.block_size = None if block_size is None else check_block_size(block_size)
        self.tokenizer, self.template = tokenizer, templated(template)
        self.learn = one_of(learn, "learn", ("response", "all"))
        one_of(too_long, "too_long", ("error", "skip"))
        self.fields, self.skipped = chosen(fields), 0
        self._responses = Responses(tokenizer)
        self.scenes, self._renderings, self._rows = [], [], []
        for scene in scenes_of(scenes, fields, required):
            self._take(scene, too_long == "skip")
        if not self.scenes:
            raise DataError(f"all {self.skipped} scenes have more than the {self.block_size} tokens of a block; raise "
                            f"block_size")

    def _take(self, scene, skip):
        rendering = rendered(scene, self.template)
        row = self._responses.row(rendering.prompt, rendering.response)
        if row is None:
            raise DataError(f"{scene.where}: response: {rendering.response[:40]!r} has no tokens of its own behind its "
                            f"prompt")
        if self.block_size is not None and len(row.ids) > self.block_size:
            if not skip:
                raise DataError(f"{scene.where}: the scene has {len(row.ids)} tokens, more than block_size "
                                f"{self.block_size}; raise it, shorten the scene, or leave such out with "
                                f"too_long='skip'")
            self.skipped += 1
            return
        self.scenes.append(scene)
        self._renderings.append(rendering)
        self._rows.append(row)

    def __len__(self):
        return len(self.scenes)

    def __getitem__(self, index):
        row = self._rows[resolve_index(index, len(self))]
        result = item(row.ids)
        result["labels"][: self._unlearnt(row)] = IGNORE
        return result

    def _unlearnt(self, row):
        return row.told if self.learn == "response" else 0

    def count_targets(self):
        """How many tokens of each item are predicted, and count in the loss, (N,)."""
        return np.array([len(row.ids) - max(self._unlearnt(row), 1) for row in self._rows])

    def render(self, index):
        """A scene as text.

        Returns
        -------
        Rendering
            `.text`, `.prompt` (all before the response), `.response` (with the template's end) and `.spans`: `(field,
            role, start, stop)` in characters, which tile the text.
        """
        return self._renderings[resolve_index(index, len(self))]

    def spans(self, index):
        """Which tokens of an item are which field.

        A token of the prompt belongs where its first byte stands; what the tokenizer puts before a text is "template",
        and "response" reaches from the first learnt token to the end.

        Returns
        -------
        list of dict
            `{field, role, start, stop}` in tokens; they tile the item.
        """
        index = resolve_index(index, len(self))
        row, rendering = self._rows[index], self._renderings[index]
        starts = self._responses.starts(row, rendering.prompt, rendering.response)
        edges = [stop for _, _, _, stop in rendering.spans[:-1]]
        owners = [(TEMPLATE, rendering.spans[0][1])] * row.opening
        places = np.minimum(np.searchsorted(edges, starts, side="right"), len(edges) - 1).tolist()
        owners += [rendering.spans[place][:2] for place in places]
        owners += [(RESPONSE, "assistant")] * (len(row.ids) - row.told)
        found = []
        for place, (field, role) in enumerate(owners):
            if not found or (found[-1]["field"], found[-1]["role"]) != (field, role):
                found.append({"field": field, "role": role, "start": place, "stop": place})
            found[-1]["stop"] = place + 1
        return found

    def without(self, index, field):
        """The ids of an item rendered without a field, its whole section; the response's ids stay.

        Returns
        -------
        (array, int)
            (T,) int32, and where the response begins.
        """
        index = resolve_index(index, len(self))
        row = self._rows[index]
        row = self._responses.answered(self._renderings[index].without(field), row.ids[row.told :])
        return row.ids, row.told

    def response_start(self, index):
        """Where the response begins in an item's tokens."""
        return self._rows[resolve_index(index, len(self))].told

    def statistics(self):
        """What the scenes hold.

        Returns
        -------
        dict
            `scenes, files, skipped, tokens, learnt_tokens, tokens_min, tokens_median, tokens_max, duplicates` (scenes
            whose response is an earlier one's), `fields` ({name: {scenes, tokens, share, distinct}}), `intents` ({name:
            {scenes, mean}}) and `tension` ({scenes, min, mean, max} or None).
        """
        lengths = [len(row.ids) for row in self._rows]
        learnt = sum(lengths) - sum(map(self._unlearnt, self._rows))
        spans = [self.spans(index) for index in range(len(self))]
        return statistics_of(self.scenes, self._renderings, spans, lengths, learnt, self.skipped)

    def to_jsonl(self, path):
        """Write lines of `prompt` and `response`, of which `JsonlDataset` makes the same items; the file appears whole.

        Raises
        ------
        ConfigError
            With learn="all", which such lines cannot say.
        """
        if self.learn == "all":
            raise ConfigError("learn='all' learns the prompts too, and a line of prompt and response has the response "
                              "alone learnt; make the dataset with learn='response'")
        write_lines(self._renderings, path)

    def split(self, fraction=0.1, seed=0, group=None):
        """Two datasets: to train on, and held out.

        Of n scenes max(1, round(fraction * n)) are held out, chosen by the seed and their ids alone.

        Parameters
        ----------
        fraction : float
            Above 0 and below 1.
        seed : int
        group : str, optional
            A dotted path into the scenes, such as "meta.author", or "file": scenes of one value stay together.

        Returns
        -------
        (SceneDataset, SceneDataset)

        Raises
        ------
        DataError
            For fewer than two scenes or groups.
        """
        held = held_out(self.scenes, fraction, seed, group)
        rest = sorted(set(range(len(self))) - set(held))
        return self._part(rest), self._part(held)

    def _part(self, numbers):
        part = object.__new__(SceneDataset)
        part.__dict__.update(self.__dict__, skipped=0)
        for name in ("scenes", "_renderings", "_rows"):
            setattr(part, name, [getattr(self, name)[number] for number in numbers])
        return part

    def __str__(self):
        return f"{self!r}\n\n{table_of(self.statistics())}"

    def __repr__(self):
        tokens = sum(len(row.ids) for row in self._rows)
        limit = "" if self.block_size is None else f" of at most {self.block_size} tokens"
        return f"SceneDataset({len(self)} scenes{limit}, {tokens} tokens in all)"


def scenes_of(source, fields=None, required=REQUIRED):
    """The scenes of paths, or scenes that are at hand, checked."""
    listed = [source] if isinstance(source, (str, os.PathLike, Scene)) else list(source)
    if any(isinstance(each, Scene) for each in listed):
        return checked_scenes(listed, fields, required)
    return read_scenes(listed, fields=fields, required=required)


def write_lines(renderings, path):
    """Write JSON lines of prompt and response; the file appears whole."""
    with atomic_write(path, "w") as file:
        for rendering in renderings:
            file.write(json.dumps({"prompt": rendering.prompt, "response": rendering.response}, ensure_ascii=False))
            file.write("\n")
