"""The pictures of an evaluation as a zip file in the layout of a dataset: PNG files and `dataset.json`."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from phema.services.phema_worker.evaluation.part_file import PartContent
from phema.shared.datasets.files.file_index import labels_document
from phema.shared.datasets.preparation.conversion import numbered
from phema.shared.snapshots.stores.interface import ObjectInfo, ObjectStore, ObjectWriter

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""Modification time of all members, so that equal pictures give equal files."""


def write_archive(store: ObjectStore, key: str, parts: Iterable[PartContent], *, first_seed: int) -> ObjectInfo:
    """Store one PNG per picture, named by its seed, and the classes in `dataset.json`. Raises SnapshotError."""
    names: list[str] = []
    classes: list[int] = []
    with store.writer(key) as writer, zipfile.ZipFile(_Sequential(writer), "w", zipfile.ZIP_STORED) as archive:
        for part in parts:
            for picture, label in zip(_pictures(part), part.classes.tolist(), strict=True):
                names.append(numbered(first_seed + len(names), "png"))
                classes.append(label)
                archive.writestr(zipfile.ZipInfo(names[-1], _EPOCH), picture)
        labels = None if -1 in classes else classes
        archive.writestr(zipfile.ZipInfo("dataset.json", _EPOCH), labels_document(names, labels))
    return writer.info


def _pictures(part: PartContent) -> Iterator[bytes]:
    assert part.pictures is not None, "the parts of a recipe with keep_pictures keep their pictures"
    for picture in part.pictures:
        file = io.BytesIO()
        _image(picture).save(file, "PNG")
        yield file.getvalue()


def _image(picture: NDArray[np.uint8]) -> Image.Image:
    """A picture [C, H, W]: grey for one or two channels, else the first three as red, green and blue."""
    return Image.fromarray(picture[0] if len(picture) < 3 else np.moveaxis(picture[:3], 0, -1))


class _Sequential(io.RawIOBase):
    """An object writer as a file that can only be appended to."""

    def __init__(self, writer: ObjectWriter) -> None:
        self._writer = writer

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._writer.write(bytes(data))
        return len(data)
