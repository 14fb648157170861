"""Write datasets and files atomically: they appear under their name complete, or not at all."""

from __future__ import annotations

import io
import os
import secrets
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from phema.shared.datasets.errors import DatasetError

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""Modification time of all zip members, so that equal pictures give equal zip files."""


class Writer(Protocol):
    """Writes one file of a new dataset."""

    def __call__(self, name: str, data: bytes) -> None: ...


@contextmanager
def new_dataset(destination: Path) -> Iterator[Writer]:
    """Write a zip file (uncompressed) if the name ends in .zip, else a folder.

    The dataset gets its name when the block ends. An exception leaves nothing behind; a kill may leave a hidden partial
    file. Raises DatasetError if the name exists or cannot be written.
    """
    if destination.exists():
        raise DatasetError(f"{destination} already exists; choose another name, or remove it first")
    partial = destination.with_name(f".{destination.name}.{secrets.token_hex(4)}.partial")
    writing = _zip if destination.suffix.lower() == ".zip" else _folder
    with _explained(destination):
        try:
            destination.parent.mkdir(parents=True, exist_ok=True)
            with writing(partial) as write:
                yield write
            partial.rename(destination)
            _sync(destination.parent)
        finally:
            if partial.is_dir():
                shutil.rmtree(partial)
            else:
                partial.unlink(missing_ok=True)


def write_file(path: Path, data: bytes) -> None:
    """Write or replace one file atomically. Raises DatasetError."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    with _explained(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.write(data)
                _flush(file)
            partial.replace(path)
            _sync(path.parent)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def _zip(path: Path) -> Iterator[Writer]:
    with path.open("wb") as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            yield lambda name, data: archive.writestr(zipfile.ZipInfo(name, _EPOCH), data)
        _flush(file)


@contextmanager
def _folder(path: Path) -> Iterator[Writer]:
    path.mkdir()

    def write(name: str, data: bytes) -> None:
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)

    yield write
    os.sync()  # one flush per file would take longer than writing them


@contextmanager
def _explained(destination: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DatasetError(f"{destination} cannot be written: {error.strerror or error}") from error


def _flush(file: io.BufferedWriter) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
