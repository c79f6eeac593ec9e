"""What a field of a scene is worth to its response: the loss of the response without the field, minus the loss."""

import os
from dataclasses import dataclass

import numpy as np

from llmc.analysis.scene_report import SceneReport
from llmc.analysis.titles import title_of
from llmc.calls import public
from llmc.checks import whole
from llmc.data.collate import collate
from llmc.data.scene_dataset import SceneDataset
from llmc.errors import ConfigError, DataError, NonFiniteError, UnknownNameError, nearest
from llmc.inputs import IGNORE
from llmc.lora.adapter_files import base_of, holds_adapter
from llmc.model import Model
from llmc.show.bar import Passes


@dataclass(frozen=True)
class _Reading:
    """A scene as a model reads it once: with all of its fields, or without one of them (None: with all)."""

    scene: int
    without: str | None
    ids: np.ndarray
    told: int  # where the response begins


@public
def scene_attribution(model, data, *, base=None, fields=None, batch_size=8, disable_tqdm=None):
    """Which field of the scenes their responses come from.

    A scene is rendered again without a field, its whole section; the response's ids stay, and the losses on them are
    compared.

    Parameters
    ----------
    model : Model, path or str
        Or a folder, which is opened; with `base` also the folder of an adapter of it.
    data : SceneDataset
    base : Model, path or str, optional
        What the model was before it was trained: then `learnt`, the effect there is now beyond the effect there was, is
        what the training wrote of a field.
    fields : sequence of str, optional
        By default all that the dataset renders.
    batch_size : int
        Readings at once.
    disable_tqdm : bool or None
        None: a bar in a terminal and in a notebook.

    Returns
    -------
    SceneReport

    Raises
    ------
    UnknownNameError
        For a field that the dataset does not render.
    DataError
        For scenes without any of the fields, or ids that a model lacks.
    ConfigError
        For an adapter's folder beside a `base` that has adapters already.
    NonFiniteError
        When a loss is not finite.
    TypeError
        For what is no model, or no SceneDataset.

    Notes
    -----
    Where models are folders, one is in memory at a time. A Model that is `base` of an adapter's folder carries the
    adapter meanwhile, so runs and optimizers of it are made anew.
    """
    if not isinstance(data, SceneDataset):
        raise TypeError(f"data is {type(data).__name__}, not a llmc.data.SceneDataset")
    for name, given in (("model", model), ("base", base)):
        if not isinstance(given, (Model, str, os.PathLike)) and (name == "model" or given is not None):
            raise TypeError(f"{name} is {type(given).__name__}, not a llmc.Model or the folder of one")
    fields, size = _fields(data, fields), whole(batch_size, "batch_size", 1)
    readings = _readings(data, fields)
    sides, losses, title = 1 if base is None else 2, {}, ""
    with Passes("scenes", sides * -(-len(readings) // size), disable_tqdm) as progress:
        for side, opened in _each(model, base):
            losses[side] = _losses(opened, readings, size, data, progress)
            title = title_of(opened, None if isinstance(model, Model) else os.fspath(model))
            del opened  # before the next is opened
    return SceneReport(title, data, fields, *_tables(data, readings, losses))


def _fields(data, fields):
    """The fields that are left out in turn."""
    there = [name for name in data.fields if any(name in scene.fields for scene in data.scenes)]
    if isinstance(fields, str):
        raise TypeError(f"fields is {fields!r}, not a list of names")
    for name in fields or ():
        if name not in there:
            near = nearest(str(name), there) or f"there are {', '.join(there)}"
            raise UnknownNameError(f"fields: no scene renders {name!r}; {near}")
    fields = there if fields is None else [name for name in there if name in fields]
    if not fields:
        raise DataError("the scenes have no field that could be left out")
    return fields


def _readings(data, fields):
    """All that is to be read, the longest first: one run has room for the rest, and equal lengths stand together."""
    found = []
    for index, scene in enumerate(data.scenes):
        found.append(_Reading(index, None, data[index]["input_ids"], data.response_start(index)))
        found += [_Reading(index, name, *data.without(index, name)) for name in fields if name in scene.fields]
    return sorted(found, key=lambda reading: -len(reading.ids))


def _each(model, base):
    """Yield ("base", Model), where there is one, and ("model", Model), each opened when the one before is done with."""
    if base is None:
        yield "model", _opened(model)
        return
    if isinstance(model, Model) or not _is_adapter(model) or not isinstance(base, Model) and holds_adapter(base):
        yield "base", _opened(base)
        yield "model", _opened(model)
        return
    opened = _opened(base)
    if opened.adapters:
        raise ConfigError(f"base has adapters, and {os.fspath(model)} is another; load it beside them into a Model of "
                          f"its own, and pass that as model")
    yield "base", opened
    opened.load_adapter(model)
    try:
        yield "model", opened
    finally:
        if opened is base:
            opened.delete_adapter("default")


def _is_adapter(folder):
    """Whether a folder holds an adapter and no base."""
    try:
        return base_of(folder) is not None
    except ConfigError:  # it does not say of which base it is, and need not: the base is at hand
        return True


def _opened(model):
    return model if isinstance(model, Model) else Model.from_pretrained(model)


def _losses(model, readings, size, data, progress):
    """{(scene, field or None): the loss of each token of the response that something is read before, float64}."""
    found, run = {}, None
    for start in range(0, len(readings), size):
        part = readings[start : start + size]
        batch = collate([_item(reading) for reading in part], vocab_size=model.config.vocab_size)
        if run is None:
            run = model.run(*batch["input_ids"].shape)
        run.forward(batch["input_ids"], labels=batch["labels"], attention_mask=batch["attention_mask"])
        losses = run._core.losses
        for row, reading in enumerate(part):
            own = losses[row, max(reading.told, 1) - 1 : len(reading.ids) - 1].astype(np.float64)
            if not np.isfinite(own).all():
                raise NonFiniteError(f"scene {data.scenes[reading.scene].id!r}: a loss of {model.config.model_type} is "
                                     f"not finite; are its weights?")
            found[reading.scene, reading.without] = own
        progress.step()
    return found


def _item(reading):
    labels = np.array(reading.ids, np.int64)
    labels[: reading.told] = IGNORE
    return {"input_ids": reading.ids, "labels": labels}


def _tables(data, readings, losses):
    """(rows, tokens): of every scene and field, and of every learnt token."""
    rows, tokens, of_scene = [], [], {}
    for reading in readings:
        of_scene.setdefault(reading.scene, {})[reading.without] = reading
    for index, scene in enumerate(data.scenes):
        own = of_scene[index]
        learnt = min(len(losses["model"][index, name]) for name in own)  # the first token may have nothing before it
        parts = {(side, name): found[index, name][-learnt:] for side, found in losses.items() for name in own}
        names = [name for name in data.fields if name in own]
        rows += [_row(scene.id, name, learnt, parts) for name in names]
        full, ids = own[None], own[None].ids[-learnt:].tolist()
        for place, number in enumerate(ids):
            tokens.append({
                "scene": scene.id, "position": len(full.ids) - full.told - learnt + place, "id": number,
                "text": data.tokenizer.decode([number]), "loss": float(parts["model", None][place]),
                "effects": {name: float(parts["model", name][place] - parts["model", None][place]) for name in names},
            })  # fmt: skip
    return rows, tokens


def _row(scene, field, tokens, parts):
    """A row of one scene and field."""
    row = {"scene": scene, "field": field, "tokens": tokens}
    for side, prefix in (("model", ""), ("base", "base_")):
        there = (side, None) in parts
        loss = float(parts[side, None].mean()) if there else None
        without = float(parts[side, field].mean()) if there else None
        row |= {f"{prefix}loss": loss, f"{prefix}loss_without": without,
                f"{prefix}effect": without - loss if there else None}  # fmt: skip
    return row | {"learnt": row["effect"] - row["base_effect"] if ("base", None) in parts else None}
