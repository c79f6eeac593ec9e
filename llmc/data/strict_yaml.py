"""YAML read strictly: texts, numbers, lists and mappings, each with its line; nothing else is ever made of it.

PyYAML splits the text into events; what they mean is said here, so that no tag can make an object, a key that stands
twice is seen, nesting and aliases are bounded, and every value keeps its line.
"""

import re
from dataclasses import dataclass

from llmc.errors import shown

DEEPEST = 64  # levels
MOST_ALIASED = 10_000  # nodes that stand in the document by an alias
LONGEST_NUMBER = 1000  # characters

_TAG = "tag:yaml.org,2002:"
_WORDS = {"bool": "true or false", "int": "a number", "float": "a number", "null": "null"}
_UNPRINTABLE = "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
_HINTS = {"mapping values are not allowed": "a text that holds ': ' is quoted, or stands below its key after |",
          "found character": "a text that begins with @, ` or % is quoted",
          "undefined alias": "a text that begins with * is quoted"}  # fmt: skip


class Broken(Exception):
    """What cannot be read on from: its line, and what is wrong there."""

    def __init__(self, line, what):
        super().__init__(what)
        self.line, self.what = line, what


@dataclass(frozen=True, slots=True)
class Node:
    """A value and the line it stands on, that of its key where it has one.

    Attributes
    ----------
    value : str, int, float, bool, None, list of Node, or dict of Node
    line : int
        From 1.
    """

    value: object
    line: int

    def plain(self):
        """The value without its lines, all of it new."""
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        return self.value

    def line_of(self, path):
        """The line of what stands at a path of keys and numbers, of the last of them that is there."""
        node = self
        for key in path:
            inside = isinstance(node.value, dict) and key in node.value
            if not inside and not (isinstance(node.value, list) and isinstance(key, int) and key < len(node.value)):
                break
            node = node.value[key]
        return node.line


def documents(text, fault):
    """The documents of a YAML text; empty ones are passed over.

    Parameters
    ----------
    text : str
    fault : callable
        Called with (line, path, what) for each thing that is wrong and can be read on from: path is a tuple of keys.

    Yields
    ------
    Node

    Raises
    ------
    Broken
        For the first thing that cannot be.
    ImportError
        Without PyYAML.
    """
    yaml = library()
    if found := re.search(_UNPRINTABLE, text):  # compiled when it is needed
        raise Broken(text.count("\n", 0, found.start()) + 1,
                     f"character U+{ord(found[0]):04X} cannot stand in YAML; write it as an escape between quotes")
    events = _Events(yaml, text)
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            node = _Composer(yaml, events, fault).node(next(events), (), 1)
            if node.value is not None:
                yield node


def library():
    """PyYAML.

    Raises
    ------
    ImportError
        Without it.
    """
    try:
        import yaml
    except ImportError:
        raise ImportError("scenes are YAML, which PyYAML reads: pip install 'llmc[scenes]'") from None
    return yaml


class _Events:
    """PyYAML's events of a text, its errors in words."""

    def __init__(self, yaml, text):
        self._yaml, self._text = yaml, text
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        self._events = yaml.parse(text, Loader=loader)

    def __iter__(self):
        return self

    def __next__(self):
        try:
            return next(self._events)
        except self._yaml.MarkedYAMLError as error:
            raise self._broken(error) from None
        except self._yaml.YAMLError as error:
            raise Broken(1, f"not YAML: {' '.join(str(error).split())}") from None

    def _broken(self, error):
        lines = [mark.line for mark in (error.problem_mark, error.context_mark) if mark is not None]
        text = re.split("\r\n|[\n\r\x85\u2028\u2029]", self._text)
        for line in lines:
            if line < len(text) and "\t" in re.match(r"\s*", text[line])[0]:
                return Broken(line + 1, "a tab; YAML is indented with spaces")
        what = error.problem or error.context or "it cannot be read"
        hint = next((hint for begin, hint in _HINTS.items() if begin in what), "")
        return Broken(lines[0] + 1 if lines else 1, f"not YAML: {what}" + (f" ({hint})" if hint else ""))


