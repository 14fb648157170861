"""What a published pickle may hold, as inert records, and the closed table of names that make them. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from phema.shared.snapshots.foreign.pickle_reader import Name, Unexpected, Vocabulary

STORAGE_DTYPES = {
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
}
"""Dtype of the elements, by the name of torch's storage class; weights and Fourier buffers are floating-point."""


@dataclass(frozen=True)
class Storage:
    """A torch storage, still serialised: a view of the file."""

    payload: memoryview


@dataclass(frozen=True)
class StoredTensor:
    """A strided view of a storage; `offset` and `strides` count elements. Checked when the storage is read."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass
class Module:
    """An object with an instance dictionary, under the name of its class; `state` stays empty until it is built."""

    class_name: str
    state: dict[str, Any] = field(default_factory=dict)


@dataclass
class Opaque:
    """Something that may be in a file and that nobody needs (an array of the encoder): its contents are dropped."""

    kind: str


@dataclass(frozen=True)
class StorageReference:
    """Which storage a torch serialisation is of: the payload of its persistent id."""

    dtype: str
    key: str
    num_elements: int


def _no_arguments(what: str, arguments: tuple[Any, ...]) -> None:
    if arguments:
        raise Unexpected(f"it makes {what} out of arguments")


def _mapping(arguments: tuple[Any, ...]) -> dict[str, Any]:
    _no_arguments("a mapping", arguments)
    return {}


def _container(name: str) -> Any:
    def build(arguments: tuple[Any, ...]) -> Module:
        _no_arguments(f"a {name}", arguments)
        return Module(name)

    return build


def _opaque(kind: str) -> Any:
    return lambda arguments: Opaque(kind)


def _persistent(arguments: tuple[Any, ...]) -> Module:
    """A class of the authors' own. The source of its program, `module_src`, is passed over."""
    meta = arguments[0] if len(arguments) == 1 else None
    if type(meta) is not dict:
        raise Unexpected("a persistent object in it is not made of one dict")
    kind, name, state = meta.get("type"), meta.get("class_name"), meta.get("state")
    if kind != "class" or not isinstance(name, str) or type(state) is not dict:
        raise Unexpected("a persistent object in it has no type 'class', class_name and state")
    return Module(name[:100], state)


def _parameter(arguments: tuple[Any, ...]) -> StoredTensor:
    if len(arguments) != 3 or type(arguments[0]) is not StoredTensor:
        raise Unexpected("a parameter in it is not made of a tensor")
    return arguments[0]


def _tensor(arguments: tuple[Any, ...]) -> StoredTensor:
    storage, offset, shape, strides = arguments[:4] if len(arguments) >= 4 else (None,) * 4
    if type(storage) is not Storage or type(offset) is not int or not _counts(shape) or not _counts(strides):
        raise Unexpected("a tensor in it is not made of storage, offset, size and stride")
    if offset < 0 or len(shape) != len(strides) or len(shape) > 8:
        raise Unexpected(f"a tensor in it has offset {offset}, {len(shape)} sizes and {len(strides)} strides")
    return StoredTensor(storage, offset, shape, strides)


def _counts(value: Any) -> bool:
    return type(value) is tuple and all(type(count) is int and 0 <= count < 2**48 for count in value)


def _storage(arguments: tuple[Any, ...]) -> Storage:
    if len(arguments) != 1 or type(arguments[0]) is not memoryview:
        raise Unexpected("a storage in it is not made of bytes")
    return Storage(arguments[0])


def _fill(target: Any, state: Any) -> None:
    if type(target) is Opaque:
        return
    if type(target) is dict and (state is None or state == {}):
        return
    if type(target) is not Module or target.state or type(state) is not dict:
        raise Unexpected(f"it sets the state of a {type(target).__name__}, which no published network does")
    target.state = state


def _reference(value: Any) -> StorageReference:
    """('storage', class, key, location, number of elements, view): the last is None or missing."""
    if type(value) is not tuple or len(value) not in (5, 6) or value[0] != "storage" or value[5:] not in ((), (None,)):
        raise Unexpected("a serialised storage refers to something that is none")
    _, kind, key, _, count = value[:5]
    if type(kind) is not Name or type(key) is not str or type(count) is not int or count < 0:
        raise Unexpected("a serialised storage has no class, key and number of elements")
    if kind.attribute not in STORAGE_DTYPES:
        raise Unexpected(f"a storage is a {kind}; allowed: {', '.join(STORAGE_DTYPES)}")
    return StorageReference(STORAGE_DTYPES[kind.attribute], key, count)


_CONTAINERS = {Name("torch.nn.modules.container", name): name for name in ("ModuleDict", "ModuleList")}
_ARRAYS = [Name(module, name) for module in ("numpy.core.multiarray", "numpy._core.multiarray")
           for name in ("_reconstruct", "scalar")]  # fmt: skip
_DTYPES = frozenset(
    Name("torch", name)
    for name in ("float16", "float32", "float64", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "bool")
)

PUBLISHED = Vocabulary(
    calls={
        Name("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent,
        Name("collections", "OrderedDict"): _mapping,
        Name("torch._utils", "_rebuild_parameter"): _parameter,
        Name("torch._utils", "_rebuild_tensor"): _tensor,
        Name("torch._utils", "_rebuild_tensor_v2"): _tensor,
        Name("torch.storage", "_load_from_bytes"): _storage,
        Name("numpy", "dtype"): _opaque("numpy dtype"),
        **{name: _opaque("numpy array") for name in _ARRAYS},
    },
    instances={
        Name("dnnlib.util", "EasyDict"): _mapping,
        **{name: _container(kind) for name, kind in _CONTAINERS.items()},
    },
    mentions=_DTYPES | {Name("numpy", "ndarray")},
    fill=_fill,
)
"""The stream of a published snapshot."""

SERIALISED_STORAGE = Vocabulary(
    mentions=frozenset(Name("torch", name) for name in STORAGE_DTYPES),
    protocols=(2,),
    refer=_reference,
)
"""The streams inside a torch serialisation of one storage."""
