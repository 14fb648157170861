"""The interface of an object store, which a local folder and S3 implement. Torch-free.

Objects are write-once. An object becomes part of phema in three steps: a unique key (it contains a hash or a random
token), an upload that is verified, and only then a row in the catalog. Conditional requests protect in addition, where
a server supports them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from phema.shared.snapshots.stores.hashed_bytes import Data, HashedBytes

ABANDONED_DAYS = 7
"""Age in days at which an unfinished object is removed: no process continues it any more."""


@dataclass(frozen=True)
class ObjectInfo:
    """One object: its key below the store's URL, its size in bytes and, if the store knows it, its SHA-256 (hex)."""

    key: str
    size: int
    sha256: str | None = None


class ObjectWriter(Protocol):
    """An object being written. Leaving the block commits it atomically; an exception leaves nothing behind."""

    def write(self, data: Data) -> None:
        """Append bytes. Raises the errors of `ObjectStore.put`."""

    @property
    def info(self) -> ObjectInfo:
        """The committed object with its SHA-256. Available only after the block was left without an exception."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class ResumableWriter(ObjectWriter, Protocol):
    """A writer that continues an unfinished write of the same key. The key must determine the bytes.

    Leaving the block with an exception keeps the bytes that are durable, unless the store is full. The end of the
    process keeps them, too.
    """

    @property
    def position(self) -> int:
        """Number of bytes that were durable when the block was entered. `write` appends after them."""


class ObjectReader(Protocol):
    """The reads that verification needs."""

    url: str

    def head(self, key: str) -> ObjectInfo | None:
        """Size of an object (and its SHA-256, if the store keeps it), or None if it does not exist."""

    def read_into(self, key: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes from offset `start`.

        Raises ObjectMissing, and CorruptObject if the object ends before the buffer is full.
        """


class RangedReader(ObjectReader, Protocol):
    """The reads that combining snapshots needs. Thread-safe; many reads may run at once."""

    read_bytes: int
    """Size of a ranged read above which this store gets no faster."""
    reads_in_flight: int
    """Number of concurrent ranged reads above which this store gets no faster."""
    read_memory_bytes: int
    """Memory that one read holds in addition to the caller's buffer."""

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes from offset `start`. Raises the errors of `read_into`."""

    def peek(self, key: str, length: int) -> tuple[ObjectInfo, bytes]:
        """The result of `head` and the first `length` bytes (fewer if the object is shorter), in one request.

        Raises ObjectMissing.
        """


class ObjectStore(RangedReader, Protocol):
    """Bytes by key. Thread-safe; many reads may run at once. Every method raises subclasses of SnapshotError only.

    Keys are relative paths of letters, digits and `-_.=+`, with `/` between their parts (ValueError otherwise).
    """

    writer_memory_bytes: int
    """Memory that one open writer holds."""

    def check(self) -> None:
        """Raise BucketMissing, StoreDenied or StoreUnreachable unless the store can be used. Cheap."""

    def put(self, key: str, data: Data | HashedBytes) -> ObjectInfo:
        """Store bytes durably and verify them. A killed process leaves the whole object or nothing.

        `HashedBytes` are not hashed again. Succeeds if the key already holds the same bytes. Raises ObjectExists if
        the key holds other bytes, and StoreFull, StoreDenied, StoreUnreachable or BucketMissing.
        """

    def writer(self, key: str) -> ObjectWriter:
        """Like `put`, for bytes that come in pieces: `with store.writer(key) as w: w.write(...)`, then `w.info`."""

    def resumable(self, key: str) -> ResumableWriter:
        """A writer that continues what an earlier writer of the same key left unfinished.

        The key must name everything that the bytes depend on. Several writers of one key may be open at once, for
        example if one process was frozen and its job was given to another. Then at least the writer that was opened
        last can finish; the others may raise StoreUnreachable.
        """

    def forget(self, key: str) -> None:
        """Remove what unfinished resumable writers of the key left. Succeeds if there is nothing.

        Resumable writers that are open cannot publish their object afterwards: they raise StoreUnreachable. To abandon
        an object, call `forget`, then `delete`.
        """

    def sweep(self, older_than_s: float = ABANDONED_DAYS * 86_400) -> int:
        """Remove what writers left unfinished that began so long ago. Returns how many unfinished objects there were.

        Without this, a process that is killed while it writes leaves bytes that no list of objects shows.
        """

    def get(self, key: str) -> bytes:
        """The whole object. Raises ObjectMissing."""

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Every object whose key starts with `prefix`, sorted by the bytes of the key."""

    def delete(self, key: str) -> None:
        """Remove an object. Succeeds if it does not exist."""

    def presigned_get(self, key: str, *, filename: str, expires_s: int) -> str | None:
        """A URL that downloads the object under `filename` without credentials; None for a local folder."""

    def presigned_put(self, key: str, *, expires_s: int) -> str | None:
        """A URL that accepts a PUT of the object without credentials; None for a local folder."""

    def local_path(self, key: str) -> Path | None:
        """Path of the object's file in a local folder; None for S3."""
