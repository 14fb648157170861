"""A restricted reader of pickle streams. It never executes code. Torch-free; does not use Python's unpickler.

A pickle is a program for a stack machine. This reader supports only the operations that published networks need, and
refuses the others. A stream cannot look up a name, call a function or construct an object: the reader looks each name
up in an `Allowlist`, a closed table of functions that build inert objects.

Memory and time are bounded. Every announced length must fit into the file, and byte strings are views of the file. The
number of operations and the total length of texts are limited. Only texts and small integers may be keys: the hash of a
tuple that contains one tuple twice, nested forty levels deep, would take years. Nothing here is recursive.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pickletools import opcodes
from typing import Any

from phema.shared.snapshots.foreign.errors import ForeignFileRefused

MAX_OPERATIONS = 1_000_000
"""A published XXL network needs about 60,000."""
MAX_TEXT_BYTES = 2**26
"""For all texts together. A stream holds the source of each class once: some hundred kilobytes in total."""
MAX_INTEGER_BYTES = 16
MAX_NAME_BYTES = 200


class UnexpectedContent(ValueError):
    """Something in the stream is not allowed. The reader adds the name of the file and the position."""


@dataclass(frozen=True)
class GlobalName:
    """The name of a class or function in a stream, as text. It is never imported."""

    module: str
    attribute: str

    def __str__(self) -> str:
        return f"{self.module}.{self.attribute}"


@dataclass(frozen=True)
class Allowlist:
    """What a stream may contain. Builders get and return plain data and the objects of `pickle_records`."""

    calls: Mapping[GlobalName, Callable[[tuple[Any, ...]], Any]] = field(default_factory=dict)
    """REDUCE: builders by the name of the function that the stream wants to call with a tuple of arguments."""
    instances: Mapping[GlobalName, Callable[[tuple[Any, ...]], Any]] = field(default_factory=dict)
    """NEWOBJ: builders by the name of the class that the stream wants to construct."""
    constants: frozenset[GlobalName] = frozenset()
    """Names that may occur as data, such as dtypes."""
    set_state: Callable[[Any, Any], None] | None = None
    """BUILD: sets the state of an object that was built before."""
    resolve: Callable[[Any], Any] | None = None
    """BINPERSID: builds an object for a reference to something outside the stream."""
    key_types: frozenset[type] = frozenset()
    """Types of inert objects that may be keys of a dict. They must be compared by identity: hashing them is cheap."""
    max_operations: int | None = None
    """Operations of one stream; None is MAX_OPERATIONS."""
    protocols: tuple[int, ...] = (2, 3, 4, 5)
    subject: str = "published network"
    """What error messages call such a stream."""

    def __contains__(self, name: GlobalName) -> bool:
        return name in self.calls or name in self.instances or name in self.constants


_MARK = object()


class PickleReader:
    """Reads the pickle streams in the bytes of one file."""

    def __init__(self, data: memoryview, name: str, allowlist: Allowlist) -> None:
        """`name` is what error messages call the file."""
        self._data, self._name, self._allowlist = data, name, allowlist
        self._position = 0
        self._operations = self._text_bytes = 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    @property
    def position(self) -> int:
        """Offset of the first byte after the streams read so far."""
        return self._position

    def load(self) -> Any:
        """Read the stream that begins at `position`; returns its object. Raises ForeignFileRefused."""
        self._stack, self._memo = [], {}
        start = self._position
        most = self._allowlist.max_operations or MAX_OPERATIONS
        try:
            while (code := self._take(1)[0]) != _STOP:
                self._operations += 1
                if self._operations > most:
                    raise UnexpectedContent(f"it has more than {most:,} pickle operations")
                operation = _OPERATIONS.get(code)
                if operation is None:
                    raise UnexpectedContent(
                        f"pickle operation {_label(code)} is not allowed in a {self._allowlist.subject}"
                    )
                operation(self)
                start = self._position
            result = self._pop()
            if self._stack:
                raise UnexpectedContent("its stream ends with objects left over")
        except UnexpectedContent as error:
            raise ForeignFileRefused(self._name, f"{error} (at byte {start:,})") from None
        return result

    def _take(self, count: int) -> memoryview:
        end = self._position + count
        if end > len(self._data):
            left = len(self._data) - self._position
            raise UnexpectedContent(f"it was cut off: {count:,} more bytes are announced and {left:,} are left")
        view = self._data[self._position : end]
        self._position = end
        return view

    def _number(self, form: str) -> int:
        value: int = struct.unpack(form, self._take(struct.calcsize(form)))[0]
        return value

    def _text(self, count: int) -> str:
        self._text_bytes += count
        if self._text_bytes > MAX_TEXT_BYTES:
            raise UnexpectedContent(f"its texts are longer than {MAX_TEXT_BYTES:,} bytes together")
        try:
            return str(self._take(count), "utf-8")
        except UnicodeDecodeError:
            raise UnexpectedContent("a text in it is not UTF-8") from None

    def _line(self) -> str:
        line = bytes(self._data[self._position : self._position + MAX_NAME_BYTES])
        length = line.find(b"\n")
        if length < 0:
            raise UnexpectedContent(f"a name in it does not end within {MAX_NAME_BYTES} bytes")
        text = self._text(length)
        self._take(1)
        return text

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise UnexpectedContent("an operation lacks its operand")
        return self._stack.pop()

    def _top(self) -> Any:
        value = self._pop()
        self._push(value)
        return value

    def _pop_to_mark(self) -> list[Any]:
        for index in range(len(self._stack) - 1, -1, -1):
            if self._stack[index] is _MARK:
                values = self._stack[index + 1 :]
                del self._stack[index:]
                return values
        raise UnexpectedContent("an operation lacks its mark")

    def _name_of(self, module: Any, attribute: Any) -> GlobalName:
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise UnexpectedContent("a name in it is not a text")
        name = GlobalName(module[:MAX_NAME_BYTES], attribute[:MAX_NAME_BYTES])
        if name not in self._allowlist:
            raise UnexpectedContent(f"it names {str(name)!r}, which no {self._allowlist.subject} does")
        return name

    # One method per operation of a stream.

    def _protocol(self) -> None:
        version = self._number("<B")
        if version not in self._allowlist.protocols:
            known = " or ".join(map(str, self._allowlist.protocols))
            raise UnexpectedContent(f"its pickle protocol is {version}; it should be {known}")

    def _frame(self) -> None:
        length = self._number("<Q")
        if length > len(self._data) - self._position:
            raise UnexpectedContent(f"it was cut off: a frame of {length:,} bytes is announced")

    def _long(self) -> None:
        count = self._number("<B")
        if count > MAX_INTEGER_BYTES:
            raise UnexpectedContent(f"a number in it has {count} bytes; at most {MAX_INTEGER_BYTES} are allowed")
        self._push(int.from_bytes(self._take(count), "little", signed=True))

    def _memoize(self, index: int) -> None:
        self._memo[index] = self._top()

    def _recall(self, index: int) -> None:
        if index not in self._memo:
            raise UnexpectedContent(f"it refers to its object {index}, which does not exist")
        self._push(self._memo[index])

    def _tuple(self, count: int) -> None:
        values = [self._pop() for _ in range(count)]
        self._push(tuple(reversed(values)))

    def _append(self, values: list[Any]) -> None:
        target = self._top()
        if type(target) is not list:
            raise UnexpectedContent(f"it appends to {_kind(target)}")
        target.extend(values)

    def _add(self, values: list[Any]) -> None:
        target = self._top()
        if type(target) is not set:
            raise UnexpectedContent(f"it adds members to {_kind(target)}")
        target.update(check_key(value) for value in values)

    def _set(self, values: list[Any]) -> None:
        target = self._top()
        if type(target) is not dict or len(values) % 2:
            raise UnexpectedContent(f"it sets items of {_kind(target)}")
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[key if type(key) in self._allowlist.key_types else check_key(key)] = value

    def _set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._set([key, value])

    def _global(self) -> None:
        module = self._line()
        self._push(self._name_of(module, self._line()))

    def _stack_global(self) -> None:
        attribute, module = self._pop(), self._pop()
        self._push(self._name_of(module, attribute))

    def _call(self, builders: str) -> None:
        arguments, name = self._pop(), self._pop()
        table: Mapping[GlobalName, Callable[[tuple[Any, ...]], Any]] = getattr(self._allowlist, builders)
        if type(name) is not GlobalName or name not in table or type(arguments) is not tuple:
            what = repr(str(name)) if type(name) is GlobalName else _kind(name)
            raise UnexpectedContent(f"it calls {what} with {_kind(arguments)}, which no {self._allowlist.subject} does")
        self._push(table[name](arguments))

    def _build(self) -> None:
        state = self._pop()
        if self._allowlist.set_state is None:
            raise UnexpectedContent("it sets the state of an object, which is not allowed here")
        self._allowlist.set_state(self._top(), state)

    def _refer(self) -> None:
        reference = self._pop()
        if self._allowlist.resolve is None:
            raise UnexpectedContent("it refers to something outside itself (a persistent id)")
        self._push(self._allowlist.resolve(reference))


def check_key(value: Any) -> str | int:
    """The value itself. Raises UnexpectedContent if it may not be a key of a dict or a member of a set.

    Large integers are refused because an attacker can choose many of them with the same hash.
    """
    if type(value) is str or (type(value) is int and abs(value) < 2**31):
        return value
    raise UnexpectedContent(f"{_kind(value)} is a key in it; only texts and small integers may be")


def _kind(value: Any) -> str:
    return repr(str(value)) if type(value) is GlobalName else f"a {type(value).__name__}"


def _label(code: int) -> str:
    """The byte of an operation, after its name in Python's `pickletools` if it has one."""
    known = {ord(opcode.code): f"{opcode.name} " for opcode in opcodes}
    return f"{known.get(code, '')}0x{code:02x}"


