"""Checks of stored bytes: reads an object and computes its size and SHA-256. Torch-free."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from phema.shared.snapshots.errors import CorruptObject, ObjectMissing
from phema.shared.snapshots.stores.interface import ObjectInfo, ObjectReader

OnBlock = Callable[[int, memoryview], object]
"""Called with the offset of a block and its bytes. The bytes are valid only until the call returns."""


def digest(
    store: ObjectReader, key: str, *, block_bytes: int = 2**22, on_block: OnBlock = lambda start, block: None
) -> ObjectInfo:
    """Size and SHA-256 of an object. Reads all of the object, with one block of memory. Raises ObjectMissing.

    `on_block` is called with every block in order, so that other facts about the bytes need no second read.
    """
    info = store.head(key)
    if info is None:
        raise ObjectMissing(f"object {key} does not exist in {store.url}")
    buffer = memoryview(bytearray(min(block_bytes, info.size)))
    sha256 = hashlib.sha256()
    for start in range(0, info.size, block_bytes):
        view = buffer[: min(block_bytes, info.size - start)]
        store.read_into(key, start, view)
        sha256.update(view)
        on_block(start, view)
    return ObjectInfo(key, info.size, sha256.hexdigest())


def verify(store: ObjectReader, key: str, *, size: int, sha256: str) -> None:
    """Read an object. Raises CorruptObject unless size and SHA-256 are as recorded, and ObjectMissing."""
    found = digest(store, key)
    if found.size != size:
        raise CorruptObject(f"object {key} in {store.url} holds {found.size} bytes, {size} were written")
    check_recorded(store, key, str(found.sha256), sha256)


def check_recorded(store: ObjectReader, key: str, found: str, recorded: str) -> None:
    """Raise CorruptObject unless the SHA-256 of the object's bytes is the recorded one."""
    if found != recorded:
        raise CorruptObject(f"object {key} in {store.url} is damaged: it has SHA-256 {found}, {recorded} was written")
