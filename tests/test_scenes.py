"""Scene files: what is read of YAML and with which lines, every fault in words, and scenes written and read again."""

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llmc
from llmc.data import Scene, check_scenes, read_scenes, write_scenes
from llmc.errors import ConfigError, DataError

yaml = pytest.importorskip("yaml", reason="scenes are read with llmc's extra `scenes`")

DOOR = """\
id: threshold-1
system: You unfold scenes.
intent_vector: {fear: 0.7, trust: 0.3}
scene_architecture:
  place: a threshold
  actors: [the one who waits, the door]
arch_tension: 0.8
prompt: What happens?
response: |
  The door is listening.
meta: {author: k}
tags: [door]
"""
REST = "intent_vector: a\nscene_architecture: b\narch_tension: 1\n"  # what is required beside a response


def written(folder, text, name="scene.yaml"):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text) if isinstance(text, bytes) else path.write_text(text, encoding="utf-8")
    return path


def read_one(folder, text, **more):
    (scene,) = read_scenes(written(folder, text), **more)
    return scene


def only_fault(folder, text, **more):
    """The one fault of a file, without its path."""
    path = written(folder, text)
    (fault,) = check_scenes(path, **more)
    with pytest.raises(DataError) as error:
        read_scenes(path, **more)
    assert str(error.value) == fault
    return fault.removeprefix(f"{path}:")


# What is read


def test_a_scene_has_its_fields_in_order_and_knows_where_they_stand(tmp_path):
    path = written(tmp_path, DOOR)
    (scene,) = read_scenes(path)
    assert (scene.id, scene.response, scene.meta, scene.tags) == ("threshold-1", "The door is listening.\n",
                                                                   {"author": "k"}, ["door"])  # fmt: skip
    assert list(scene.fields.items()) == [
        ("system", "You unfold scenes."), ("intent_vector", {"fear": 0.7, "trust": 0.3}),
        ("scene_architecture", {"place": "a threshold", "actors": ["the one who waits", "the door"]}),
        ("arch_tension", 0.8), ("prompt", "What happens?")]  # fmt: skip
    assert (scene.file, scene.line) == (str(path), 1)
    assert scene.lines == {"id": 1, "system": 2, "intent_vector": 3, "scene_architecture": 4, "arch_tension": 7,
                           "prompt": 8, "response": 9, "meta": 11, "tags": 12}  # fmt: skip
    assert scene.to_dict() == yaml.safe_load(DOOR)


def test_a_file_is_a_scene_several_documents_a_list_or_a_list_with_defaults(tmp_path):
    body = f"{REST}response: r\n"
    indented = body.replace("\n", "\n  ").rstrip() + "\n"
    for text, lines in ((body, [1]), (f"---\n{body}---\n{body}...\n---\n", [2, 7]),
                        (f"- {indented}- {indented}", [1, 5])):  # fmt: skip
        scenes = read_scenes(written(tmp_path, text))
        assert [scene.line for scene in scenes] == lines
        assert [scene.id for scene in scenes] == ["scene", "scene#2"][: len(lines)]
    text = ("defaults:\n  arch_tension: 1\n  scene_architecture: here\nscenes:\n- {intent_vector: a, response: r}\n"
            "- {id: own, intent_vector: b, arch_tension: 2, response: s}\n- {intent_vector: c, response: t}\n")
    scenes = read_scenes(written(tmp_path, text))
    assert [(scene.id, scene.fields["arch_tension"]) for scene in scenes] == [("scene", 1), ("own", 2), ("scene#3", 1)]
    assert [scene.lines["arch_tension"] for scene in scenes] == [2, 6, 2]


def test_a_path_is_a_file_a_folder_a_glob_or_a_list_of_them(tmp_path):
    for name in ("b/deep/two.yml", "b/one.yaml", "a.yaml", "b/.hidden.yaml", "b/readme.md", ".git/x.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{REST}response: r\n")

    def ids(paths):
        return [scene.id for scene in read_scenes(paths)]

    assert ids(tmp_path) == ["a", "two", "one"]
    assert ids(str(tmp_path / "b" / "*.yaml")) == ["one"]
    assert ids(str(tmp_path / "**" / "*.y*ml")) == ["a", "two", "one"]
    assert ids([tmp_path / "b" / "one.yaml", str(tmp_path / "*")]) == ["one", "a", "two"]  # each once


def test_a_missing_file_a_glob_of_nothing_and_an_empty_folder_are_not_found(tmp_path):
    (tmp_path / "empty").mkdir()
    for path in ("no.yaml", "no*.yaml", "empty"):
        for function in (read_scenes, check_scenes):
            with pytest.raises(FileNotFoundError, match=path.replace("*", r"\*")):
                function(tmp_path / path)
    with pytest.raises(DataError, match="notes.txt: scene files end in .yaml or .yml"):
        read_scenes(written(tmp_path, "x", "notes.txt"))
    with pytest.raises(FileNotFoundError, match="no path"):
        read_scenes([])


