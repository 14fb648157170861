"""The inert objects that the pickle reader builds instead of the objects that a stream asks for. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Storage:
    """A torch storage, still serialised: a view of the file."""

    payload: memoryview


@dataclass(frozen=True)
class StoredTensor:
    """A strided view of a storage. `offset` and `strides` count elements; they are checked when the storage is read."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass
class Module:
    """An object with attributes: the name of its class, and its attributes once the stream has set them."""

    class_name: str
    state: dict[str, Any] = field(default_factory=dict)


@dataclass
class Opaque:
    """An object that a file may contain and that phema does not need. Its contents are dropped."""

    kind: str


@dataclass(frozen=True)
class StorageReference:
    """The persistent id in the serialisation of a storage: which storage it is, and its size."""

    dtype: str
    key: str
    num_elements: int
