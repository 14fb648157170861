"""Datasets behind S3: a zip is read in ranges, a prefix file by file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from phema.shared.datasets.errors import DatasetError
from phema.shared.datasets.files.files import check_size, unreadable


class RemoteInfo(Protocol):
    @property
    def key(self) -> str: ...

    @property
    def size(self) -> int: ...


class Remote(Protocol):
    """A prefix of a bucket; the object store of `phema.shared.snapshots` is one. Thread-safe.

    Its errors are its own: an S3 server that does not answer is worth another try, a broken dataset is not.
    """

    url: str
    reads_in_flight: int

    def list(self, prefix: str = "") -> Iterator[RemoteInfo]: ...

    def head(self, key: str) -> RemoteInfo | None: ...

    def read_range(self, key: str, start: int, length: int) -> bytes: ...


OpenRemote = Callable[[str], Remote]
"""From s3://bucket/prefix to what lies below it."""


class RemoteFiles:
    """All objects below a prefix; hidden ones are passed over."""

    stamps_content = False

    def __init__(self, remote: Remote) -> None:
        self.where, self.reads_in_flight = remote.url, remote.reads_in_flight
        self._remote = remote
        found = sorted((info.key, info.size) for info in remote.list() if _counts(info.key))
        self.names: Sequence[str] = [name for name, _ in found]
        self._sizes = [size for _, size in found]

    def size(self, position: int) -> int:
        return self._sizes[position]

    def stamp(self, position: int) -> str:
        return str(self._sizes[position])

    def read(self, position: int) -> bytes:
        check_size(self, position)
        try:
            return self._remote.read_range(self.names[position], 0, self._sizes[position])
        except ValueError as error:  # a name that the store takes for no key
            raise unreadable(self, position, f"{error}; a zip may hold any names") from error


class RemoteBlob:
    """One object, read in ranges."""

    def __init__(self, remote: Remote, key: str) -> None:
        self.where, self.reads_in_flight = f"{remote.url}/{key}", remote.reads_in_flight
        self._remote, self._key = remote, key
        info = remote.head(key)
        if info is None:
            raise DatasetError(f"dataset {self.where} does not exist")
        self.size = info.size

    def read_at(self, offset: int, length: int) -> bytes:
        return self._remote.read_range(self._key, offset, length)


def _counts(key: str) -> bool:
    return not key.endswith("/") and not any(part.startswith(".") for part in key.split("/"))
