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
from phema.shared.snapshots.stores.interface import ABANDONED_DAYS
from phema.shared.snapshots.stores.local.folder import StoreFolder
from phema.shared.snapshots.stores.local.writer import LocalWriter

_READ_BYTES = 2**22
_NOTE = ".durable"


class ResumableLocalWriter(LocalWriter):
    """Writes into a locked file of `.partial`. A second file, the note, holds the durable size and its SHA-256.

    The note is written after the bytes were synced. So it never promises more than is on disk, however the process or
    the machine ends.

    The file has a name that no other writer ever uses, and the writer owns the object as long as that name exists.
    A process that takes the object over, or abandons it, removes the name. The commit gives the file with that name the
    object's name, so ownership is tested and the object is published in one step.
    """

    SYNC_BYTES = 2**23

    def __init__(self, folder: StoreFolder, key: str) -> None:
        super().__init__(folder, key)
        self.position = 0

    def __enter__(self) -> Self:
        with self._folder.errors(f"write {self._key}"):
            self._folder.partial.mkdir(parents=True, exist_ok=True)
            remove_abandoned(self._folder.partial, ABANDONED_DAYS * 86_400)
            self._path, self._descriptor = self._open()
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
                    self._commit()
                    _unlink(self._path)
                return
            with suppress(OSError, StoreUnreachable):  # the error that ended the block matters more
                if not self._path.exists():
                    return
                if isinstance(error, StoreFull):  # free the space: StoreFull promises that nothing was kept
                    _unlink(self._path)
                else:
                    self._sync()
        finally:
            os.close(self._descriptor)

    def _commit(self) -> None:
        try:
            super()._commit()
        except FileNotFoundError as error:
            raise self._lost() from error

    def _open(self) -> tuple[Path, int]:
        """A file of this writer's own, with the bytes of the key's most complete one, and its locked descriptor."""
        unfinished = sorted(_files_of(self._folder, self._key), key=lambda path: _read_note(path)[0])
        opened: tuple[Path, int] | None = None
        while unfinished and opened is None:
            opened = self._continue(unfinished.pop())
        for other in unfinished:
            _unlink(other)
        return opened or self._new_file()

    def _continue(self, path: Path) -> tuple[Path, int] | None:
        """The file of an earlier writer, or a copy. None if it is gone or has become the object."""
        try:
            descriptor = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            try:
                return self._take_over(path, descriptor)
            finally:
                os.close(descriptor)
        links = os.fstat(descriptor).st_nlink
        if links == 1 and path.exists():
            return path, descriptor
        os.close(descriptor)
        if links > 1:  # killed after the commit: the file has become the object
            _unlink(path)
        return None

    def _take_over(self, path: Path, held: int) -> tuple[Path, int] | None:
        """A copy of the durable bytes of a file that another writer has locked. None if that writer was faster.

        The writer that opens a key last wins, because the other one may be frozen. The other writer notices when it
        next syncs or commits that its name is gone.
        """
        own, descriptor = self._new_file()
        try:
            position, sha256 = _read_note(path)
            done = 0
            while done < position and (block := os.pread(held, min(_READ_BYTES, position - done), done)):
                done += os.write(descriptor, block)
            os.fdatasync(descriptor)
            _write_note(own, position, sha256)  # before the other file goes: a kill now loses nothing
            path.unlink()
        except BaseException as error:
            os.close(descriptor)
            _unlink(own)
            if isinstance(error, FileNotFoundError):  # it was published, taken over or given up meanwhile
                return None
            raise
        _unlink(path)
        return own, descriptor

    def _new_file(self) -> tuple[Path, int]:
        path = self._folder.partial / f"{_name_of(self._key)}.{secrets.token_hex(8)}"
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return path, descriptor

    def _restore(self) -> None:
        """Continue after the bytes that agree with the note; begin anew if they do not."""
        position, recorded = _read_note(self._path)
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
        if not self._path.exists():
            raise self._lost()
        _write_note(self._path, self._size, self._sha256.hexdigest())

    def _lost(self) -> StoreUnreachable:
        return StoreUnreachable(
            f"object {self._key} in {self._folder.url} was abandoned or taken over by another process "
            "while it was written"
        )


def forget(folder: StoreFolder, key: str) -> None:
    """Remove the unfinished files of a key. A writer that is still at work fails when it commits."""
    for path in _files_of(folder, key):
        _unlink(path)


def remove_abandoned(folder: Path, older_than_s: float) -> int:
    """Remove files that no process has locked and that were last written so long ago, with their notes.

    Returns the number of files.
    """
    removed = 0
    for entry in os.scandir(folder) if folder.is_dir() else ():
        try:
            if time.time() - entry.stat().st_mtime < older_than_s:
                continue
            if entry.name.endswith(_NOTE):
                _remove_stray_note(Path(entry.path))
                continue
            descriptor = os.open(entry.path, os.O_RDONLY)
        except (FileNotFoundError, PermissionError):
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _unlink(Path(entry.path))
            removed += 1
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)
    return removed


def _name_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _files_of(folder: StoreFolder, key: str) -> list[Path]:
    """The unfinished files of a key, without their notes."""
    return [path for path in folder.partial.glob(f"{_name_of(key)}*") if path.suffix != _NOTE]


def _note_path(path: Path) -> Path:
    return path.with_name(path.name + _NOTE)


def _remove_stray_note(note: Path) -> None:
    """Remove a note whose file was taken over while the note was written."""
    if not note.with_name(note.name.removesuffix(_NOTE)).exists():
        note.unlink(missing_ok=True)


def _unlink(path: Path) -> None:
    """Remove a file and its note. The note goes first: a file without a note is ignored."""
    for each in (_note_path(path), path):
        each.unlink(missing_ok=True)


def _read_note(path: Path) -> tuple[int, str]:
    """Durable size of a file in bytes and its SHA-256; (0, "") if the note is missing or cut off."""
    with suppress(FileNotFoundError, ValueError):
        position, sha256 = _note_path(path).read_text().split(" ")
        return int(position), sha256
    return 0, ""


def _write_note(path: Path, position: int, sha256: str) -> None:
    """The length never changes and the note is not truncated: a kill leaves this note or the previous one."""
    note = os.open(_note_path(path), os.O_CREAT | os.O_WRONLY, 0o644)
    try:
        os.pwrite(note, f"{position:020d} {sha256}".encode(), 0)
    finally:
        os.close(note)
