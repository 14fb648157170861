"""The object store: one small interface over a local folder and S3. Torch-free.

Objects are write-once. Correctness rests on unique keys (they contain a hash or a token), an upload that is verified,
and only then a row in the catalog; conditional requests are extra defence where a server honours them.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import unquote, urlsplit

from phema.shared.snapshots.errors import CorruptObject, ObjectMissing

Data = bytes | bytearray | memoryview


@dataclass(frozen=True)
class ObjectInfo:
    """One object: its key below the store's URL, its size in bytes and, where the store knows it, its SHA-256 (hex)."""

    key: str
    size: int
    sha256: str | None = None


@dataclass(frozen=True)
class S3Options:
    """How to reach S3. Unset credentials mean boto3's own chain; an unset endpoint means AWS."""

    endpoint_url: str | None = None
    public_endpoint_url: str | None = None
    """Endpoint as users reach it, for presigned URLs; unset is `endpoint_url`."""
    region: str = "us-east-1"
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)


class ObjectWriter(Protocol):
    """An object being written. Leaving the block commits it atomically; an exception leaves nothing behind."""

    def write(self, data: Data) -> None:
        """Append bytes. Raises what `ObjectStore.put` raises."""

    @property
    def info(self) -> ObjectInfo:
        """The committed object, SHA-256 included. Only after the block was left without an exception."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class ResumableWriter(ObjectWriter, Protocol):
    """An object whose bytes follow from its key, so that a later writer can go on where a killed one ended.

    Leaving the block with an exception keeps what is durable, unless the store is full; so does the end of the process.
    """

    @property
    def position(self) -> int:
        """Bytes that were durable when the block was entered: `write` goes on behind them."""


class ObjectStore(Protocol):
    """Bytes by key. Thread-safe; many reads may be in flight. Every method raises SnapshotError's children only.

    Keys are relative paths of letters, digits and `-_.=+` with `/` between their parts (ValueError otherwise).
    """

    url: str

    writer_memory_bytes: int
    """Memory one open writer holds."""
    read_bytes: int
    """Size of a ranged read beyond which this store gets no faster."""
    reads_in_flight: int
    """Ranged reads at once beyond which this store gets no faster."""
    read_memory_bytes: int
    """Memory that one read holds beside the caller's buffer."""

    def check(self) -> None:
        """Raise BucketMissing, StoreDenied or StoreUnreachable unless the store can be used. Cheap."""

    def put(self, key: str, data: Data) -> ObjectInfo:
        """Store bytes durably and verify them: all or nothing, whenever the process dies.

        An object with the same bytes is success; other bytes raise ObjectExists. Also StoreFull, StoreDenied,
        StoreUnreachable, BucketMissing.
        """

    def writer(self, key: str) -> ObjectWriter:
        """The same for bytes that come in pieces: `with store.writer(key) as w: w.write(...)`, then `w.info`."""

    def resumable(self, key: str) -> ResumableWriter:
        """A writer that goes on with what an earlier one of the same key left unfinished.

        Only for keys that name all that their bytes depend on. Of several writers of a key, as when one was frozen and
        given up for dead, at least the last to begin can finish; another may meet StoreUnreachable.
        """

    def forget(self, key: str) -> None:
        """Remove what an unfinished resumable writer of the key left; nothing there is success."""

    def get(self, key: str) -> bytes:
        """The whole object. Raises ObjectMissing."""

    def read_into(self, key: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` from `start` on. Raises ObjectMissing, and CorruptObject when the object ends first."""

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes from `start` on; errors as `read_into`."""

    def peek(self, key: str, length: int) -> tuple[ObjectInfo, bytes]:
        """What `head` knows and the first `length` bytes (fewer when the object is shorter), in one request.

        Raises ObjectMissing.
        """

    def head(self, key: str) -> ObjectInfo | None:
        """Size (and hash, where the store keeps it) of an object, or None."""

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Every object whose key starts with `prefix`, in the order of the keys' bytes."""

    def delete(self, key: str) -> None:
        """Remove an object; one that does not exist is success."""

    def presigned_get(self, key: str, *, filename: str, expires_s: int) -> str | None:
        """A URL from which anybody can download the object under `filename` for a while; None for a local folder."""

    def presigned_put(self, key: str, *, expires_s: int) -> str | None:
        """A URL to which anybody can PUT the object for a while; None for a local folder."""

    def local_path(self, key: str) -> Path | None:
        """The object's file, for a local folder; None for S3."""


def open_store(url: str, *, s3: S3Options | None = None) -> ObjectStore:
    """The store behind `file:///folder` or `s3://bucket[/prefix]`. Touches nothing yet: `check()` does.

    Raises ValueError when the URL or an endpoint of `s3` is malformed.
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/"):
        from phema.shared.snapshots.stores.local_folder import LocalStore

        return LocalStore(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc:
        from phema.shared.snapshots.stores.s3 import S3Store

        return S3Store(parts.netloc, parts.path.strip("/"), s3 or S3Options())
    raise ValueError(f"store url {url!r} must be file:///folder or s3://bucket/prefix")


def filled(length: int, fill: Callable[[memoryview], None]) -> bytes:
    """Bytes that `fill` has written into, without the second copy that `bytes(bytearray)` makes."""
    if not length:
        return b""
    file = io.BytesIO()
    file.seek(length - 1)
    file.write(b"\0")
    with file.getbuffer() as view:
        fill(view)
    return file.getvalue()


Seen = Callable[[int, memoryview], object]
"""Bytes of an object and the offset of their first; valid until it returns."""


def digest(
    store: ObjectStore, key: str, *, block_bytes: int = 2**22, seen: Seen = lambda start, block: None
) -> ObjectInfo:
    """Size and SHA-256 of an object, computed by reading all of it in bounded memory. Raises ObjectMissing.

    `seen` is called with every block, in order: what else the bytes tell needs no second pass.
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
        seen(start, view)
    return ObjectInfo(key, info.size, sha256.hexdigest())


def verify(store: ObjectStore, key: str, *, size: int, sha256: str) -> None:
    """Read an object and raise CorruptObject unless it is what was recorded of it. Raises ObjectMissing."""
    found = digest(store, key)
    if found.size != size:
        raise CorruptObject(f"object {key} in {store.url} holds {found.size} bytes, {size} were written")
    if found.sha256 != sha256:
        raise CorruptObject(f"object {key} in {store.url} has SHA-256 {found.sha256}, {sha256} was written")