class _Composer:
    """The nodes of one document."""

    def __init__(self, yaml, events, fault):
        self._yaml, self._events, self._fault = yaml, events, fault
        self._resolver, self._values = yaml.resolver.Resolver(), yaml.constructor.SafeConstructor()
        self._anchors = {}  # name -> (node, nodes in it, levels of it)
        self._nodes = self._aliased = 0  # nodes so far, and how many of them by aliases
        self._deepest = 0

    def node(self, event, path, level, line=None):
        """What begins with an event, at a path and a level; `line` of its key, if it has one."""
        line = event.start_mark.line + 1 if line is None else line
        self._deepest = max(self._deepest, level)
        if level > DEEPEST:
            raise Broken(line, f"more than {DEEPEST} levels, one inside the other")
        if isinstance(event, self._yaml.AliasEvent):
            return self._alias(event, line, level)
        self._anchors.pop(event.anchor, None)
        before, deepest, self._deepest = self._nodes, self._deepest, level
        self._nodes += 1
        if isinstance(event, self._yaml.ScalarEvent):
            value = self._scalar(event, path, line)
        elif isinstance(event, self._yaml.SequenceStartEvent):
            value = self._sequence(event, path, level)
        else:
            value = self._mapping(event, path, level)
        node = Node(value, line)
        if event.anchor is not None:
            self._anchors[event.anchor] = node, self._nodes - before, self._deepest - level
        self._deepest = max(self._deepest, deepest)
        return node

    def _alias(self, event, line, level):
        if event.anchor not in self._anchors:
            raise Broken(line, f"*{event.anchor} names nothing that stands above it")
        node, nodes, levels = self._anchors[event.anchor]
        self._nodes += nodes
        self._aliased += nodes
        self._deepest = max(self._deepest, level + levels)
        if self._deepest > DEEPEST:
            raise Broken(line, f"more than {DEEPEST} levels, one inside the other")
        if self._aliased > MOST_ALIASED:
            raise Broken(line, f"aliases (*{event.anchor}) stand for more than {MOST_ALIASED} nodes")
        return Node(node.value, line)

    def _scalar(self, event, path, line):
        tag = event.tag
        if tag is None or tag == "!":
            tag = self._resolver.resolve(self._yaml.ScalarNode, event.value, event.implicit)
        kind, text = tag.removeprefix(_TAG), event.value
        if not tag.startswith(_TAG) or kind not in {"str", "timestamp", "value", "merge", *_WORDS}:
            self._refuse(tag, line, path)
            return text
        if kind not in _WORDS or kind in ("int", "float") and ":" in text:  # a date or time is the text it is
            return text
        try:
            if len(text) > LONGEST_NUMBER:
                raise ValueError
            return getattr(self._values, f"construct_yaml_{kind}")(self._yaml.ScalarNode(tag, text))
        except (ValueError, KeyError, IndexError):
            self._fault(line, path, f"{shown(text)} is not {_WORDS[kind]}")
            return text

    def _sequence(self, event, path, level):
        if event.tag not in (None, "!", f"{_TAG}seq"):
            self._refuse(event.tag, event.start_mark.line + 1, path)
        found = []
        while not isinstance(event := next(self._events), self._yaml.SequenceEndEvent):
            found.append(self.node(event, (*path, len(found)), level + 1))
        return found

    def _mapping(self, event, path, level):
        if event.tag not in (None, "!", f"{_TAG}map"):
            self._refuse(event.tag, event.start_mark.line + 1, path)
        own, merged = {}, []
        while not isinstance(event := next(self._events), self._yaml.MappingEndEvent):
            line = event.start_mark.line + 1
            merges = self._merges(event)
            key = "<<" if merges else self._key(self.node(event, path, level + 1), line, path)
            node = self.node(next(self._events), (*path, key), level + 1, line)
            if key in own or merges and merged:
                first = (own[key] if key in own else merged[0]).line
                self._fault(line, (*path, key), f"this key is there twice; it stands on line {first} already")
            elif merges:
                merged = self._merged(node, path) or [node]
            else:
                own[key] = node
        merged = [each.value for each in reversed(merged) if isinstance(each.value, dict)]
        return {key: node for entries in (*merged, own) for key, node in entries.items()}

    def _merges(self, event):
        return isinstance(event, self._yaml.ScalarEvent) and event.value == "<<" and event.implicit[0]

    def _merged(self, node, path):
        """The mappings that a merge key names, the first of them the strongest."""
        found = node.value if isinstance(node.value, list) else [node]
        if any(not isinstance(each.value, dict) for each in found):
            self._fault(node.line, (*path, "<<"), "a merge takes a mapping or a list of them (*name)")
            return []
        return [Node(each.value, node.line) for each in found]

    def _key(self, node, line, path):
        if isinstance(node.value, (list, dict)) or node.value is None:
            kind = {list: "a list", dict: "a mapping"}.get(type(node.value), "null")
            self._fault(line, path, f"a key is {kind}; keys are text, numbers, true or false")
            return f"({kind} on line {line})"
        return node.value

    def _refuse(self, tag, line, path):
        tag = tag.replace(_TAG, "!!")
        self._fault(line, path, f"the tag {shown(tag)} would make an object; texts, numbers, lists and mappings are "
                                f"read, and nothing else is made")