_STOP = ord(".")
_Operation = Callable[[PickleReader], None]


def _constant(make: Callable[[], Any]) -> _Operation:
    return lambda m: m._push(make())


def _read(form: str) -> _Operation:
    return lambda m: m._push(m._number(form))


def _text(form: str) -> _Operation:
    return lambda m: m._push(m._text(m._number(form)))


def _bytes(form: str) -> _Operation:
    return lambda m: m._push(m._take(m._number(form)))


_OPERATIONS: dict[int, _Operation] = {
    0x80: PickleReader._protocol,
    0x95: PickleReader._frame,
    ord("("): _constant(lambda: _MARK),
    ord("N"): _constant(lambda: None),
    0x88: _constant(lambda: True),
    0x89: _constant(lambda: False),
    ord("}"): _constant(dict),
    ord("]"): _constant(list),
    ord(")"): _constant(tuple),
    0x8F: _constant(set),
    ord("K"): _read("<B"),
    ord("M"): _read("<H"),
    ord("J"): _read("<i"),
    ord("G"): _read(">d"),
    0x8A: PickleReader._long,
    0x8C: _text("<B"),
    ord("X"): _text("<I"),
    0x8D: _text("<Q"),
    ord("C"): _bytes("<B"),
    ord("B"): _bytes("<I"),
    0x8E: _bytes("<Q"),
    0x94: lambda m: m._memoize(len(m._memo)),
    ord("q"): lambda m: m._memoize(m._number("<B")),
    ord("r"): lambda m: m._memoize(m._number("<I")),
    ord("h"): lambda m: m._recall(m._number("<B")),
    ord("j"): lambda m: m._recall(m._number("<I")),
    0x85: lambda m: m._tuple(1),
    0x86: lambda m: m._tuple(2),
    0x87: lambda m: m._tuple(3),
    ord("t"): lambda m: m._push(tuple(m._pop_to_mark())),
    ord("a"): lambda m: m._append([m._pop()]),
    ord("e"): lambda m: m._append(m._pop_to_mark()),
    ord("s"): PickleReader._set_item,
    ord("u"): lambda m: m._set(m._pop_to_mark()),
    0x90: lambda m: m._add(m._pop_to_mark()),
    0x91: lambda m: m._push(frozenset(map(check_key, m._pop_to_mark()))),
    ord("c"): PickleReader._global,
    0x93: PickleReader._stack_global,
    ord("R"): lambda m: m._call("calls"),
    0x81: lambda m: m._call("instances"),
    ord("b"): PickleReader._build,
    ord("Q"): PickleReader._refer,
}
"""Supported: PROTO, FRAME, MARK, constants, empty containers, numbers, texts, bytes, memo, containers, names, REDUCE,
NEWOBJ, BUILD, BINPERSID. All others are refused: INST, OBJ, NEWOBJ_EX, EXT1-4, PERSID, POP, DUP, LONG4, the text forms
of protocol 0, buffers outside the stream.
"""
