"""Scene files: YAML read into scenes, every fault with its file and line, and scenes written."""

import glob
import os

from llmc.calls import public
from llmc.data import strict_yaml
from llmc.data.scene import BESIDE, REQUIRED, Scene, admitted, chosen, dotted, faults, needed
from llmc.errors import ConfigError, DataError, shown
from llmc.system.atomic import atomic_write
from llmc.system.small_file import read_small

ENDINGS = (".yaml", ".yml")
LARGEST = 16 << 20  # bytes of a file
_BREAKS = set("\x85\u2028\u2029")  # line ends to YAML, which folds them where they are not escaped


@public
def read_scenes(paths, *, fields=None, required=REQUIRED):
    """The scenes of YAML files.

    Parameters
    ----------
    paths : path, or list of them
        A file, a glob (`**` for any folders), or a folder: all .yaml and .yml files below it, sorted.
    fields : sequence of str, optional
        The names that are rendered, in their order (`system` is first in any case); by default `system`,
        `intent_vector`, `scene_architecture`, `arch_tension`, `prompt`. Naming others admits them in the files.
    required : sequence of str
        What every scene must have; `response` always.

    Returns
    -------
    list of Scene

    Raises
    ------
    DataError
        For the first fault, "file:line: field: what", and how many more there are.
    FileNotFoundError
        When a file is not there, or a glob or folder holds none.
    ConfigError
        For `fields` or `required` that cannot be.
    ImportError
        Without PyYAML, the extra `scenes`.

    Examples
    --------
    >>> scenes = llmc.data.read_scenes("scenes/*.yaml")
    >>> scenes[0].fields["intent_vector"]
    {'fear': 0.7, 'trust': 0.3}
    """
    reading = _Reading(fields, required)
    reading.files(paths)
    reading.refuse()
    return reading.scenes


@public
def check_scenes(paths, *, fields=None, required=REQUIRED):
    """Every fault of scene files.

    Parameters
    ----------
    paths, fields, required
        As for `read_scenes`.

    Returns
    -------
    list of str
        "file:line: field: what", by files and lines; empty when all is well.

    Raises
    ------
    FileNotFoundError, ConfigError, ImportError
        As by `read_scenes`.
    """
    return scenes_and_faults(paths, fields, required)[1]


def scenes_and_faults(paths, fields=None, required=REQUIRED):
    """What `read_scenes` and `check_scenes` say, at one reading; the scenes count where there is no fault."""
    reading = _Reading(fields, required)
    reading.files(paths)
    return reading.scenes, reading.found()


@public
def write_scenes(scenes, path):
    """Write scenes into one YAML file, a document each, which appears whole.

    What `read_scenes` reads of it is equal to them; fields of other names than the usual ones are named to it again.

    Parameters
    ----------
    scenes : list of Scene
    path : str or Path
        A .yaml or .yml.

    Raises
    ------
    DataError
        For no scene, an id twice, or more than a file may hold.
    ConfigError
        For another ending.
    """
    if not is_scene_file(path):
        raise ConfigError(f"{os.fspath(path)}: scenes are written as {' or '.join(ENDINGS)}")
    scenes = [scenes] if isinstance(scenes, Scene) else list(scenes)
    require_scenes(scenes)
    text = written([scene.to_dict() for scene in scenes])
    if len(text.encode("utf-8")) > LARGEST:
        raise DataError(f"{os.fspath(path)}: the scenes take more than the {LARGEST} bytes that a file may have; write "
                        f"several files")
    with atomic_write(path, "w") as file:
        file.write(text)


def require_scenes(scenes):
    """TypeError for what is no Scene, DataError for none at all or an id twice."""
    ids = set()
    for scene in scenes:
        if not isinstance(scene, Scene):
            raise TypeError(f"a {type(scene).__name__} among the scenes, not a llmc.data.Scene")
        if scene.id in ids:
            raise DataError(f"{scene.where}: id: {shown(scene.id)} is there twice; every scene has its own")
        ids.add(scene.id)
    if not scenes:
        raise DataError("there is no scene")


def checked_scenes(scenes, fields, required):
    """Scenes that are at hand, with these fields rendered; DataError where files would be refused."""
    require_scenes(scenes)
    reading = _Reading(fields, required)
    for scene in scenes:
        reading.scene(scene)
    reading.refuse()
    return reading.scenes


def is_scene_file(path):
    """Whether a file's name says that it holds scenes."""
    return os.fspath(path).lower().endswith(ENDINGS)


def located(paths):
    """The scene files of a path, a glob, a folder, or a list of them, each once.

    Raises
    ------
    FileNotFoundError
        When there is none.
    DataError
        For a file that has another ending.
    """
    found = []
    for path in [paths] if isinstance(paths, (str, os.PathLike)) else list(paths):
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"a path is {type(path).__name__}, not str or Path")
        found += _located(os.fspath(path))
    if not found:
        raise FileNotFoundError("no path is given to read scenes from")
    each = {}
    for path in found:
        each.setdefault(os.path.normpath(path), path)
    return list(each.values())


def _located(path):
    if os.path.isdir(path):
        below = files_below(path)
        if not below:
            raise FileNotFoundError(f"{path}: no {' or '.join(ENDINGS)} file is below it")
        return below
    if os.path.lexists(path):
        if not is_scene_file(path):
            raise DataError(f"{path}: scene files end in {' or '.join(ENDINGS)}")
        return [path]
    if not glob.has_magic(path):
        raise FileNotFoundError(f"{path}: there is no such file")
    there = [name for name in sorted(glob.glob(path, recursive=True)) if is_scene_file(name) or os.path.isdir(name)]
    if not there:
        raise FileNotFoundError(f"{path}: no {' or '.join(ENDINGS)} file has such a name")
    return [name for each in there for name in (files_below(each) if os.path.isdir(each) else [each])]


