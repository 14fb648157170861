"""The object store in a local folder: write aside, fsync, then give the file its name in one atomic step."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from phema.shared.snapshots.errors import (
    CorruptObject,
    ObjectExists,
    ObjectMissing,
    StoreDenied,
    StoreFull,
    StoreUnreachable,
)
from phema.shared.snapshots.stores.object_keys import check_key
from phema.shared.snapshots.stores.store import Data, ObjectInfo, digest, filled

if TYPE_CHECKING:
    from phema.shared.snapshots.stores.local_resumable import ResumableLocalWriter

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}
_WRITE_BYTES = 2**22


class LocalStore:
    """A folder, created when first needed. Unfinished writes live in its `.tmp`, or `.partial` where a later writer
    may go on with them, invisible to readers."""

    writer_memory_bytes = 0
    read_bytes = 2**19
    reads_in_flight = 4
    read_memory_bytes = 0

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.url = self.root.as_uri()
        self.unfinished = self.root / ".tmp"
        self.partial = self.root / ".partial"

    def check(self) -> None:
        with self.errors("be opened"):
            self.root.mkdir(parents=True, exist_ok=True)
            if not os.access(self.root, os.R_OK | os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def put(self, key: str, data: Data) -> ObjectInfo:
        with self.writer(key) as writer:
            writer.write(data)
        return writer.info

    def writer(self, key: str) -> LocalWriter:
        return LocalWriter(self, check_key(key))

    def resumable(self, key: str) -> ResumableLocalWriter:
        from phema.shared.snapshots.stores.local_resumable import ResumableLocalWriter

        return ResumableLocalWriter(self, check_key(key))

    def forget(self, key: str) -> None:
        from phema.shared.snapshots.stores.local_resumable import forget

        with self.errors(f"forget {key}"):
            forget(self, check_key(key))

    def get(self, key: str) -> bytes:
        with self.errors(f"read {key}", key):
            return self._path(key).read_bytes()

    def read_into(self, key: str, start: int, buffer: memoryview) -> None:
        view = buffer.cast("B")
        with self.errors(f"read {key}", key):
            descriptor = os.open(self._path(key), os.O_RDONLY)
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
        with self.errors(f"read {key}", key), self._path(key).open("rb", buffering=0) as file:
            return ObjectInfo(key, os.fstat(file.fileno()).st_size), file.read(length)

    def head(self, key: str) -> ObjectInfo | None:
        with self.errors(f"look up {key}"):
            try:
                return ObjectInfo(key, self._path(key).stat().st_size)
            except (FileNotFoundError, NotADirectoryError):
                return None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        folder, _, _ = prefix.rpartition("/")
        with self.errors(f"list {prefix!r}"):
            yield from self._walk(folder and check_key(folder), prefix)

    def delete(self, key: str) -> None:
        with self.errors(f"delete {key}"):
            self._path(key).unlink(missing_ok=True)

    def presigned_get(self, key: str, *, filename: str, expires_s: int) -> None:
        return None

    def presigned_put(self, key: str, *, expires_s: int) -> None:
        return None

    def local_path(self, key: str) -> Path:
        return self._path(key)

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _walk(self, folder: str, prefix: str) -> Iterator[ObjectInfo]:
        """Depth first, names compared as S3 compares whole keys: a folder sorts as its name with the slash."""
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

    @contextmanager
    def errors(self, action: str, key: str = "") -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._translate(error, action, key) from error

    def _translate(self, error: OSError, action: str, key: str) -> Exception:
        if key and isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
            return ObjectMissing(f"object {key} does not exist in {self.url}")
        sentence = f"store {self.url} could not {action}: {error.strerror or error}"
        if error.errno in _FULL:
            return StoreFull(f"store {self.url} is full: it could not {action} ({error.strerror}); nothing was kept")
        return (StoreDenied if error.errno in _DENIED else StoreUnreachable)(sentence)


class LocalWriter:
    """Writes into a locked file of `.tmp`; the lock dies with the process, so that the next writer can sweep it."""

    SYNC_BYTES = 2**25

    def __init__(self, store: LocalStore, key: str) -> None:
        self._store, self._key = store, key
        self._target = store.root / key
        self._sha256, self._size, self._unsynced = hashlib.sha256(), 0, 0
        self._info: ObjectInfo | None = None

    def __enter__(self) -> Self:
        with self._store.errors(f"write {self._key}"):
            self._store.unfinished.mkdir(parents=True, exist_ok=True)
            _sweep(self._store.unfinished)
            self._aside, self._descriptor = _locked_file(self._store.unfinished)
        return self

    def write(self, data: Data) -> None:
        view = memoryview(data).cast("B")
        with self._store.errors(f"write {self._key}"):
            for start in range(0, len(view), _WRITE_BYTES):
                block = view[start : start + _WRITE_BYTES]
                self._sha256.update(block)
                done = 0
                while done < len(block):
                    done += os.write(self._descriptor, block[done:])
                self._size += len(block)
                self._unsynced += len(block)
                if self._unsynced >= self.SYNC_BYTES:  # so that closing has little left to wait for
                    self._sync()

    def _sync(self) -> None:
        """Make all that was written durable."""
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
                with self._store.errors(f"write {self._key}"):
                    os.fsync(self._descriptor)
                    self._commit()
        finally:
            with suppress(FileNotFoundError):
                self._aside.unlink()
            os.close(self._descriptor)

    def _commit(self) -> None:
        found = os.fstat(self._descriptor).st_size
        if found != self._size:
            raise CorruptObject(f"object {self._key} holds {found} bytes after {self._size} were written")
        info = ObjectInfo(self._key, self._size, self._sha256.hexdigest())
        _make_folders(self._target.parent, self._store.root)
        try:
            _name_exclusively(self._aside, self._target)
        except FileExistsError:
            self._accept_equal(info)
        _fsync_folder(self._target.parent)
        self._info = info

    def _accept_equal(self, info: ObjectInfo) -> None:
        if not self._target.is_file() or digest(self._store, self._key) != info:
            raise ObjectExists(f"object {self._key} already exists in {self._store.url} with other bytes")


def _locked_file(folder: Path) -> tuple[Path, int]:
    """A new file under an exclusive lock. A sweeper may win the lock between the two steps: then take another."""
    while True:
        path = folder / secrets.token_hex(16)
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:
                return path, descriptor
        except BlockingIOError:
            pass
        os.close(descriptor)


def _sweep(folder: Path) -> None:
    """Remove what killed processes left: files nobody holds the lock of."""
    for entry in os.scandir(folder):
        try:
            descriptor = os.open(entry.path, os.O_RDONLY)
        except (FileNotFoundError, PermissionError):
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(entry.path)
        except (BlockingIOError, FileNotFoundError):
            continue
        finally:
            os.close(descriptor)


def _name_exclusively(source: Path, target: Path) -> None:
    """Give a finished file its name, failing when the name is taken; then the file has only that name."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS or isinstance(error, FileExistsError):
            raise
        if target.exists():  # without hard links exclusiveness rests on unique keys alone
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        os.rename(source, target)


def _make_folders(folder: Path, root: Path) -> None:
    """Create folders and make their names durable, from the first missing one down."""
    if folder.is_dir():
        return
    if folder != root:
        _make_folders(folder.parent, root)
    with suppress(FileExistsError):
        folder.mkdir()
    _fsync_folder(folder.parent)


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
