"""Which modules a LoraConfig means: peft's rules on the paths of a model's modules."""

import re

from llmc.calls import warn
from llmc.errors import ConfigError, UnknownNameError, nearest, shown
from llmc.lora.presets import PRESETS

_ANY_LAYER = r".*?\.[^.]*\.(?P<index>\d+)\."


def is_excluded(config, path):
    """Do `exclude_modules` or `modules_to_save` take the module out?"""
    exclude = config.exclude_modules
    if isinstance(exclude, str):
        if exclude and re.fullmatch(exclude, path):
            return True
    elif exclude and _named(exclude, path):
        return True
    return any(re.match(rf"(^|.*\.){name}($|\..*)", path) for name in config.modules_to_save or ())


def is_target(config, path):
    """Does the config mean the module at `path`?

    A string in `target_modules` is a regular expression over the whole path. A name in a list matches a path that
    equals it, whatever `layers_to_transform` says, or one that ends with it after a dot, in those layers.

    Parameters
    ----------
    config : LoraConfig
        Its presets translated.
    path : str

    Returns
    -------
    bool
    """
    if is_excluded(config, path):
        return False
    targets = config.target_modules
    if isinstance(targets, str):
        return re.fullmatch(targets, path) is not None
    if path in targets:
        return True
    return _named(targets, path) and _in_layers(config, path)


def _named(names, path):
    return any(path == name or path.endswith(f".{name}") for name in names)


def _in_layers(config, path):
    layers = config.layers_to_transform
    if layers is None or layers == []:
        return True
    index = layer_index(path, config.layers_pattern)
    return index is not None and index in ([layers] if isinstance(layers, int) else layers)


def layer_index(path, layers_pattern=None):
    """The number of the layer that a path lies in, or None.

    Parameters
    ----------
    path : str
    layers_pattern : str or list of str, optional
        The names the number may follow, tried in turn; by default any name that is not the first of the path.
    """
    patterns = [layers_pattern] if isinstance(layers_pattern, str) and layers_pattern else layers_pattern
    tried = [rf"(?:^|.*?\.){pattern}\.(?P<index>\d+)\." for pattern in patterns] if patterns else [_ANY_LAYER]
    match = next(filter(None, (re.match(pattern, path) for pattern in tried)), None)
    return int(match["index"]) if match else None


def pattern_value(patterns, path, default):
    """The value of the first key that is the end of `path`, as a regular expression; or the default."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", path)), default)


def is_saved(config, path):
    """Is the module one of `modules_to_save`? peft compares ends of paths, without a dot."""
    return any(path.endswith(name) for name in config.modules_to_save or ())


def find_targets(config, linears, modules, layers, strict=True):
    """The paths of the linears that a config means.

    Parameters
    ----------
    config : LoraConfig
        Its presets translated.
    linears : iterable of str
        Paths that can carry a branch.
    modules : iterable of str
        Paths of all modules.
    layers : int
        How many the model has.
    strict : bool
        Refuse also when one of several names matches nothing.

    Returns
    -------
    list of str
        In the order of `linears`.

    Raises
    ------
    UnknownNameError
        When nothing matches, or one of the names does not; the message lists the nearest.
    ConfigError
        When a layer is out of range, or a module that matches is no linear.
    """
    modules = list(modules)
    check_layers(config, layers)
    found = [path for path in modules if is_target(config, path)]
    if strict:
        _check_names(config, modules)
    if not found:
        raise UnknownNameError(_nothing(config, modules))
    linears = list(linears)
    for path in found:
        if path not in linears:
            raise ConfigError(f"target_modules {shown(config.target_modules)} means {path}, which can carry no "
                              f"adapter: only linears can, that share their weight with no other; leave it out")
    return [path for path in linears if path in set(found)]


def warn_unused(config, paths, modules):
    """Warn, as peft does, of patterns that fit none of the adapted `paths`, and of exclusions that exclude nothing."""
    for field in ("rank_pattern", "alpha_pattern"):
        for key in getattr(config, field):
            if not any(pattern_value({key: True}, path, False) for path in paths):
                warn(f"{field}: {key!r} fits no adapted module, so it changes nothing; {_near(key, paths)}")
    if config.exclude_modules and not any(is_excluded(config.replace(modules_to_save=None), path) for path in modules):
        warn(f"exclude_modules {shown(config.exclude_modules)} excludes nothing")


def check_layers(config, layers):
    """Raise ConfigError for a layer that the model does not have."""
    asked = config.layers_to_transform
    for layer in [] if asked is None else [asked] if isinstance(asked, int) else asked:
        if layer >= layers:
            raise ConfigError(f"layers_to_transform has {layer}, but the model has {layers} layers, 0 to {layers - 1}")


def _check_names(config, modules):
    for name in config.target_modules if isinstance(config.target_modules, list) else ():
        if not any(_named([name], path) for path in modules):
            raise UnknownNameError(f"target_modules: no module is called {name!r}; {_near(name, modules, PRESETS)}")
    for name in config.modules_to_save or ():
        if not any(path.endswith(name) for path in modules):
            raise UnknownNameError(f"modules_to_save: no module is called {name!r}; {_near(name, modules)}")


def _near(name, modules, besides=()):
    """The nearest names: whole paths for a path, their last parts for a name."""
    parts = {path.rpartition(".")[2] for path in modules if not path[-1].isdigit()}
    return nearest(name, modules if "." in name else [*parts, *besides]) or f"there are {', '.join(sorted(parts))}"


def _nothing(config, modules):
    targets = config.target_modules
    said = f"target_modules {shown(targets)} means no module of this model"
    if isinstance(targets, str):
        said += f": a string is a regular expression over a whole path, as {max(modules, key=len)!r}"
        known = any(_named([targets], path) for path in modules)
        return f"{said}; write [{targets!r}]" if known else f"{said}; {_near(targets, modules, PRESETS)}"
    limits = [f"{name} {shown(getattr(config, name))}" for name in
              ("layers_to_transform", "layers_pattern", "exclude_modules", "modules_to_save")
              if getattr(config, name) is not None]
    return f"{said} with {', '.join(limits)}" if limits else f"{said}; {_near(' '.join(targets), modules)}"