def test_dates_and_times_are_the_text_they_are_and_anchors_merge_as_in_yaml(tmp_path):
    scene = read_one(tmp_path, """\
base: &base {place: here, at: 12:30}
intent_vector: 2024-01-05
scene_architecture: {<<: *base, place: there}
arch_tension: .5
prompt: 2024-01-05 12:30:00
response: [The door, is 3]
""", fields=("base", "prompt", "intent_vector"))
    assert list(scene.fields) == ["base", "prompt", "intent_vector"]
    assert scene.fields == {"base": {"place": "here", "at": "12:30"}, "prompt": "2024-01-05 12:30:00",
                            "intent_vector": "2024-01-05"}  # fmt: skip
    assert scene.unrendered == {"scene_architecture": {"place": "there", "at": "12:30"}, "arch_tension": 0.5}
    assert list(scene.unrendered["scene_architecture"]) == ["place", "at"] and scene.response == "The door\nis 3"


def test_system_is_first_wherever_it_is_named(tmp_path):
    scene = read_one(tmp_path, DOOR, fields=("prompt", "system"))
    assert list(scene.fields) == ["system", "prompt"]


# What is refused


@pytest.mark.parametrize("text, fault", [
    ("prompt: yes\n", "4: prompt: true to YAML, not text; quote it"),
    ("prompt: 12\n", "4: prompt: the number 12 to YAML, not text; quote it"),
    ("system:\n", "4: system: null to YAML, not text; quote it"), ("id: 007\n", "4: id: the number 7 to YAML"),
    ("prompt: [a]\n", "4: prompt: a list, not text"), ("prompt: ''\n", "4: prompt: empty"),
    ("tags: [a, 3]\n", "4: tags[1]: the number 3 to YAML"), ("tags: a\n", "4: tags: str, not a list of texts"),
    ("meta: [a]\n", "4: meta: a list, not a mapping"), ("meta: {x: .nan}\n", "4: meta.x: nan is not finite"),
    ("intent_vectr: a\n", "4: intent_vectr: no such key; nearest: intent_vector"),
    ("prompt: a\nprompt: b\n", "5: prompt: this key is there twice; it stands on line 4 already"),
    ("meta:\n  a: 1\n  a: 2\n", "6: meta.a: this key is there twice"),
    ("meta: {1: a, 1.0: b}\n", "4: meta[1]: this key is there twice".replace("[1]", ".1.0")),
    ("meta: {? [a] : b}\n", "4: meta: a key is a list"), ("meta: {~: b}\n", "4: meta: a key is null"),
    ("meta: !!python/object:os.x {}\n", "4: meta: the tag '!!python/object:os.x' would make an object"),
    ("meta: !mine {a: 1}\n", "4: meta: the tag '!mine' would make"),
    ("prompt: !!binary aGk=\n", "4: prompt: the tag '!!binary' would make an object"),
    ("meta: {a: !!int x}\n", "4: meta.a: 'x' is not a number"),
    ("meta: {a: !!bool x}\n", "4: meta.a: 'x' is not true or false"),
    ("meta:\n\ta: 1\n", "5: a tab; YAML is indented with spaces"),
    ("prompt: a: b\n", "4: not YAML: mapping values are not allowed"),
    ("prompt: *a\n", "4: *a names nothing that stands above it"), ("meta: &a {b: *a}\n", "4: *a names nothing"),
    ("prompt: 'a\n", "6: not YAML: found unexpected end"),
    ("prompt: \x01\n", "4: character U+0001 cannot stand in YAML"),
    ("meta: {<<: 3}\n", "4: meta.<<: a merge takes a mapping"), ("prompt: @a\n", "4: not YAML: found character"),
])  # fmt: skip
def test_a_fault_is_said_with_its_line_and_field(tmp_path, text, fault):
    assert only_fault(tmp_path, f"{REST}{text}response: r\n").startswith(fault)


@pytest.mark.parametrize("text, fault", [
    (".inf", "is not finite"), ("[1, {a: -.inf}]", "inf is not finite"), ("", "null; say something, or leave the key"),
    ("''", "empty"), ("'\n\n'", "empty"), ("[]", "empty"), ("{}", "empty"),
    ("1" * 2000, "is not a number"), ("[" * 70 + "]" * 70, "more than 64 levels"),
])  # fmt: skip
def test_a_value_that_says_nothing_is_refused(tmp_path, text, fault):
    rest = "scene_architecture: b\narch_tension: 1\nresponse: r\n"
    assert fault in only_fault(tmp_path, f"intent_vector: {text}\n{rest}")


