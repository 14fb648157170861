"""Writes an object into a hidden file, makes it durable, then gives it its name in one atomic step."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from types import TracebackType
from typing import Self

from phema.shared.snapshots.errors import CorruptObject, ObjectExists
from phema.shared.snapshots.stores.hashed_bytes import Data
from phema.shared.snapshots.stores.interface import ObjectInfo
from phema.shared.snapshots.stores.local.durable_files import (
    create_locked_file,
    fsync_folder,
    link_exclusively,
    make_folders,
    remove_unlocked_files,
)
from phema.shared.snapshots.stores.local.folder import StoreFolder

_WRITE_BYTES = 2**22


class LocalWriter:
    """Writes into a locked file of `.tmp`. The lock ends with the process, so that the next writer can remove it."""

    SYNC_BYTES = 2**25
    """After so many bytes the file is synced, so that committing takes little time."""

    def __init__(self, folder: StoreFolder, key: str, *, known_sha256: str | None = None) -> None:
        """`known_sha256`: the hash of all bytes that will be written, which are then not hashed again."""
        self._folder, self._key, self._known_sha256 = folder, key, known_sha256
        self._target = folder.path_of(key)
        self._sha256, self._size, self._unsynced = hashlib.sha256(), 0, 0
        self._info: ObjectInfo | None = None

    def __enter__(self) -> Self:
        with self._folder.errors(f"write {self._key}"):
            self._folder.unfinished.mkdir(parents=True, exist_ok=True)
            remove_unlocked_files(self._folder.unfinished)
            self._path, self._descriptor = create_locked_file(self._folder.unfinished)
        return self

    def write(self, data: Data) -> None:
        view = memoryview(data).cast("B")
        with self._folder.errors(f"write {self._key}"):
            for start in range(0, len(view), _WRITE_BYTES):
                block = view[start : start + _WRITE_BYTES]
                if self._known_sha256 is None:
                    self._sha256.update(block)
                done = 0
                while done < len(block):
                    done += os.write(self._descriptor, block[done:])
                self._size += len(block)
                self._unsynced += len(block)
                if self._unsynced >= self.SYNC_BYTES:
                    self._sync()

    def _sync(self) -> None:
        """Make all bytes written so far durable."""
        os.fdatasync(self._descriptor)
        self._unsynced = 0

    @property
    def info(self) -> ObjectInfo:
        assert self._info is not None, "info is known after the block was left"
        return self._info

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                with self._folder.errors(f"write {self._key}"):
                    os.fsync(self._descriptor)
                    self._commit()
        finally:
            with suppress(FileNotFoundError):
                self._path.unlink()
            os.close(self._descriptor)

    def _commit(self) -> None:
        found = os.fstat(self._descriptor).st_size
        if found != self._size:
            raise CorruptObject(f"object {self._key} holds {found} bytes after {self._size} were written")
        info = ObjectInfo(self._key, self._size, self._known_sha256 or self._sha256.hexdigest())
        make_folders(self._target.parent, self._folder.root)
        try:
            self._link()
        except FileExistsError:
            self._check_equal(info)
        fsync_folder(self._target.parent)
        self._info = info

    def _link(self) -> None:
        """Give the file the object's name. Raises FileExistsError."""
        link_exclusively(self._path, self._target)

    def _check_equal(self, info: ObjectInfo) -> None:
        """Raises ObjectExists unless the file that has the name holds the same bytes."""
        if not self._target.is_file() or self._stored() != info:
            raise ObjectExists(f"object {self._key} already exists in {self._folder.url} with other bytes")

    def _stored(self) -> ObjectInfo:
        """Size and SHA-256 of the file that has the object's name."""
        with self._target.open("rb") as file:
            return ObjectInfo(
                self._key, os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()
            )