def files_below(folder):
    """The scene files below a folder, sorted; none that is hidden."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [os.path.join(place, name) for name in names if is_scene_file(name) and not name.startswith(".")]
    return sorted(found)


def written(documents):
    """Mappings as YAML documents: texts of several lines stand in blocks."""
    yaml = strict_yaml.library()

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data):
            return True

    def text(dumper, value):
        style = '"' if set(value) & _BREAKS else "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return yaml.dump_all(documents, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=2**31,
                         explicit_start=len(documents) > 1)  # fmt: skip


class _Reading:
    """Scenes as they are read, and what is wrong with them."""

    def __init__(self, fields, required):
        self.scenes, self._of_files = [], False
        self._fields = chosen(fields)
        self._known, self._required = admitted(self._fields), needed(required, self._fields)
        self._faults, self._ids, self._number = [], {}, 0  # (number of the file, line, text), {id: where}

    def files(self, paths):
        """Read them all."""
        self._of_files = True
        for self._number, path in enumerate(located(paths)):
            self._file(path)

    def scene(self, scene):
        """Take a scene that is at hand."""
        values = scene.to_dict()
        for path, what in faults(values, self._known, self._required):
            line = scene.lines.get(path[0], scene.line)
            where = f"{scene.file}:{line}" if scene.file is not None else scene.where
            self._faults.append((0, line or 0, f"{where}: {dotted(path)}: {what}"))
        self.scenes.append(scene.selected(self._fields))

    def found(self):
        """The faults, by files and lines."""
        ordered = sorted(self._faults, key=lambda fault: fault[:2])
        return list(dict.fromkeys(text for _, _, text in ordered))  # a fault of defaults is every scene's

    def refuse(self):
        """DataError for the first of them."""
        texts = self.found()
        if texts:
            lister = ": llmc scenes lists all" if self._of_files else ""
            raise DataError(texts[0] + (f"; and {len(texts) - 1} more{lister}" if len(texts) > 1 else ""))

    def _fault(self, file, line, path, what):
        field = f"{dotted(path)}: " if path else ""
        self._faults.append((self._number, line, f"{file}:{line}: {field}{what}"))

    def _file(self, path):
        try:
            text = read_small(path, LARGEST, "a scene file", DataError).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            return self._fault(path, line, (), f"byte {error.start} is not UTF-8; convert the file, as with iconv")
        except DataError as error:
            return self._fault(path, 1, (), str(error).removeprefix(f"{path}: "))
        count, broken = 0, False
        try:
            for document in strict_yaml.documents(text, lambda *fault: self._fault(path, *fault)):
                for node in self._nodes(path, document):
                    count += 1
                    self._node(path, node, count)
        except strict_yaml.Broken as error:
            broken = True
            self._fault(path, error.line, (), error.what)
        if not count and not broken:
            self._fault(path, 1, (), "there is no scene in it")

    def _nodes(self, path, document):
        """The scenes of a document, defaults put in."""
        value, defaults = document.value, {}
        if isinstance(value, dict) and ("scenes" in value or "defaults" in value):
            for key, node in value.items():
                if key not in ("scenes", "defaults"):
                    self._fault(path, node.line, (key,), "beside defaults and scenes; it belongs into one of them")
            if "defaults" in value:
                defaults = value["defaults"].value
                if not isinstance(defaults, dict):
                    self._fault(path, value["defaults"].line, ("defaults",), "no mapping of keys and values")
                    defaults = {}
            if "scenes" not in value:
                self._fault(path, document.line, ("scenes",), "missing: defaults are of a list of scenes")
            document = value.get("scenes", strict_yaml.Node([], document.line))
            if not isinstance(document.value, list):
                self._fault(path, document.line, ("scenes",), "no list of scenes")
                return
        for node in document.value if isinstance(document.value, list) else [document]:
            if isinstance(node.value, dict):
                yield strict_yaml.Node({**defaults, **node.value}, node.line)
            else:
                self._fault(path, node.line, (), "no scene: a scene is a mapping of keys and values")

    def _node(self, path, node, number):
        """Take a scene of a file."""
        values = node.plain()
        wrong = list(faults(values, self._known, self._required))
        for where, what in wrong:
            self._fault(path, node.line_of(where), where, what)
        name = os.path.splitext(os.path.basename(path))[0]
        name = values.get("id", name if number == 1 else f"{name}#{number}")
        if isinstance(name, str):
            if name in self._ids:
                self._fault(path, node.line_of(("id",)), ("id",),
                            f"{shown(name)} is that of {self._ids[name]} too; give every scene its own")
                return
            self._ids[name] = f"{path}:{node.line}"
        if not wrong and not self._faults:
            self.scenes.append(self._scene(path, node, {**values, "id": name}))

    def _scene(self, path, node, values):
        fields = {key: values[key] for key in self._fields if key in values}
        others = {key: value for key, value in values.items() if key not in (*fields, *BESIDE)}
        lines = {key: inner.line for key, inner in node.value.items()}
        return Scene(values["id"], fields, values["response"], values.get("meta", {}), values.get("tags", []), path,
                     node.line, lines, others)  # fmt: skip

