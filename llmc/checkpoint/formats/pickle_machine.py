"""A pickle machine that can only build plain values and tensor records: it imports nothing and calls nothing."""

import struct

from llmc.checkpoint.formats.pickle_values import AttributeDict, Global
from llmc.checkpoint.formats.torch_functions import CALLS, is_torch_word

MAX_STEPS = 5_000_000
MAX_STACK = 100_000
MAX_MARKS = 1_000
MAX_NAME = 200
KEY_TYPES = (str, int, bool, float, bytes, type(None))


class PickleMachine:
    """Runs one pickle of a torch checkpoint.

    Parameters
    ----------
    file : RegularFile
        For the name in messages and the memory budget.
    data : bytes or Window
        The bytes that hold the pickle.
    persistent_load : callable
        Gets a persistent id (a tuple of plain values, Globals among them) and returns a Storage.
    where : str
        Which part of the file `data` is.

    Notes
    -----
    Every value is one of: None, bool, int, float, complex, str, bytes, tuple, list, dict, set, Global, Storage,
    Tensor, Opaque. No value is ever compared, hashed (but for plain keys) or printed, so that values which share
    their parts cost what they take in the file.
    """

    def __init__(self, file, data, persistent_load=None, where="pickle"):
        self.file = file
        self.data = data
        self.size = len(data)
        self.at = 0
        self.where = where
        self.persistent_load = persistent_load
        self.stack = []
        self.marks = []
        self.memo = []  # picklers count upwards …
        self.sparse_memo = {}  # … and are not obliged to

    def run(self, start=0):
        """The value of the pickle that begins at byte `start`; `at` then is the byte after it."""
        self.at = start
        self.stack, self.marks, self.memo, self.sparse_memo = [], [], [], {}
        for _ in range(MAX_STEPS):
            code = self.take(1)[0]
            if code == 0x2E:  # STOP
                if len(self.stack) != 1 or self.marks:
                    self.fail(f"it stops with {len(self.stack)} values on the stack, not one")
                return self.stack.pop()
            action = _OPCODES.get(code)
            if action is None:
                self.fail(f"opcode 0x{code:02x} at byte {self.at - 1} is no part of a state dict")
            action(self)
            if len(self.stack) > MAX_STACK or len(self.marks) > MAX_MARKS:
                self.fail(f"more than {MAX_STACK} values or {MAX_MARKS} marks wait on the stack")
        self.fail(f"it does not stop within {MAX_STEPS} steps")

    def fail(self, what):
        """Raise `CheckpointError` that names the file and this pickle."""
        self.file.fail(f"{self.where}: {what}")

    # Reading

    def take(self, count):
        end = self.at + count
        if count < 0 or end > self.size:
            self.fail(f"cut short: {count} bytes are wanted at byte {self.at} of {self.size}")
        piece = self.data[self.at : end]
        self.at = end
        return piece

    def number(self, layout):
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def line(self):
        end = self.data.find(b"\n", self.at, self.at + MAX_NAME + 1)
        if end < 0:
            self.fail(f"a name at byte {self.at} does not end within {MAX_NAME} bytes")
        piece = self.data[self.at : end]
        self.at = end + 1
        return self.text(piece)

    def text(self, piece):
        try:
            return bytes(piece).decode("utf-8")
        except UnicodeDecodeError:
            self.fail(f"a string that ends at byte {self.at} is not UTF-8")

    # The stack

    def push(self, value, cost=64):
        self.file.budget.spend(cost)
        self.stack.append(value)

    def pop(self):
        if not self.stack or (self.marks and self.marks[-1] == len(self.stack)):
            self.fail(f"the stack is empty at byte {self.at}")
        return self.stack.pop()

    def pop_mark(self):
        if not self.marks:
            self.fail(f"no mark is set at byte {self.at}")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def top(self, *types):
        if not self.stack or not isinstance(self.stack[-1], types):
            what = type(self.stack[-1]).__name__ if self.stack else "nothing"
            self.fail(f"byte {self.at} would put items into {what}")
        return self.stack[-1]

    def remember(self, key):
        if not self.stack:
            self.fail(f"the stack is empty at byte {self.at}")
        if key < len(self.memo):
            self.memo[key] = self.stack[-1]
        elif key == len(self.memo):
            self.file.budget.spend(16)
            self.memo.append(self.stack[-1])
        else:
            self.file.budget.spend(100)
            self.sparse_memo[key] = self.stack[-1]

    def recall(self, key):
        if key < len(self.memo):
            self.push(self.memo[key], 8)
        elif key in self.sparse_memo:
            self.push(self.sparse_memo[key], 8)
        else:
            self.fail(f"memo {key} is read at byte {self.at} but was never written")

    def key(self, value):
        if type(value) not in KEY_TYPES:
            self.fail(f"a {type(value).__name__} is used as a key at byte {self.at}")
        return value

    # Collections

    def make_tuple(self, items):
        self.push(tuple(items), 48 + 8 * len(items))

    def set_items(self, items):
        if len(items) % 2:
            self.fail(f"a key without a value at byte {self.at}")
        target = self.top(dict)
        self.file.budget.spend(50 * len(items))
        for key, value in zip(items[::2], items[1::2]):
            target[self.key(key)] = value

    def append(self, items):
        target = self.top(list)
        self.file.budget.spend(8 * len(items))
        target.extend(items)

    def add(self, items):
        target = self.top(set)
        self.file.budget.spend(60 * len(items))
        target.update(self.key(item) for item in items)

    # What would be objects

    def find_global(self, module, name):
        module = {"__builtin__": "builtins"}.get(module, module)
        if (module, name) not in CALLS and not is_torch_word(module, name):
            self.fail(
                f"it names {module}.{name}, which no tensor needs; nothing was run. "
                "Load the file where it was made and save its state_dict as safetensors"
            )
        self.push(Global(module, name), 120)

    def stack_global(self):
        name, module = self.pop(), self.pop()
        if not (isinstance(name, str) and isinstance(module, str)) or len(name) + len(module) > 2 * MAX_NAME:
            self.fail(f"a global at byte {self.at} has no name")
        self.find_global(module, name)

    def reduce(self):
        args, function = self.pop(), self.pop()
        if not isinstance(function, Global) or not isinstance(args, tuple):
            self.fail(f"byte {self.at} calls a {type(function).__name__} with a {type(args).__name__}")
        self.push(self.call(function, args), 32)

    def call(self, function, args):
        build = CALLS.get((function.module, function.name))
        if build is None:
            self.fail(f"{function} is called, which no tensor needs; nothing was run")
        try:
            return build(self, *args)
        except TypeError:  # a wrong number of arguments
            self.fail(f"{function} is called with {len(args)} arguments")

    def build(self):
        state = self.pop()
        self.top(AttributeDict)
        if not isinstance(state, dict):
            self.fail(f"the attributes of an OrderedDict are a {type(state).__name__}")

    def persistent(self):
        pid = self.pop()
        if self.persistent_load is None or not isinstance(pid, tuple):
            self.fail(f"byte {self.at} asks for stored data where there is none")
        self.push(self.persistent_load(self, pid), 80)


