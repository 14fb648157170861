"""Checks the pickle of a torch checkpoint before torch reads it with `weights_only`. Torch-free.

`weights_only` restricts names to an allowlist, too, but it does not bound time and memory: a key that is a tuple of
nested tuples can take years to hash, and a `bytearray` may have any size. The check here builds no such objects.
"""

from __future__ import annotations

from typing import IO, Any
from zipfile import ZipInfo

from phema.shared.snapshots.foreign.errors import ForeignFileRefused
from phema.shared.snapshots.foreign.pickle_reader import (
    Allowlist,
    GlobalName,
    PickleReader,
    UnexpectedContent,
    check_key,
)
from phema.shared.snapshots.foreign.pickle_records import Opaque
from phema.shared.snapshots.foreign.torch_zips import read_entry

_ITEM_BYTES = {
    **dict.fromkeys(("ByteStorage", "CharStorage", "BoolStorage", "UntypedStorage"), 1),
    **dict.fromkeys(("HalfStorage", "BFloat16Storage", "ShortStorage"), 2),
    **dict.fromkeys(("FloatStorage", "IntStorage"), 4),
    **dict.fromkeys(("DoubleStorage", "LongStorage", "ComplexFloatStorage"), 8),
    "ComplexDoubleStorage": 16,
}
"""Bytes of one element, by the name of torch's storage class."""


def check_checkpoint(file: IO[bytes], entries: dict[str, ZipInfo], name: str) -> None:
    """Raises ForeignFileRefused unless the pickle only describes tensors, texts and numbers."""
    stream = memoryview(read_entry(file, entries["data.pkl"], name))

    def resolve(value: Any) -> Opaque:
        """`value` is ('storage', class, key, location, number of elements, view); view is None or missing."""
        if type(value) is not tuple or len(value) not in (5, 6) or value[0] != "storage":
            raise UnexpectedContent("it refers to something that is not a storage")
        _, kind, key, location, count = value[:5]
        if type(kind) is not GlobalName or not type(key) is type(location) is str or type(count) is not int:
            raise UnexpectedContent("a storage in it has no class, key, location and number of elements")
        if kind.attribute not in _ITEM_BYTES:
            raise UnexpectedContent(f"a storage in it is a {kind}; allowed: {', '.join(_ITEM_BYTES)}")
        entry = entries.get(f"data/{key}")
        if entry is None or entry.file_size != count * _ITEM_BYTES[kind.attribute]:
            raise UnexpectedContent(
                f"it announces {count:,} elements of {kind} under {key[:50]!r}, which the file does not contain"
            )
        return Opaque("storage")

    reader = PickleReader(
        stream,
        name,
        Allowlist(
            calls=_CALLS,
            constants=_CONSTANTS,
            set_state=_set_state,
            resolve=resolve,
            protocols=(2,),
            subject="checkpoint of tensors",
        ),
    )
    reader.load()
    if reader.position != len(stream):
        raise ForeignFileRefused(name, "bytes follow the end of its pickle")


def _ordered(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    if arguments:
        raise UnexpectedContent("it constructs an OrderedDict with arguments")
    return {}


def _counter(arguments: tuple[Any, ...]) -> Opaque:
    if len(arguments) != 1 or type(arguments[0]) is not dict:
        raise UnexpectedContent("a Counter in it is not made from a dict")
    return Opaque("Counter")


def _set(arguments: tuple[Any, ...]) -> Opaque:
    if len(arguments) != 1 or type(arguments[0]) is not list:
        raise UnexpectedContent("a set in it is not made from a list")
    for member in arguments[0]:
        check_key(member)
    return Opaque("set")


def _opaque(kind: str) -> Any:
    return lambda arguments: Opaque(kind)


def _set_state(target: Any, state: Any) -> None:
    """Accept the attributes of an OrderedDict, such as `_metadata` of a state dict."""
    if type(target) is not dict or type(state) is not dict:
        raise UnexpectedContent("it sets the state of something that is not an OrderedDict")


_REBUILT = ("_rebuild_parameter", "_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3")
_CALLS = {
    GlobalName("collections", "OrderedDict"): _ordered,
    GlobalName("collections", "Counter"): _counter,
    GlobalName("builtins", "set"): _set,
    GlobalName("__builtin__", "set"): _set,
    GlobalName("_codecs", "encode"): _opaque("bytes"),
    GlobalName("torch", "Size"): _opaque("size"),
    GlobalName("torch", "device"): _opaque("device"),
    **{GlobalName("torch._utils", name): _opaque("tensor") for name in _REBUILT},
}
_DTYPES = (
    *("float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2", "complex64", "complex128"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"),
)
_CONSTANTS = frozenset(
    [GlobalName(module, name) for name in _ITEM_BYTES for module in ("torch", "torch.cuda", "torch.storage")]
    + [GlobalName("torch", name) for name in _DTYPES]
)
