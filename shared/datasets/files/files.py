"""The interface to the many small files of a dataset, and its implementation for a folder."""

from __future__ import annotations

import os
import stat
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from phema.shared.datasets.errors import DatasetError, UnreadableFile

MAX_FILE_BYTES = 2**28
"""Largest file of a dataset in bytes, compressed or not. A larger one is a mistake or an attack."""


class Files(Protocol):
    """Named files, each read as a whole by its position in `names`. Thread-safe."""

    where: str
    """Path or URL, for error messages."""
    names: Sequence[str]
    """Relative paths with / as separator, sorted."""
    reads_in_flight: int
    """Number of concurrent reads that is worth using; 1 for a local disk."""
    stamps_content: bool
    """Whether `stamp` differs for files of equal size with different bytes."""

    def size(self, position: int) -> int:
        """Length in bytes of what `read` returns."""

    def stamp(self, position: int) -> str:
        """What is known of the content without reading it. Equal files have equal stamps."""

    def read(self, position: int) -> bytes:
        """The file. Raises DatasetError."""


class Blob(Protocol):
    """One large file that is read in parts. Thread-safe."""

    where: str
    size: int
    reads_in_flight: int

    def read_at(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`. Raises DatasetError if the file ends before that."""


class FolderFiles:
    """All regular files below a folder. Links are followed; hidden files and folders are ignored."""

    reads_in_flight = 1
    stamps_content = False

    def __init__(self, folder: Path) -> None:
        self.where = str(folder)
        self._folder = folder
        found = sorted(_walk(folder))
        self.names: Sequence[str] = [name for name, _ in found]
        self._sizes = [size for _, size in found]

    def size(self, position: int) -> int:
        return self._sizes[position]

    def stamp(self, position: int) -> str:
        return str(self._sizes[position])

    def read(self, position: int) -> bytes:
        check_size(self, position)
        try:
            return (self._folder / self.names[position]).read_bytes()
        except OSError as error:
            raise unreadable(self, position, error.strerror or type(error).__name__) from error


class LocalBlob:
    """A file on this machine."""

    reads_in_flight = 1

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise DatasetError(f"dataset {path} cannot be opened: {error.strerror}") from error
        weakref.finalize(self, os.close, self._descriptor)
        self.size = os.fstat(self._descriptor).st_size

    def read_at(self, offset: int, length: int) -> bytes:
        try:
            data = os.pread(self._descriptor, length, offset)
        except OSError as error:
            raise DatasetError(f"dataset {self.where} cannot be read: {error.strerror}") from error
        if len(data) < length:
            raise DatasetError(f"dataset {self.where} ends at byte {offset + len(data)}, before byte {offset + length}")
        return data


def check_size(files: Files, position: int) -> None:
    """Raises DatasetError for a file larger than MAX_FILE_BYTES."""
    if files.size(position) > MAX_FILE_BYTES:
        raise unreadable(files, position, f"it has {files.size(position)} bytes; at most {MAX_FILE_BYTES} are allowed")


def unreadable(files: Files, position: int, why: str) -> UnreadableFile:
    """The error for a file that cannot be used."""
    return UnreadableFile(files.names[position], files.where, why)


def _walk(folder: Path) -> Iterator[tuple[str, int]]:
    """(relative name, size) of each regular file."""
    waiting, seen = [("", folder)], set()
    while waiting:
        prefix, here = waiting.pop()
        try:
            about = here.stat()
            if (about.st_dev, about.st_ino) in seen:  # a link to a parent folder
                continue
            seen.add((about.st_dev, about.st_ino))
            with os.scandir(here) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    about = entry.stat()
                    if stat.S_ISDIR(about.st_mode):
                        waiting.append((f"{prefix}{entry.name}/", Path(entry.path)))
                    elif stat.S_ISREG(about.st_mode):
                        yield prefix + entry.name, about.st_size
        except OSError as error:
            raise DatasetError(f"dataset {folder} cannot be listed: {error.filename}: {error.strerror}") from error
