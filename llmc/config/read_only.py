"""Read-only dicts and lists: what a model's configuration shows, so that an edit is refused, not half obeyed."""

from llmc.errors import ConfigError


def read_only(value, name):
    """`value` with every dict and list in it read-only; `name` is the field that the refusal names."""
    if isinstance(value, dict):
        return _Dict({key: read_only(item, name) for key, item in value.items()}, name)
    if isinstance(value, list):
        return _List([read_only(item, name) for item in value], name)
    return value


def refuse(name):
    """Raise the ConfigError of an edit of field `name`."""
    raise ConfigError(
        f"{name}: a model's configuration is read-only, for the model would go on computing as it was made; make a "
        f"changed one: Model(config.replace({name}=...)), or Model.from_pretrained(folder, {name}=...)"
    )


def _guarded(base, *methods):
    """A subclass of `base` whose `methods` refuse; copies of it are plain."""

    def __init__(self, values, name):
        base.__init__(self, values)
        self._name = name

    def refused(self, *args, **kwargs):
        refuse(self._name)

    def __deepcopy__(self, memo):
        return base(_plain(self))

    def __reduce__(self):
        return base, (base(_plain(self)),)

    members = {"__init__": __init__, "__deepcopy__": __deepcopy__, "__reduce__": __reduce__, "__copy__": _plain}
    return type(base.__name__, (base,), members | dict.fromkeys(methods, refused))


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


_Dict = _guarded(dict, "__setitem__", "__delitem__", "__ior__", "clear", "pop", "popitem", "setdefault", "update")
_List = _guarded(list, "__setitem__", "__delitem__", "__iadd__", "__imul__", "append", "clear", "extend", "insert",
                 "pop", "remove", "reverse", "sort")  # fmt: skip
