"""JSON as strangers' files hold it: no key twice, bounded depth, bounded memory."""

import re
from json.decoder import JSONDecodeError, scanstring

from llmc.checkpoint.formats.budget import Budget
from llmc.errors import CheckpointError, quoted
from llmc.system.small_file import read_small

MAX_DEPTH = 64
_WIDE = re.compile(rb"[\x80-\xff]")
_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,39})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,4})?(?![0-9A-Za-z_.+-])")
_WORDS = {"t": ("true", True), "f": ("false", False), "n": ("null", None)}


def read(path, most, what):
    """The value that a file of at most `most` bytes spells; `what` it is goes into the message.

    Raises
    ------
    OSError
        When there is no such file, or it may not be read.
    CheckpointError
        When it is larger, no regular file, empty, or not JSON.
    """
    data = read_small(path, most, what)
    if not data:
        raise CheckpointError(f"{path}: the file is empty (0 bytes); fetch it again")
    return parse(data, path, Budget(path, len(data)))


def parse(data, where, budget):
    """The value that the UTF-8 bytes `data` spell.

    Parameters
    ----------
    data : bytes
        The whole document.
    where : str
        Which file, or which part of it, for the error message.
    budget : Budget
        Pays for every object made.

    Raises
    ------
    CheckpointError
        For anything that is not JSON, and for a key that stands twice in one object.
    """
    budget.spend(len(data) * (4 if _WIDE.search(data) else 1))
    try:
        text = str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{where}: not UTF-8 at byte {error.start}") from None
    del data  # where nobody else holds it, its memory is free for what it spells
    parser = _Parser(text, where, budget)
    value = parser.value(0)
    parser.skip_space()
    if parser.at < len(text):
        parser.fail("something follows the end of the document")
    return value


class _Parser:
    def __init__(self, text, where, budget):
        self.text = text
        self.where = where
        self.budget = budget
        self.words = {}
        self.at = 0

    def fail(self, what):
        raise CheckpointError(f"{self.where}: not valid JSON at character {self.at}: {what}")

    def skip_space(self):
        self.at = _SPACE.match(self.text, self.at).end()

    def peek(self):
        self.skip_space()
        return self.text[self.at : self.at + 1]

    def value(self, depth):
        char = self.peek()
        if char == '"':
            return self.string()
        if char == "{":
            return self.object(depth + 1)
        if char == "[":
            return self.array(depth + 1)
        if char in _WORDS:
            word, value = _WORDS[char]
            if self.text.startswith(word, self.at):
                self.at += len(word)
                return value
        match = _NUMBER.match(self.text, self.at)
        if not match:
            self.fail("a value was expected" if char else "the text ends early")
        if match.end() - self.at > 2:  # Python keeps the small numbers once
            self.budget.spend(32)
        self.at = match.end()
        return float(match[0]) if match[1] or match[2] else int(match[0])

    def string(self):
        try:
            value, self.at = scanstring(self.text, self.at + 1, True)
        except JSONDecodeError as error:
            self.at = error.pos
            self.fail(error.msg)
        if value in self.words:
            return self.words[value]
        self.budget.spend(56 + len(value))
        if len(self.words) < 100:  # the words that come again and again come early
            self.words[value] = value
        return value

    def object(self, depth):
        self.enter(depth)
        result = {}
        while self.peek() != "}":
            if result and not self.comma():
                self.fail("',' or '}' was expected")
            if self.peek() != '"':
                self.fail("a key in double quotes was expected")
            key = self.string()
            if self.peek() != ":":
                self.fail("':' was expected")
            self.at += 1
            if key in result:
                self.fail(f"the key {quoted(key)} stands twice")
            self.budget.spend(40 if len(result) < 5 else 100)
            result[key] = self.value(depth)
        self.at += 1
        return result

    def array(self, depth):
        self.enter(depth)
        self.budget.spend(24)
        result = []
        while self.peek() != "]":
            if result and not self.comma():
                self.fail("',' or ']' was expected")
            self.budget.spend(10)
            result.append(self.value(depth))
        self.at += 1
        return result

    def enter(self, depth):
        if depth > MAX_DEPTH:
            self.fail(f"nested deeper than {MAX_DEPTH}")
        self.budget.spend(64)
        self.at += 1

    def comma(self):
        if self.peek() != ",":
            return False
        self.at += 1
        return True
