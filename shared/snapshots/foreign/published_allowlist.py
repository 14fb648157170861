"""What the pickle of a published network may contain, and the inert object that is built for each. Torch-free."""

from __future__ import annotations

from typing import Any

from phema.shared.snapshots.foreign.pickle_reader import Allowlist, GlobalName, UnexpectedContent
from phema.shared.snapshots.foreign.pickle_records import Module, Opaque, Storage, StorageReference, StoredTensor

STORAGE_DTYPES = {
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
}
"""Dtype of the elements, by the name of torch's storage class. Weights and Fourier buffers are floating-point."""


def _no_arguments(what: str, arguments: tuple[Any, ...]) -> None:
    if arguments:
        raise UnexpectedContent(f"it constructs {what} with arguments")


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
    """An object of one of the authors' classes. The source code in the file, `module_src`, is ignored."""
    meta = arguments[0] if len(arguments) == 1 else None
    if type(meta) is not dict:
        raise UnexpectedContent("a persistent object in it is not made of one dict")
    kind, name, state = meta.get("type"), meta.get("class_name"), meta.get("state")
    if kind != "class" or not isinstance(name, str) or type(state) is not dict:
        raise UnexpectedContent("a persistent object in it has no type 'class', class_name and state")
    return Module(name[:100], state)


def _parameter(arguments: tuple[Any, ...]) -> StoredTensor:
    if len(arguments) != 3 or type(arguments[0]) is not StoredTensor:
        raise UnexpectedContent("a parameter in it is not made of a tensor")
    return arguments[0]


def _tensor(arguments: tuple[Any, ...]) -> StoredTensor:
    storage, offset, shape, strides = arguments[:4] if len(arguments) >= 4 else (None,) * 4
    if type(storage) is not Storage or type(offset) is not int or not _counts(shape) or not _counts(strides):
        raise UnexpectedContent("a tensor in it is not made of storage, offset, size and stride")
    if offset < 0 or len(shape) != len(strides) or len(shape) > 8:
        raise UnexpectedContent(f"a tensor in it has offset {offset}, {len(shape)} sizes and {len(strides)} strides")
    return StoredTensor(storage, offset, shape, strides)


def _counts(value: Any) -> bool:
    return type(value) is tuple and all(type(count) is int and 0 <= count < 2**48 for count in value)


def _storage(arguments: tuple[Any, ...]) -> Storage:
    if len(arguments) != 1 or type(arguments[0]) is not memoryview:
        raise UnexpectedContent("a storage in it is not made of bytes")
    return Storage(arguments[0])


def _set_state(target: Any, state: Any) -> None:
    if type(target) is Opaque:
        return
    if type(target) is dict and (state is None or state == {}):
        return
    if type(target) is not Module or target.state or type(state) is not dict:
        raise UnexpectedContent(f"it sets the state of a {type(target).__name__}, which no published network does")
    target.state = state


def _reference(value: Any) -> StorageReference:
    """`value` is ('storage', class, key, location, number of elements, view); view is None or missing."""
    if type(value) is not tuple or len(value) not in (5, 6) or value[0] != "storage" or value[5:] not in ((), (None,)):
        raise UnexpectedContent("a serialised storage refers to something that is not a storage")
    _, kind, key, _, count = value[:5]
    if type(kind) is not GlobalName or type(key) is not str or type(count) is not int or count < 0:
        raise UnexpectedContent("a serialised storage has no class, key and number of elements")
    if kind.attribute not in STORAGE_DTYPES:
        raise UnexpectedContent(f"a storage is a {kind}; allowed: {', '.join(STORAGE_DTYPES)}")
    return StorageReference(STORAGE_DTYPES[kind.attribute], key, count)


_CONTAINERS = {GlobalName("torch.nn.modules.container", name): name for name in ("ModuleDict", "ModuleList")}
_ARRAYS = [GlobalName(module, name) for module in ("numpy.core.multiarray", "numpy._core.multiarray")
           for name in ("_reconstruct", "scalar")]  # fmt: skip
_DTYPES = frozenset(
    GlobalName("torch", name)
    for name in ("float16", "float32", "float64", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "bool")
)

PUBLISHED = Allowlist(
    calls={
        GlobalName("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent,
        GlobalName("collections", "OrderedDict"): _mapping,
        GlobalName("torch._utils", "_rebuild_parameter"): _parameter,
        GlobalName("torch._utils", "_rebuild_tensor"): _tensor,
        GlobalName("torch._utils", "_rebuild_tensor_v2"): _tensor,
        GlobalName("torch.storage", "_load_from_bytes"): _storage,
        GlobalName("numpy", "dtype"): _opaque("numpy dtype"),
        **{name: _opaque("numpy array") for name in _ARRAYS},
    },
    instances={
        GlobalName("dnnlib.util", "EasyDict"): _mapping,
        **{name: _container(kind) for name, kind in _CONTAINERS.items()},
    },
    constants=_DTYPES | {GlobalName("numpy", "ndarray")},
    set_state=_set_state,
)
"""For the stream of a published snapshot."""

SERIALISED_STORAGE = Allowlist(
    constants=frozenset(GlobalName("torch", name) for name in STORAGE_DTYPES),
    protocols=(2,),
    resolve=_reference,
)
"""For the streams in torch's serialisation of one storage."""
