"""Reads `.metadata` of a `torch.distributed.checkpoint` folder: which tensors it holds, and where their parts are.

The file is a pickle of dataclasses. The restricted reader builds inert records of them. Torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from phema.shared.snapshots.foreign.errors import ForeignFileRefused
from phema.shared.snapshots.foreign.pickle_reader import Allowlist, GlobalName, PickleReader, UnexpectedContent
from phema.shared.snapshots.foreign.pickle_records import Opaque

METADATA = ".metadata"
"""Name of the file that makes a folder such a checkpoint."""
MAX_METADATA_BYTES = 2**30
_MAX_OPERATIONS = 50_000_000
"""About 50 for each part of a tensor: a thousand tensors, their two moments and 256 processes need 40 million."""
_MAX_DIMENSIONS = 16
_MAX_SIZE = 2**53
_HOME = "torch.distributed.checkpoint.metadata"
_DTYPES = ("float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")


@dataclass(frozen=True)
class StoredPart:
    """A rectangular part of a tensor: where it begins in the tensor, its shape, and its bytes in a file."""

    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    file: str
    start: int
    length: int


@dataclass(frozen=True)
class DistributedTensor:
    """A tensor of the checkpoint. Together its parts have as many elements as the tensor."""

    dtype: str
    shape: tuple[int, ...]
    parts: tuple[StoredPart, ...]


@dataclass(frozen=True)
class DistributedCheckpoint:
    """What a folder holds. Other values than tensors are left out."""

    tensors: Mapping[str, DistributedTensor]
    """By full name: the keys of all nested dicts, joined with dots."""
    groups: Mapping[str, str]
    """For each full name the key of the outermost dict, or "" for a tensor that lies in none."""


def read_metadata(folder: Path) -> DistributedCheckpoint:
    """The tensors of the checkpoint in `folder`. Raises ForeignFileRefused, or OSError if there is none."""
    path = folder / METADATA
    name = str(path)
    if path.stat().st_size > MAX_METADATA_BYTES:
        raise ForeignFileRefused(name, f"it has more than {MAX_METADATA_BYTES:,} bytes")
    stream = memoryview(path.read_bytes())
    reader = PickleReader(stream, name, _ALLOWLIST)
    content = reader.load()
    if reader.position != len(stream):
        raise ForeignFileRefused(name, "bytes follow the end of its pickle")
    try:
        return _checkpoint(_record(content, "Metadata"))
    except UnexpectedContent as error:
        raise ForeignFileRefused(name, str(error)) from None


class _Record:
    """An object of the stream: its class, and its fields once the stream has set them. Compared by identity."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.fields: dict[str, Any] = {}


@dataclass(frozen=True)
class _Size:
    values: tuple[int, ...]


def _checkpoint(fields: Mapping[str, Any]) -> DistributedCheckpoint:
    places: dict[tuple[str, tuple[int, ...]], Mapping[str, Any]] = {}
    for key, value in _dict(fields, "storage_data").items():
        index = _record(key, "MetadataIndex")
        offset = index.get("offset")
        if offset is not None:
            places[_text(index, "fqn"), _size(offset)] = _record(value, "_StorageInfo")
    tensors = {}
    for name, value in _dict(fields, "state_dict_metadata").items():
        if type(name) is not str or not isinstance(value, _Record):
            raise UnexpectedContent("its list of tensors has an entry that is none")
        if value.kind == "TensorStorageMetadata":
            tensors[name] = _tensor(name, value.fields, places)
    nested = fields.get("planner_data")
    nested = nested if type(nested) is dict else {}
    return DistributedCheckpoint(tensors, {name: _group(nested.get(name)) for name in tensors})


def _tensor(
    name: str, fields: Mapping[str, Any], places: Mapping[tuple[str, tuple[int, ...]], Mapping[str, Any]]
) -> DistributedTensor:
    properties, chunks = _record(fields.get("properties"), "TensorProperties"), fields.get("chunks")
    dtype, shape = properties.get("dtype"), _size(fields.get("size"))
    if type(dtype) is not GlobalName or dtype.attribute not in _DTYPES:
        raise UnexpectedContent(f"its tensor {name[:200]!r} is {dtype}; allowed: {', '.join(_DTYPES)}")
    if properties.get("layout") != Opaque("strided") or type(chunks) is not list:
        raise UnexpectedContent(f"its tensor {name[:200]!r} is not dense")
    parts = []
    for chunk in chunks:
        described = _record(chunk, "ChunkStorageMetadata")
        offsets, extent = _size(described.get("offsets")), _size(described.get("sizes"))
        inside = len(offsets) == len(extent) == len(shape) and all(
            start + size <= whole for start, size, whole in zip(offsets, extent, shape, strict=True)
        )
        place = places.get((name, offsets))
        if not inside or place is None:
            raise UnexpectedContent(f"a part of its tensor {name[:200]!r} lies outside the tensor, or is not stored")
        if place.get("transform_descriptors"):
            raise UnexpectedContent(f"its tensor {name[:200]!r} is compressed; save it without extensions")
        parts.append(
            StoredPart(offsets, extent, _file(place), _count(place.get("offset")), _count(place.get("length")))
        )
    if sum(prod(part.shape) for part in parts) != prod(shape):
        raise UnexpectedContent(f"the parts of its tensor {name[:200]!r} are not the whole of it")
    return DistributedTensor(dtype.attribute, shape, tuple(parts))


