"""An object of a local folder that a later process continues if the process that writes it is killed."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from phema.shared.snapshots.errors import StoreFull, StoreUnreachable
from phema.shared.snapshots.stores.local.durable_files import link_open_file
from phema.shared.snapshots.stores.local.folder import StoreFolder
from phema.shared.snapshots.stores.local.writer import LocalWriter

_READ_BYTES = 2**22
_ABANDONED_SECONDS = 7 * 86_400
"""Age at which the next writer removes an unfinished file: its job has ended in another way."""


class ResumableLocalWriter(LocalWriter):
    """Writes into a locked file of `.partial`. A second file, the note, holds the durable size and its SHA-256.

    The note is written after the bytes were synced. So it never promises more than is on disk, however the process or
    the machine ends.
    """

    SYNC_BYTES = 2**23

    def __init__(self, folder: StoreFolder, key: str) -> None:
        super().__init__(folder, key)
        self._path = _partial_path(folder, key)
        self._note = _note_path(self._path)
        self.position = 0

    def __enter__(self) -> Self:
        with self._folder.errors(f"write {self._key}"):
            self._folder.partial.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(self._folder.partial)
            self._descriptor = self._open_locked()
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
                with self._folder.errors(f"write {self._key}"):
                    os.fsync(self._descriptor)
                    self._check_ours()
                    self._commit()
                    _unlink(self._path)
                return
            with suppress(OSError):  # the error that ended the block matters more
                if not self._is_ours():
                    return
                if isinstance(error, StoreFull):  # free the space: StoreFull promises that nothing was kept
                    _unlink(self._path)
                else:
                    self._sync()
        finally:
            os.close(self._descriptor)

    def _open_locked(self) -> int:
        """The key's file under an exclusive lock."""
        while True:
            descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found = os.fstat(descriptor)
                if found.st_nlink == 1 and _is_same_file(self._path, descriptor):
                    return descriptor
                if found.st_nlink > 1:  # killed after the commit: the file has become the object
                    _unlink(self._path)
            except BlockingIOError:
                try:
                    return self._take_over(descriptor)
                finally:
                    os.close(descriptor)
            os.close(descriptor)

    def _take_over(self, held: int) -> int:
        """Replace a file that another writer has locked by a copy of its durable bytes.

        The writer that opens a key last wins, because the other one may be frozen. The other writer notices the
        replacement when it next syncs or commits.
        """
        path = self._path.with_name(f"{self._path.name}.{secrets.token_hex(8)}")
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        position, _ = _read_note(self._note)
        done = 0
        while done < position and (block := os.pread(held, min(_READ_BYTES, position - done), done)):
            done += os.write(descriptor, block)
        os.rename(path, self._path)
        return descriptor

    def _restore(self) -> None:
        """Continue after the bytes that agree with the note; begin anew if they do not."""
        position, recorded = _read_note(self._note)
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
        self._check_ours()
        note = os.open(self._note, os.O_CREAT | os.O_WRONLY, 0o644)
        try:  # the length never changes and the file is not truncated: a kill leaves this note or the previous one
            os.pwrite(note, f"{self._size:020d} {self._sha256.hexdigest()}".encode(), 0)
        finally:
            os.close(note)

    def _link(self) -> None:
        # By descriptor: by its path, a file that another process has put there since `_check_ours` would be published.
        try:
            link_open_file(self._descriptor, self._path, self._target)
        except FileNotFoundError:
            raise self._lost() from None

    def _is_ours(self) -> bool:
        return _is_same_file(self._path, self._descriptor)

    def _check_ours(self) -> None:
        """Raises StoreUnreachable if another process has removed or replaced the file."""
        if not self._is_ours():
            raise self._lost()

    def _lost(self) -> StoreUnreachable:
        return StoreUnreachable(
            f"object {self._key} in {self._folder.url} was abandoned or taken over by another process "
            "while it was written"
        )


def forget(folder: StoreFolder, key: str) -> None:
    """Remove the unfinished file of a key. A writer that is still at work fails when it commits."""
    _unlink(_partial_path(folder, key))


def _partial_path(folder: StoreFolder, key: str) -> Path:
    return folder.partial / hashlib.sha256(key.encode()).hexdigest()


def _note_path(path: Path) -> Path:
    return path.with_name(path.name + ".durable")


def _unlink(path: Path) -> None:
    """Remove the note first: a file without a note is ignored, but a note without its file would be trusted."""
    for each in (_note_path(path), path):
        each.unlink(missing_ok=True)


def _read_note(note: Path) -> tuple[int, str]:
    """Durable size in bytes and its SHA-256; (0, "") if the note is missing or cut off."""
    with suppress(FileNotFoundError, ValueError):
        position, sha256 = note.read_text().split(" ")
        return int(position), sha256
    return 0, ""


def _is_same_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _remove_abandoned(folder: Path) -> None:
    """Remove old files that no process has locked, with their notes."""
    for entry in os.scandir(folder):
        try:
            if time.time() - entry.stat().st_mtime < _ABANDONED_SECONDS or entry.name.endswith(".durable"):
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
