"""Datasets behind S3: a zip file is read in ranges, a prefix file by file."""

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
    """A prefix of a bucket. The object store of `phema.shared.snapshots` implements it. Thread-safe.

    Its errors are not DatasetErrors: a retry may help if an S3 server does not answer, but not if a dataset is broken.
    """

    url: str
    reads_in_flight: int

    def list(self, prefix: str = "") -> Iterator[RemoteInfo]: ...

    def head(self, key: str) -> RemoteInfo | None: ...

    def read_range(self, key: str, start: int, length: int) -> bytes: ...


OpenRemote = Callable[[str], Remote]
"""Opens s3://bucket/prefix."""


class RemoteFiles:
    """All objects below a prefix, except hidden ones."""

    stamps_content = False

    def __init__(self, remote: Remote) -> None:
        self.where, self.reads_in_flight = remote.url, remote.reads_in_flight
        self._remote = remote
        found = sorted((info.key, info.size) for info in remote.list() if _is_visible(info.key))
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
        except ValueError as error:  # the store refuses the name as a key
            raise unreadable(self, position, f"{error}; a zip may hold any names") from error


class RemoteBlob:
    """One object that is read in ranges. Raises DatasetError if it does not exist."""

    def __init__(self, remote: Remote, key: str) -> None:
        self.where, self.reads_in_flight = f"{remote.url}/{key}", remote.reads_in_flight
        self._remote, self._key = remote, key
        info = remote.head(key)
        if info is None:
            raise DatasetError(f"dataset {self.where} does not exist")
        self.size = info.size

    def read_at(self, offset: int, length: int) -> bytes:
        return self._remote.read_range(self._key, offset, length)


def _is_visible(key: str) -> bool:
    return not key.endswith("/") and not any(part.startswith(".") for part in key.split("/"))
