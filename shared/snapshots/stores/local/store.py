"""The object store in a local folder."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from phema.shared.snapshots.errors import CorruptObject
from phema.shared.snapshots.stores.filled_bytes import filled
from phema.shared.snapshots.stores.hashed_bytes import Data, HashedBytes, hashed
from phema.shared.snapshots.stores.interface import ABANDONED_DAYS, ObjectInfo
from phema.shared.snapshots.stores.local.folder import StoreFolder
from phema.shared.snapshots.stores.local.resumable import ResumableLocalWriter, forget, remove_abandoned
from phema.shared.snapshots.stores.local.writer import LocalWriter
from phema.shared.snapshots.stores.object_keys import check_key


class LocalStore:
    """A folder, created by the first `check` or write."""

    writer_memory_bytes = 0
    read_bytes = 2**19
    reads_in_flight = 4
    read_memory_bytes = 0

    def __init__(self, root: Path) -> None:
        self.folder = StoreFolder(root)
        self.url = self.folder.url

    @property
    def root(self) -> Path:
        return self.folder.root

    def check(self) -> None:
        with self.folder.errors("be opened"):
            self.root.mkdir(parents=True, exist_ok=True)
            if not os.access(self.root, os.R_OK | os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def put(self, key: str, data: Data | HashedBytes) -> ObjectInfo:
        content = hashed(data)
        with LocalWriter(self.folder, key, known_sha256=content.sha256) as writer:
            writer.write(content.view)
        return writer.info

    def writer(self, key: str) -> LocalWriter:
        return LocalWriter(self.folder, key)

    def resumable(self, key: str) -> ResumableLocalWriter:
        return ResumableLocalWriter(self.folder, key)

    def forget(self, key: str) -> None:
        with self.folder.errors(f"forget {key}"):
            forget(self.folder, check_key(key))

    def sweep(self, older_than_s: float = ABANDONED_DAYS * 86_400) -> int:
        with self.folder.errors("remove unfinished objects"):
            return remove_abandoned(self.folder.partial, older_than_s)

    def get(self, key: str) -> bytes:
        with self.folder.errors(f"read {key}", key):
            return self.local_path(key).read_bytes()

    def read_into(self, key: str, start: int, buffer: memoryview) -> None:
        view = buffer.cast("B")
        with self.folder.errors(f"read {key}", key):
            descriptor = os.open(self.local_path(key), os.O_RDONLY)
            try:
                done = 0
                while done < len(view):
                    count = os.preadv(descriptor, [view[done:]], start + done)
                    if count == 0:
                        size = os.fstat(descriptor).st_size
                        raise CorruptObject(
                            f"object {key} in {self.url} holds {size} bytes; "
                            f"bytes {start} to {start + len(view)} were expected"
                        )
                    done += count
            finally:
                os.close(descriptor)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        return filled(length, lambda view: self.read_into(key, start, view))

    def peek(self, key: str, length: int) -> tuple[ObjectInfo, bytes]:
        with self.folder.errors(f"read {key}", key), self.local_path(key).open("rb", buffering=0) as file:
            return ObjectInfo(key, os.fstat(file.fileno()).st_size), file.read(length)

    def head(self, key: str) -> ObjectInfo | None:
        with self.folder.errors(f"look up {key}"):
            try:
                return ObjectInfo(key, self.local_path(key).stat().st_size)
            except (FileNotFoundError, NotADirectoryError):
                return None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        folder, _, _ = prefix.rpartition("/")
        with self.folder.errors(f"list {prefix!r}"):
            yield from self._walk(folder and check_key(folder), prefix)

    def delete(self, key: str) -> None:
        with self.folder.errors(f"delete {key}"):
            self.local_path(key).unlink(missing_ok=True)

    def presigned_get(self, key: str, *, filename: str, expires_s: int) -> None:
        return None

    def presigned_put(self, key: str, *, expires_s: int) -> None:
        return None

    def local_path(self, key: str) -> Path:
        return self.folder.path_of(key)

    def _walk(self, folder: str, prefix: str) -> Iterator[ObjectInfo]:
        """Depth first. Names are sorted as S3 sorts whole keys: a folder's name is compared with its slash."""
        try:
            entries = [(entry.name + "/" * entry.is_dir(), entry) for entry in os.scandir(self.root / folder)]
        except (FileNotFoundError, NotADirectoryError):
            return
        for name, entry in sorted(entries, key=lambda pair: os.fsencode(pair[0])):
            key = f"{folder}/{name}" if folder else name
            if name.startswith(".") or not (key.startswith(prefix) or prefix.startswith(key)):
                continue
            if name.endswith("/"):
                yield from self._walk(key.rstrip("/"), prefix)
                continue
            with suppress(FileNotFoundError):  # deleted since the folder was read
                yield ObjectInfo(key, entry.stat().st_size)
