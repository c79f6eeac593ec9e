"""Scene: what a model is shown of a scene, the response that unfolds it, and what may stand in either."""

import math
import numbers
from dataclasses import dataclass, field

from llmc.checks import wrong
from llmc.data.strict_yaml import DEEPEST
from llmc.errors import LIMIT, ConfigError, DataError, hint, nearest, shown

FIELDS = ("system", "intent_vector", "scene_architecture", "arch_tension", "prompt")
REQUIRED = ("intent_vector", "scene_architecture", "arch_tension", "response")
BESIDE = ("id", "response", "meta", "tags")  # keys of a scene that are no fields
TAKEN = (*BESIDE, "template", "defaults", "scenes")  # names that a field cannot have
_TEXTS = ("id", "system", "prompt", "response")


@dataclass(frozen=True)
class Scene:
    """A scene; two are equal when they say the same, wherever they stand.

    Parameters
    ----------
    id : str
    fields : dict
        {name: value} in the order in which they are rendered: texts, numbers, lists and mappings, nested as one likes.
    response : str, or list of str
        Lines are joined.
    meta : dict, optional
        Never shown to the model.
    tags : list of str, optional
        Likewise.
    file, line : str and int, optional
        Where it was read.
    lines : dict, optional
        {name: line} of what was read.
    unrendered : dict, optional
        Fields that a file may have and that were not asked for: written, compared, never rendered.

    Raises
    ------
    DataError
        For what no scene file may hold.
    """

    id: str
    fields: dict
    response: str
    meta: dict = field(default_factory=dict)
    tags: list = field(default_factory=list)
    file: str | None = field(default=None, compare=False)
    line: int | None = field(default=None, compare=False)
    lines: dict = field(default_factory=dict, compare=False, repr=False)
    unrendered: dict = field(default_factory=dict, repr=False)

    def __post_init__(self):
        for name in ("fields", "meta", "unrendered"):
            if not isinstance(getattr(self, name), dict):
                raise TypeError(wrong(name, getattr(self, name), "a dict"))
        given = {"id": self.id, **self.fields, **self.unrendered, "response": self.response, "meta": self.meta,
                 "tags": self.tags}
        for path, what in faults(given, list(given), ()):
            raise DataError(f"{self.where}: {dotted(path)}: {what}")
        for name in (*self.fields, *self.unrendered):
            if name in TAKEN or not isinstance(name, str):
                raise DataError(f"{self.where}: {name!r} cannot be the name of a field")
        lines = self.response if isinstance(self.response, str) else "\n".join(self.response)
        order = sorted(self.fields, key=lambda name: name != "system")  # it is rendered first
        fresh = {"fields": _fresh({name: self.fields[name] for name in order}), "response": lines,
                 "meta": _fresh(self.meta), "tags": list(self.tags), "unrendered": _fresh(self.unrendered)}
        for name, value in fresh.items():
            object.__setattr__(self, name, value)

    @property
    def where(self):
        """Where it stands, "file:line", or which it is."""
        return f"scene {shown(self.id)}" if self.file is None else f"{self.file}:{self.line}"

    def to_dict(self):
        """What a file says of it: id, fields, response, and meta and tags where there are any."""
        found = {"id": self.id, **_fresh(self.fields), **_fresh(self.unrendered), "response": self.response}
        return found | ({"meta": _fresh(self.meta)} if self.meta else {}) | ({"tags": list(self.tags)} if self.tags
                                                                             else {})  # fmt: skip

    def selected(self, names):
        """The same scene with these of its fields rendered, in this order."""
        there = {**self.fields, **self.unrendered}
        fields = {name: there.pop(name) for name in names if name in there}
        return Scene(self.id, fields, self.response, self.meta, self.tags, self.file, self.line, self.lines, there)


def chosen(fields):
    """The names that are rendered, in their order.

    Parameters
    ----------
    fields : iterable of str, or None
        None: the usual ones.

    Raises
    ------
    ConfigError
        For a name twice, or one that no field can have.
    """
    if fields is None:
        return FIELDS
    names = _names(fields, "fields")
    for name in names:
        if name in TAKEN or names.count(name) > 1:
            what = "there twice" if name not in TAKEN else "a word of scene files, and no field can have its name"
            raise ConfigError(f"fields: {name!r} is {what}")
    return tuple(sorted(names, key=lambda name: name != "system"))


def needed(required, fields):
    """The names that every scene must have, the response among them.

    Raises
    ------
    ConfigError
        For one that no scene can have.
    """
    names, known = _names(required, "required"), admitted(fields)
    for name in names:
        if name not in known:
            near = nearest(name, known)
            raise ConfigError(f"required: {name!r} is no field{near and f'; {near}'} (fields= admits others)")
    return tuple(dict.fromkeys((*names, "response")))


