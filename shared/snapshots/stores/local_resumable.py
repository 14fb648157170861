"""An object of a local folder that a later process goes on writing where a killed one ended."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from phema.shared.snapshots.errors import StoreFull, StoreUnreachable
from phema.shared.snapshots.stores.local_folder import LocalWriter

if TYPE_CHECKING:
    from phema.shared.snapshots.stores.local_folder import LocalStore

_READ_BYTES = 2**22
_FORGOTTEN_SECONDS = 7 * 86_400
"""What nobody has gone on with for so long belongs to a job that ended elsewhere, and is removed by the next writer."""


class ResumableLocalWriter(LocalWriter):
    """Writes into a locked file of `.partial`, beside which a note says how much of it is durable, and its SHA-256.

    The note is written after the bytes were synced: whatever ends the process or the machine, it never says too much.
    """

    SYNC_BYTES = 2**23

    def __init__(self, store: LocalStore, key: str) -> None:
        super().__init__(store, key)
        self._aside = _place(store, key)
        self._note = _note_of(self._aside)
        self.position = 0

    def __enter__(self) -> Self:
        with self._store.errors(f"write {self._key}"):
            self._store.partial.mkdir(parents=True, exist_ok=True)
            _sweep(self._store.partial)
            self._descriptor = self._locked()
            try:
                self._restore()
            except BaseException:
                os.close(self._descriptor)
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                with self._store.errors(f"write {self._key}"):
                    os.fsync(self._descriptor)
                    self._assert_ours()
                    self._commit()
                    _unlink(self._aside)
                return
            with suppress(OSError):  # what led here matters more
                if not self._is_ours():
                    return
                if isinstance(error, StoreFull):  # the room is needed, and nothing is to be left half-written
                    _unlink(self._aside)
                else:
                    self._sync()
        finally:
            os.close(self._descriptor)

    def _locked(self) -> int:
        """The key's file under an exclusive lock."""
        while True:
            descriptor = os.open(self._aside, os.O_CREAT | os.O_RDWR, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found = os.fstat(descriptor)
                if found.st_nlink == 1 and _same(self._aside, descriptor):
                    return descriptor
                if found.st_nlink > 1:  # killed between committing and removing: the bytes belong to the object now
                    _unlink(self._aside)
            except BlockingIOError:
                try:
                    return self._taken_over(descriptor)
                finally:
                    os.close(descriptor)
            os.close(descriptor)

    def _taken_over(self, held: int) -> int:
        """A copy of what is durable of a file that another writer holds, in that file's place.

        The other one is frozen or behind the times, and whoever opens a key last is right: it finds out when it makes
        its next bytes durable, or commits.
        """
        path = self._aside.with_name(f"{self._aside.name}.{secrets.token_hex(8)}")
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        position, _ = _read(self._note)
        done = 0
        while done < position and (block := os.pread(held, min(_READ_BYTES, position - done), done)):
            done += os.write(descriptor, block)
        os.rename(path, self._aside)
        return descriptor

    def _restore(self) -> None:
        """Go on behind what the note vouches for, or at the beginning."""
        position, recorded = _read(self._note)
        position = min(position, os.fstat(self._descriptor).st_size)
        sha256 = hashlib.sha256()
        for start in range(0, position, _READ_BYTES):
            sha256.update(os.pread(self._descriptor, min(_READ_BYTES, position - start), start))
        if sha256.hexdigest() == recorded:
            self.position = self._size = position
            self._sha256 = sha256
        os.ftruncate(self._descriptor, self.position)
        os.lseek(self._descriptor, self.position, os.SEEK_SET)

    def _sync(self) -> None:
        super()._sync()
        self._assert_ours()
        note = os.open(self._note, os.O_CREAT | os.O_WRONLY, 0o644)
        try:  # of equal length and not truncated before: a kill leaves this note or the one before
            os.pwrite(note, f"{self._size:020d} {self._sha256.hexdigest()}".encode(), 0)
        finally:
            os.close(note)

    def _is_ours(self) -> bool:
        return _same(self._aside, self._descriptor)

    def _assert_ours(self) -> None:
        """Raise StoreUnreachable when somebody has removed the file, or put another in its place, meanwhile."""
        if not self._is_ours():
            raise StoreUnreachable(
                f"object {self._key} in {self._store.url} was given up, or taken over by another process, "
                "while it was written"
            )


def forget(store: LocalStore, key: str) -> None:
    """Remove what is unfinished; a writer that is still at work fails when it commits."""
    _unlink(_place(store, key))


def _place(store: LocalStore, key: str) -> Path:
    return store.partial / hashlib.sha256(key.encode()).hexdigest()


def _note_of(path: Path) -> Path:
    return path.with_name(path.name + ".durable")


def _unlink(path: Path) -> None:
    """The note first: bytes without it are nothing, while a note without its bytes would be read."""
    for each in (_note_of(path), path):
        each.unlink(missing_ok=True)


def _read(note: Path) -> tuple[int, str]:
    """What the note says; nothing where it was cut off or never written."""
    with suppress(FileNotFoundError, ValueError):
        position, sha256 = note.read_text().split(" ")
        return int(position), sha256
    return 0, ""


def _same(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _sweep(folder: Path) -> None:
    """Remove what has long been forgotten and nobody holds the lock of."""
    for entry in os.scandir(folder):
        try:
            if time.time() - entry.stat().st_mtime < _FORGOTTEN_SECONDS or entry.name.endswith(".durable"):
                continue
            descriptor = os.open(entry.path, os.O_RDONLY)
        except (FileNotFoundError, PermissionError):
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _unlink(Path(entry.path))
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)
