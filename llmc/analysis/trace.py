"""trace: which activations and predictions of a text the changed weights of a model move, and where."""

import os

import numpy as np

from llmc.analysis.feeding import batches
from llmc.analysis.modules import modules
from llmc.analysis.movement import Movement
from llmc.analysis.predictions import compare_predictions
from llmc.analysis.stream import Stream
from llmc.analysis.traced import Trace
from llmc.analysis.two_models import TwoModels
from llmc.analysis.words import Words
from llmc.calls import public
from llmc.checks import whole
from llmc.inputs import IGNORE
from llmc.model import Model
from llmc.show.bar import Passes


@public
def trace(base, tuned, ids, attention_mask=None, labels=None, *, tokenizer=None, top=20, disable_tqdm=None):
    """What the changed weights of a model move on a text.

    Parameters
    ----------
    base : Model or folder
        A pair (either of these, an adapter's folder) may stand for it.
    tuned : as `base`, or the folder of an adapter of it
    ids : (B, T) or (T,) integers, or an iterable of such arrays
        A mapping with `input_ids` (and its own `attention_mask` and `labels`) may stand for an array, so a dataset or
        what a tokenizer returns will do. Of a SceneDataset there are `fields` too.
    attention_mask : as `ids`, optional
        Padding counts nowhere.
    labels : as `ids`, optional
        Of the losses; by default the ids without padding.
    tokenizer : Tokenizer, optional
        By default that of the tuned folder or the base's, where there is one.
    top : int
        How many tokens `gained`, `lost` and what each layer says list.
    disable_tqdm : bool or None
        None: a bar in a terminal and in a notebook.

    Returns
    -------
    Trace

    Raises
    ------
    ConfigError
        When the two have not the same modules; when `base` is an adapter's folder.
    DataError, ShapeError
        For an empty text, ids that one of them has not, nothing but padding, arrays that do not belong together.
    TypeError
        For what is neither a model nor a folder, or no ids.

    Notes
    -----
    One model is in memory at a time, and what the base gave. Where `base` is a Model and `tuned` an adapter's folder,
    the adapter stands beside it while the trace runs and is taken off again: runs and optimizers of that model that
    were made before have to be made anew. Routers of LIMe have no `own_change`.
    """
    top, models = whole(top, "top", 1), TwoModels(base, tuned)
    given = list(batches(ids, attention_mask, labels, models.vocab_size))
    found = _Found(models, Words(tokenizer, models.folders), top)
    with Passes("trace", 2 * len(given), disable_tqdm if len(given) > 1 else True) as progress:
        for each in models.passes(given, progress.step):
            found.observe(*each)
    scenes = ids if hasattr(ids, "spans") and hasattr(ids, "scenes") else None
    return found.trace(f"{_name(base)} → {_name(tuned)}", scenes)


class _Found:
    """What was found so far, batch by batch."""

    def __init__(self, models, words, top):
        self._words, self._top = words, top
        self._modules = modules(models.parts, models.parts)
        self._movement = Movement(self._modules)
        self._stream = Stream(self._modules, models.config.hidden_size)
        self._tokens, self._rows, self._risen = [], 0, 0.0

    def observe(self, batch, gave, given, before, after):
        """Take in a batch."""
        self._movement.observe(batch, gave, given, before, after)
        self._stream.observe(batch, gave, given, after)
        real = batch.real
        following = np.full(batch.ids.shape, -1)
        following[:, :-1] = np.where(batch.labels[:, 1:] == IGNORE, -1, batch.labels[:, 1:])
        seen = compare_predictions(batch.rows(gave.logits), batch.rows(given.logits), following[real])
        self._risen = self._risen + seen.risen
        columns = (*np.nonzero(real), batch.ids[real], following[real], seen.kl, seen.before_top, seen.after_top,
                   seen.before_logprob, seen.after_logprob)  # fmt: skip
        self._tokens += [self._token(*values) for values in zip(*(column.tolist() for column in columns))]
        self._rows += len(batch.ids)

    def _token(self, row, position, number, following, kl, base_top, tuned_top, base_logprob, tuned_logprob):
        text = self._words.text
        return {
            "batch": self._rows + row, "position": position, "id": number, "text": text(number), "kl": _number(kl),
            "base_top": base_top, "tuned_top": tuned_top, "base_top_text": text(base_top),
            "tuned_top_text": text(tuned_top), "next": following if following >= 0 else None,
            "base_logprob": _number(base_logprob), "tuned_logprob": _number(tuned_logprob),
        }  # fmt: skip

    def trace(self, title, scenes):
        """The Trace it has come to."""
        risen = self._risen / len(self._tokens)
        stream = self._stream.tokens
        return Trace(
            title=title, modules=self._movement.rows, layers=self._stream.rows(self._top, self._words, len(risen)),
            tokens=self._tokens, stream=stream[0] if len(stream) == 1 else stream, summary=_summary(self._tokens),
            gained=self._moved(risen, 1), lost=self._moved(risen, -1),
            fields=None if scenes is None else _fields(scenes, self._tokens, stream),
        )  # fmt: skip

    def _moved(self, risen, sign):
        """The tokens that rose most, or with -1 those that fell most; none where nothing did."""
        rows = self._words.largest(sign * risen, self._top, "change")
        return [row | {"change": sign * row["change"]} for row in rows if row["change"] > 0]


def _summary(tokens):
    told = [token for token in tokens if token["kl"] is not None]
    losses = {f"{side}_loss": _mean([-token[f"{side}_logprob"] for token in tokens
                                     if token["next"] is not None and token[f"{side}_logprob"] is not None])
              for side in ("base", "tuned")}  # fmt: skip
    return {
        "tokens": len(tokens), "kl_mean": _mean([token["kl"] for token in told]),
        "kl_max": max((token["kl"] for token in told), default=None),
        "agreement": _mean([float(token["base_top"] == token["tuned_top"]) for token in tokens]), **losses,
    }  # fmt: skip


def _fields(scenes, tokens, stream):
    """A dict for every field of the scenes, in the order in which they first come."""
    seen, of_scene = {}, {}
    for token in tokens:
        of_scene.setdefault(token["batch"], []).append(token)
    for index in range(len(scenes)):
        for span in scenes.spans(index):
            for token in of_scene[index]:
                if span["start"] <= token["position"] < span["stop"]:
                    change = stream[index][:, 0, token["position"]]
                    seen.setdefault(span["field"], []).append((token["kl"], change))
    return [{"field": field, "tokens": len(found), "kl": _mean([kl for kl, _ in found if kl is not None]),
             "change": [_number(value) for value in np.mean([change for _, change in found], axis=0, dtype=float)]}
            for field, found in seen.items()]  # fmt: skip


def _mean(values):
    return float(np.mean(values)) if values else None


def _number(value):
    return float(value) if np.isfinite(value) else None


def _name(side):
    if isinstance(side, tuple):
        return " + ".join(map(_name, side))
    return side.config.model_type if isinstance(side, Model) else os.path.basename(os.path.normpath(side)) or "."
