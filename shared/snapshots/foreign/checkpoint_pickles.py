"""What the pickle of a checkpoint may hold before torch reads it with `weights_only`. Torch-free.

`weights_only` looks names up in a closed table, too, yet builds what a stream asks for: keys made of tuples that hold
themselves twice, forty levels deep, take a lifetime to hash, and a `bytearray` may have any size. Here nothing is kept.
"""

from __future__ import annotations

from typing import IO, Any
from zipfile import ZipInfo

from phema.shared.snapshots.foreign.errors import ForeignFileRefused
from phema.shared.snapshots.foreign.pickle_reader import Machine, Name, Unexpected, Vocabulary, check_key
from phema.shared.snapshots.foreign.pickle_vocabulary import Opaque
from phema.shared.snapshots.foreign.torch_zips import read_entry

_ITEM_BYTES = {
    **dict.fromkeys(("ByteStorage", "CharStorage", "BoolStorage", "UntypedStorage"), 1),
    **dict.fromkeys(("HalfStorage", "BFloat16Storage", "ShortStorage"), 2),
    **dict.fromkeys(("FloatStorage", "IntStorage"), 4),
    **dict.fromkeys(("DoubleStorage", "LongStorage", "ComplexFloatStorage"), 8),
    "ComplexDoubleStorage": 16,
}
"""Of an element, by the name of torch's storage class."""


def check_checkpoint(file: IO[bytes], entries: dict[str, ZipInfo], name: str) -> None:
    """Raises ForeignFileRefused for a pickle that does anything but describe tensors, texts and numbers."""
    stream = memoryview(read_entry(file, entries["data.pkl"], name))

    def refer(value: Any) -> Opaque:
        """('storage', class, key, location, number of elements, view): the last is None or missing."""
        if type(value) is not tuple or len(value) not in (5, 6) or value[0] != "storage":
            raise Unexpected("it refers to something that is no storage")
        _, kind, key, location, count = value[:5]
        if type(kind) is not Name or not type(key) is type(location) is str or type(count) is not int:
            raise Unexpected("a storage in it has no class, key, location and number of elements")
        if kind.attribute not in _ITEM_BYTES:
            raise Unexpected(f"a storage in it is a {kind}; allowed: {', '.join(_ITEM_BYTES)}")
        entry = entries.get(f"data/{key}")
        if entry is None or entry.file_size != count * _ITEM_BYTES[kind.attribute]:
            raise Unexpected(f"it announces {count:,} elements of {kind} under {key[:50]!r}, which are not there")
        return Opaque("storage")

    machine = Machine(
        stream,
        name,
        Vocabulary(
            calls=_CALLS,
            mentions=_MENTIONS,
            fill=_fill,
            refer=refer,
            protocols=(2,),
            subject="checkpoint of tensors",
        ),
    )
    machine.load()
    if machine.position != len(stream):
        raise ForeignFileRefused(name, "its pickle goes on behind its end")


def _ordered(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    if arguments:
        raise Unexpected("it makes an OrderedDict out of arguments")
    return {}


def _counter(arguments: tuple[Any, ...]) -> Opaque:
    if len(arguments) != 1 or type(arguments[0]) is not dict:
        raise Unexpected("a Counter in it is not made of a dict")
    return Opaque("Counter")


def _set(arguments: tuple[Any, ...]) -> Opaque:
    if len(arguments) != 1 or type(arguments[0]) is not list:
        raise Unexpected("a set in it is not made of a list")
    for member in arguments[0]:
        check_key(member)
    return Opaque("set")


def _opaque(kind: str) -> Any:
    return lambda arguments: Opaque(kind)


def _fill(target: Any, state: Any) -> None:
    """Attributes of an OrderedDict: `_metadata` of a state dict."""
    if type(target) is not dict or type(state) is not dict:
        raise Unexpected("it sets the state of something that is no OrderedDict")


_REBUILT = ("_rebuild_parameter", "_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3")
_CALLS = {
    Name("collections", "OrderedDict"): _ordered,
    Name("collections", "Counter"): _counter,
    Name("builtins", "set"): _set,
    Name("__builtin__", "set"): _set,
    Name("_codecs", "encode"): _opaque("bytes"),
    Name("torch", "Size"): _opaque("size"),
    Name("torch", "device"): _opaque("device"),
    **{Name("torch._utils", name): _opaque("tensor") for name in _REBUILT},
}
_DTYPES = (
    *("float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2", "complex64", "complex128"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"),
)
_MENTIONS = frozenset(
    [Name(module, name) for name in _ITEM_BYTES for module in ("torch", "torch.cuda", "torch.storage")]
    + [Name("torch", name) for name in _DTYPES]
)