def admitted(fields):
    """The keys that a scene may have where these fields are rendered."""
    return tuple(dict.fromkeys((*fields, *FIELDS, *BESIDE)))


def faults(values, known, required):
    """What is wrong with the values of a scene.

    Parameters
    ----------
    values : dict
    known, required : sequence of str
        The keys that it may have, and those that it must.

    Yields
    ------
    (tuple, str)
        Where, as keys and numbers, and what.
    """
    from difflib import get_close_matches

    misspelt = set()
    for key in values:
        if key not in known:
            misspelt.update(get_close_matches(str(key)[:LIMIT], known, n=1))
            yield (key,), "no such key" + (hint(str(key), known) or f"; there are {', '.join(known)}")
    for name in required:
        if name not in values and name not in misspelt:
            yield (name,), "missing"
    for key, value in values.items():
        if key in known:
            yield from _faults_of(key, value)


def _faults_of(key, value):
    """The faults of one value of a scene."""
    if key == "response" and isinstance(value, (list, tuple)):
        for index, line in enumerate(value):
            yield from _text((key, index), line, may_be_empty=True)
        if all(isinstance(line, str) and not line.strip("\r\n") for line in value):
            yield (key,), "empty"
    elif key in _TEXTS:
        yield from _text((key,), value)
    elif key == "tags":
        if not isinstance(value, (list, tuple)):
            yield (key,), f"{_kind(value)}, not a list of texts"
        else:
            for index, tag in enumerate(value):
                yield from _text((key, index), tag)
    elif key == "meta":
        if not isinstance(value, dict):
            yield (key,), f"{_kind(value)}, not a mapping"
        yield from _nested((key,), value, 1)
    elif value is None:
        yield (key,), "null; say something, or leave the key out"
    elif isinstance(value, (list, tuple, dict)) and not value or isinstance(value, str) and not value.strip("\r\n"):
        yield (key,), "empty"
    else:
        yield from _nested((key,), value, 1)


def _text(path, value, may_be_empty=False):
    if not isinstance(value, str):
        scalar = value is None or isinstance(value, (bool, numbers.Number))
        yield path, f"{_kind(value)} to YAML, not text; quote it" if scalar else f"{_kind(value)}, not text"
    elif not value.strip("\r\n") and not may_be_empty:
        yield path, "empty"
    else:
        yield from _encodable(path, value)


def _nested(path, value, level):
    """The faults inside a value: numbers that are not finite, and what is neither text, number, list nor mapping."""
    if level > DEEPEST:
        yield path[:3], f"more than {DEEPEST} levels, one inside the other"
    elif isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, (str, bool, numbers.Real)):
                yield path, f"a key is {_kind(key)}; keys are text, numbers, true or false"
            else:
                yield from _scalar(path, key)
                yield from _nested((*path, key), inner, level + 1)
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from _nested((*path, index), inner, level + 1)
    else:
        yield from _scalar(path, value)


def _scalar(path, value):
    if isinstance(value, str):
        yield from _encodable(path, value)
    elif isinstance(value, numbers.Real) or value is None:
        if value is not None and not isinstance(value, numbers.Integral) and not math.isfinite(value):
            yield path, f"{float(value)} is not finite"
    else:
        yield path, f"{_kind(value)}; a value is text, a number, true, false, a list or a mapping"


def _encodable(path, text):
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        yield path, f"character {error.start} is {text[error.start]!r}, half of a surrogate pair"


def _kind(value):
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, (list, tuple, dict)):
        return "a mapping" if isinstance(value, dict) else "a list"
    return f"the number {shown(value)}" if isinstance(value, numbers.Number) else f"{type(value).__name__}"


def dotted(path):
    """A path as it is written: scene_architecture.actors[1]."""
    text = "".join(f"[{key}]" if isinstance(key, int) and not isinstance(key, bool) else f".{_word(key)}"
                   for key in path)  # fmt: skip
    return text.removeprefix(".")


def _word(key):
    word = str(key) if str(key).isprintable() else repr(key)
    return word if len(word) <= LIMIT else word[:LIMIT] + "…"


def _fresh(value):
    """A copy in plain Python, of which no two parts are one object."""
    if isinstance(value, dict):
        return {_fresh(key): _fresh(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_fresh(inner) for inner in value]
    return value.item() if hasattr(value, "item") else value


def _names(names, what):
    if isinstance(names, str) or not hasattr(names, "__iter__"):
        raise TypeError(wrong(what, names, "a list of names"))
    names = list(names)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(wrong(what, name, "a name"))
        if not name:
            raise ConfigError(f"{what}: a name is empty")
    return names