def test_nested_nulls_and_empty_values_are_values(tmp_path):
    text = "intent_vector: {a: ~, b: [], c: ''}\nscene_architecture: [~]\narch_tension: 0\nresponse: r\n"
    assert read_one(tmp_path, text).fields["intent_vector"] == {"a": None, "b": [], "c": ""}


def test_what_is_missing_is_said_of_the_scene_and_what_is_misspelt_is_not_missing_besides(tmp_path):
    path = written(tmp_path, "# a scene\n\nintent_vector: a\nscene_architectur: b\n")
    assert check_scenes(path) == [f"{path}:3: arch_tension: missing", f"{path}:3: response: missing",
                                  f"{path}:4: scene_architectur: no such key; nearest: scene_architecture, "
                                  f"intent_vector, arch_tension"]  # fmt: skip
    with pytest.raises(DataError, match="arch_tension: missing; and 2 more: llmc scenes lists all$"):
        read_scenes(path)
    assert len(check_scenes(path, required=())) == 2  # the response always


def test_every_fault_of_every_file_is_listed_by_files_and_lines(tmp_path):
    one = written(tmp_path, f"{REST}prompt: 1\nresponse: 2\n---\n{REST}respons: a\n", "a.yaml")
    two = written(tmp_path, f"{REST}response: a\n---\n[1]\n---\nx: [\n", "b.yaml")
    assert [fault.split(": ")[0] for fault in check_scenes(tmp_path)] == [
        f"{one}:4", f"{one}:5", f"{one}:10", f"{two}:6", f"{two}:9"]  # fmt: skip


def test_a_fault_of_the_defaults_is_said_once(tmp_path):
    text = "defaults: {arch_tension: .nan, scene_architecture: a}\nscenes:\n"
    text += "- {intent_vector: a, response: r}\n" * 3
    assert only_fault(tmp_path, text) == "1: arch_tension: nan is not finite"


@pytest.mark.parametrize("text, fault", [
    ("defaults: {a: 1}\n", "1: scenes: missing"), ("scenes: {a: 1}\n", "1: scenes: no list"),
    ("scenes: []\n", "1: there is no scene in it"), ("", "1: there is no scene in it"),
    ("# nothing\n", "1: there is no scene in it"),
    ("just words\n", "1: no scene: a scene is a mapping"), (b"a: b\nc: \xff\n", "2: byte 8 is not UTF-8"),
])  # fmt: skip
def test_a_file_without_a_scene_is_refused(tmp_path, text, fault):
    path = written(tmp_path, text)
    assert check_scenes(path)[0].removeprefix(f"{path}:").startswith(fault)


def test_an_id_is_given_once_in_all_files(tmp_path):
    one, two = (written(tmp_path, f"{REST}response: a\n", f"{folder}/door.yaml") for folder in "ab")
    assert check_scenes(tmp_path) == [f"{two}:1: id: 'door' is that of {one}:1 too; give every scene its own"]