def _proto(machine):
    version = machine.take(1)[0]
    if not 2 <= version <= 5:
        machine.fail(f"pickle protocol {version}; 2 to 5 are read")


def _frame(machine):
    length = machine.number("<Q")
    if length > machine.size - machine.at:
        machine.fail(f"cut short: a frame of {length} bytes at byte {machine.at} of {machine.size}")


def _long(machine, count):
    if count > 255:
        machine.fail(f"a whole number of {count} bytes")
    machine.push(int.from_bytes(machine.take(count), "little", signed=True))


def _string(machine, count, decode):
    if count > machine.size - machine.at:
        machine.fail(f"cut short: a string of {count} bytes at byte {machine.at} of {machine.size}")
    piece = machine.take(count)
    machine.file.budget.spend(count if piece.isascii() else 4 * count)
    machine.push(machine.text(piece) if decode else bytes(piece))


def _mark(machine):
    machine.marks.append(len(machine.stack))


def _pop(machine):
    machine.pop()


def _pop_mark(machine):
    machine.pop_mark()


def _dup(machine):
    value = machine.pop()
    machine.push(value, 8)
    machine.push(value, 8)


def _set_item(machine):
    value, key = machine.pop(), machine.pop()
    machine.set_items([key, value])


def _pops(machine, count):
    return [machine.pop() for _ in range(count)][::-1]


_OPCODES = {
    0x80: _proto,
    0x95: _frame,
    # numbers and words
    ord("N"): lambda m: m.push(None, 8),
    0x88: lambda m: m.push(True, 8),
    0x89: lambda m: m.push(False, 8),
    ord("K"): lambda m: m.push(m.take(1)[0], 8),
    ord("M"): lambda m: m.push(m.number("<H"), 32),
    ord("J"): lambda m: m.push(m.number("<i"), 32),
    0x8A: lambda m: _long(m, m.take(1)[0]),
    0x8B: lambda m: _long(m, m.number("<I")),
    ord("G"): lambda m: m.push(m.number(">d"), 32),
    # strings
    ord("X"): lambda m: _string(m, m.number("<I"), True),
    0x8C: lambda m: _string(m, m.take(1)[0], True),
    0x8D: lambda m: _string(m, m.number("<Q"), True),
    ord("U"): lambda m: _string(m, m.take(1)[0], True),
    ord("T"): lambda m: _string(m, m.number("<I"), True),
    ord("C"): lambda m: _string(m, m.take(1)[0], False),
    ord("B"): lambda m: _string(m, m.number("<I"), False),
    0x8E: lambda m: _string(m, m.number("<Q"), False),
    0x96: lambda m: _string(m, m.number("<Q"), False),
    # collections
    ord("("): _mark,
    ord("0"): _pop,
    ord("1"): _pop_mark,
    ord("2"): _dup,
    ord(")"): lambda m: m.push((), 8),
    0x85: lambda m: m.make_tuple(_pops(m, 1)),
    0x86: lambda m: m.make_tuple(_pops(m, 2)),
    0x87: lambda m: m.make_tuple(_pops(m, 3)),
    ord("t"): lambda m: m.make_tuple(m.pop_mark()),
    ord("]"): lambda m: m.push([]),
    ord("}"): lambda m: m.push({}),
    0x8F: lambda m: m.push(set(), 220),
    ord("a"): lambda m: m.append([m.pop()]),
    ord("e"): lambda m: m.append(m.pop_mark()),
    ord("s"): _set_item,
    ord("u"): lambda m: m.set_items(m.pop_mark()),
    0x90: lambda m: m.add(m.pop_mark()),
    # memo
    ord("q"): lambda m: m.remember(m.take(1)[0]),
    ord("r"): lambda m: m.remember(m.number("<I")),
    0x94: lambda m: m.remember(len(m.memo) + len(m.sparse_memo)),
    ord("h"): lambda m: m.recall(m.take(1)[0]),
    ord("j"): lambda m: m.recall(m.number("<I")),
    # names and what is made of them
    ord("c"): lambda m: m.find_global(m.line(), m.line()),
    0x93: lambda m: m.stack_global(),
    ord("R"): lambda m: m.reduce(),
    0x81: lambda m: m.reduce(),
    ord("b"): lambda m: m.build(),
    ord("Q"): lambda m: m.persistent(),
}