def _group(path: Any) -> str:
    """The outermost key of a path through nested dicts; "" for a path of one key."""
    return path[0] if type(path) is tuple and len(path) > 1 and type(path[0]) is str else ""


def _record(value: Any, kind: str) -> Mapping[str, Any]:
    if type(value) is not _Record or value.kind != kind:
        raise UnexpectedContent(f"it has no {kind} where there should be one")
    return value.fields


def _dict(fields: Mapping[str, Any], name: str) -> dict[Any, Any]:
    value = fields.get(name)
    if type(value) is not dict:
        raise UnexpectedContent(f"its {name} is no dict")
    return value


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if type(value) is not str:
        raise UnexpectedContent(f"its {name} is no text")
    return value


def _file(place: Mapping[str, Any]) -> str:
    """The name of a file in the folder itself."""
    name = _text(place, "relative_path")
    if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise UnexpectedContent(f"it names a file {name[:100]!r} outside its folder")
    return name


def _size(value: Any) -> tuple[int, ...]:
    if type(value) is not _Size:
        raise UnexpectedContent("it has no torch.Size where there should be one")
    return value.values


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _MAX_SIZE:
        raise UnexpectedContent("a number in it is no size or position")
    return value


def _new(kind: str) -> Any:
    def build(arguments: tuple[Any, ...]) -> _Record:
        if arguments:
            raise UnexpectedContent(f"it constructs a {kind} with arguments")
        return _Record(kind)

    return build


def _new_size(arguments: tuple[Any, ...]) -> _Size:
    values = arguments[0] if len(arguments) == 1 else None
    if type(values) is not tuple or len(values) > _MAX_DIMENSIONS:
        raise UnexpectedContent("a torch.Size in it is not made from a tuple")
    return _Size(tuple(_count(value) for value in values))


def _layout(arguments: tuple[Any, ...]) -> Opaque:
    return Opaque("strided" if arguments == ("torch.strided",) else "other layout")


def _set_state(target: Any, state: Any) -> None:
    if type(target) is not _Record:
        raise UnexpectedContent("it sets the state of something that has none")
    if target.kind == "TensorProperties" and type(state) is tuple and len(state) == len(_PROPERTIES):
        state = dict(zip(_PROPERTIES, state, strict=True))
    if type(state) is not dict or target.fields:
        raise UnexpectedContent(f"the state of a {target.kind} in it is no dict, or is set twice")
    target.fields = state


_PROPERTIES = ("dtype", "layout", "requires_grad", "memory_format", "pin_memory")
_RECORDS = (
    *((_HOME, kind) for kind in ("Metadata", "MetadataIndex", "StorageMeta", "TensorStorageMetadata")),
    *((_HOME, kind) for kind in ("BytesStorageMetadata", "ChunkStorageMetadata", "TensorProperties")),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
)
_PATHS = [GlobalName(m, c) for m in ("pathlib", "pathlib._local") for c in ("PosixPath", "WindowsPath")]
_ALLOWLIST = Allowlist(
    instances={GlobalName(home, kind): _new(kind) for home, kind in _RECORDS},
    calls={
        GlobalName("torch", "Size"): _new_size,
        GlobalName("torch.serialization", "_get_layout"): _layout,
        GlobalName(_HOME, "_MEM_FORMAT_ENCODING"): lambda arguments: Opaque("memory format"),
        **dict.fromkeys(_PATHS, lambda arguments: Opaque("path")),
    },
    constants=frozenset(
        GlobalName("torch", name) for name in (*_DTYPES, "uint16", "uint32", "uint64", "complex64", "complex128")
    ),
    set_state=_set_state,
    key_types=frozenset([_Record]),
    max_operations=_MAX_OPERATIONS,
    subject="distributed checkpoint",
)