def test_a_billion_laughs_are_not_read(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    assert "aliases (*a2) stand for more than 10000 nodes" in only_fault(tmp_path, "\n".join(lines))
    deep = "\n".join(["a0: &a0 [x]", *(f"a{i}: &a{i} [[[[[[[[*a{i - 1}]]]]]]]]" for i in range(1, 10))])
    assert "more than 64 levels" in only_fault(tmp_path, deep)


def test_a_file_larger_than_16_mebibytes_and_a_pipe_are_refused(tmp_path):
    path = written(tmp_path, "")
    with open(path, "wb") as file:
        file.truncate((16 << 20) + 1)
    assert check_scenes(path) == [f"{path}:1: 16777217 bytes; a scene file has at most 16777216"]


def test_fields_and_required_are_names_that_can_be(tmp_path):
    path = written(tmp_path, DOOR)
    for words, error, message in (
        (dict(fields=["response"]), ConfigError, "'response' is a word of scene files"),
        (dict(fields=["prompt", "prompt"]), ConfigError, "'prompt' is there twice"),
        (dict(fields="prompt"), TypeError, "not a list of names"), (dict(fields=[3]), TypeError, "not a name"),
        (dict(required=["promt"]), ConfigError, "'promt' is no field; nearest: prompt"),
        (dict(requird=[]), TypeError, "no argument 'requird'; nearest: required"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            read_scenes(path, **words)


def test_without_pyyaml_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ImportError, match=r"pip install 'llmc\[scenes\]'"):
        read_scenes(written(tmp_path, DOOR))


def test_pyyaml_without_its_c_library_reads_the_same(tmp_path, monkeypatch):
    good, bad = written(tmp_path, DOOR), written(tmp_path, f"{REST}prompt: yes\nprompt: b\nmeta:\n\ta: 1\n", "bad.yaml")
    scenes, faults = read_scenes(good), check_scenes(bad)
    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    assert read_scenes(good) == scenes and read_scenes(good)[0].lines == scenes[0].lines
    assert check_scenes(bad) == faults and "a tab" in faults[-1]


# Scenes in Python, and written


def test_a_scene_says_what_no_file_may_hold():
    for values, message in (
        (("", {"a": 1}, "r"), "id: empty"), (("x", {"a": float("nan")}, "r"), "scene 'x': a: nan is not finite"),
        (("x", {"a": object()}, "r"), "a: object; a value is text"), (("x", {}, ""), "response: empty"),
        (("x", {"a": "\ud800"}, "r"), "half of a surrogate pair"), (("x", {"tags2": []}, "r"), "tags2: empty"),
        (("x", {"template": "a"}, "r"), "'template' cannot be the name of a field"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=message):
            Scene(*values)
    with pytest.raises(TypeError, match="fields is 3, not a dict"):
        Scene("x", 3, "r")


def test_scenes_are_written_to_yaml_alone_and_with_ids_of_their_own(tmp_path):
    scene = Scene("x", {"a": "b"}, "r")
    with pytest.raises(ConfigError, match="out.json: scenes are written as .yaml or .yml"):
        write_scenes([scene], tmp_path / "out.json")
    with pytest.raises(DataError, match="'x' is there twice"):
        write_scenes([scene, scene], tmp_path / "out.yaml")
    with pytest.raises(TypeError, match="a dict among the scenes"):
        write_scenes([{}], tmp_path / "out.yaml")
    with pytest.raises(DataError, match="there is no scene"):
        write_scenes([], tmp_path / "out.yaml")
    assert not (tmp_path / "out.yaml").exists()


def test_what_was_read_is_written_and_read_again(tmp_path):
    for name, fields in (("a.yaml", None), ("b.yaml", ("prompt",))):  # what is not rendered is written too
        scenes = read_scenes(written(tmp_path, DOOR, name), fields=fields)
        write_scenes(scenes, tmp_path / "out.yaml")
        assert read_scenes(tmp_path / "out.yaml", fields=fields) == scenes
    assert "response: |\n  The door" in (tmp_path / "out.yaml").read_text()


TEXT = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=30)
TEXT = TEXT.filter(lambda text: text.strip("\r\n"))
TEXT |= st.sampled_from(["yes", "12", "~", "2024-01-05", "12:30", "1e5", "- a", "a: b", " a\n b\n\n", "\n a", "=", "<<",
                         "a\u2028b\n", "\ufeff", "a\rb", "\ta"])  # fmt: skip
SCALAR = TEXT | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans()
NESTED = st.recursive(SCALAR | st.none() | st.just(""), lambda inner: st.lists(inner, max_size=3)
                      | st.dictionaries(TEXT | st.integers() | st.booleans(), inner, max_size=3),
                      max_leaves=8)  # fmt: skip
FULL = SCALAR | st.lists(NESTED, min_size=1, max_size=3) | st.dictionaries(TEXT, NESTED, min_size=1, max_size=3)


@st.composite
def scenes_of_any_kind(draw):
    fields = {"system": TEXT, "intent_vector": FULL, "scene_architecture": FULL, "arch_tension": FULL, "prompt": TEXT}
    ids = draw(st.lists(TEXT, min_size=1, max_size=3, unique=True))
    return [Scene(name, {key: draw(kind) for key, kind in fields.items() if draw(st.booleans())}, draw(TEXT),
                  draw(st.dictionaries(TEXT, NESTED, max_size=2)), draw(st.lists(TEXT, max_size=2)))
            for name in ids]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(scenes=scenes_of_any_kind())
def test_any_scenes_are_read_as_they_were_written(tmp_path_factory, scenes):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    write_scenes(scenes, path)
    read = read_scenes(path, required=())
    assert read == scenes
    assert [repr(scene.to_dict()) for scene in read] == [repr(scene.to_dict()) for scene in scenes]  # order and types


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.sampled_from(list("ab:-[]{}&*!|>'\"#%@`,? \n\t<=.0123\x85\u2028é")), max_size=60))
def test_any_text_is_read_or_refused_in_words(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any-text.yaml"
    path.write_text(f"intent_vector: {text}\n", encoding="utf-8", newline="")
    faults = check_scenes(path)
    assert all(fault.startswith(f"{path}:") and fault[len(str(path)) + 1].isdigit() for fault in faults)


@settings(max_examples=200, deadline=None)
@given(values=st.dictionaries(TEXT, NESTED, max_size=4))
def test_values_are_what_yaml_itself_reads(tmp_path_factory, values):
    path = tmp_path_factory.getbasetemp() / "values.yaml"
    path.write_text(yaml.safe_dump({"meta": values, "response": "r"}), encoding="utf-8")
    assert llmc.data.read_scenes(path, required=())[0].meta == yaml.safe_load(path.read_text())["meta"] == values
