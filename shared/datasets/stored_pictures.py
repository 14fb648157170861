"""Datasets of pictures or latents in files, which are read and decoded when a batch needs them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from phema.shared.datasets.dataset_checks import DatasetInfo
from phema.shared.datasets.decoding import (
    PictureFormat,
    Unreadable,
    decode,
    detect_format,
    latent_to_network,
    pixels_to_network,
)
from phema.shared.datasets.errors import UnreadableFile
from phema.shared.datasets.files.file_index import PictureIndex, index_pictures
from phema.shared.datasets.files.files import Files, unreadable
from phema.shared.datasets.pictures import Dataset, Images, Integers, Labels
from phema.shared.datasets.splitting import split

T = TypeVar("T")

IN_MEMORY_BYTES = 2**28
"""A dataset whose decoded pictures take at most this many bytes stays in memory once read."""
VERIFIED_PICTURES = 256
"""Number of pictures, evenly spread over the dataset, that are decoded before a run starts."""


class PictureReader:
    """Reads and decodes the pictures of a folder or zip file by number. Thread-safe."""

    def __init__(self, files: Files) -> None:
        """Lists the files, finds the labels and reads the first picture. Raises DatasetError."""
        self.index: PictureIndex = index_pictures(files)
        self.files = files
        self.is_array = self.index.is_arrays
        self.format: PictureFormat = self._checked(0, lambda data: detect_format(data, is_array=self.is_array))
        keep = self.format.stored_bytes * len(self.index) <= IN_MEMORY_BYTES
        self._in_memory: dict[int, NDArray[Any]] | None = {} if keep else None
        self._pool = (
            ThreadPoolExecutor(files.reads_in_flight, thread_name_prefix="pictures")
            if files.reads_in_flight > 1
            else None
        )

    def __len__(self) -> int:
        return len(self.index)

    def read(self, picture: int) -> NDArray[Any]:
        """One picture as uint8 [C, H, W], or one latent as float32 [8, h, w]. Raises DatasetError."""
        if self._in_memory is not None and picture in self._in_memory:
            return self._in_memory[picture]
        array: NDArray[Any] = self._checked(picture, lambda data: decode(data, self.format, is_array=self.is_array))
        if self._in_memory is not None:
            self._in_memory[picture] = array
        return array

    def read_all(self, pictures: Sequence[int]) -> Iterable[NDArray[Any]]:
        """`read` each of them, in order; concurrently if the files are behind a network."""
        return map(self.read, pictures) if self._pool is None else self._pool.map(self.read, pictures)

    def pictures_per_class(self) -> list[int]:
        """Number of pictures by label; empty without labels."""
        counts: list[int] = np.bincount(self.index.labels, minlength=self.index.num_classes).tolist()
        return counts if self.index.num_classes else []

    def verify(self, most: int = VERIFIED_PICTURES) -> None:
        """Decode up to `most` pictures, evenly spread. Raises DatasetError at the first broken one."""
        for _ in self.read_all(self.index.spread(most)):
            pass

    def broken(self, most: int = VERIFIED_PICTURES) -> list[str]:
        """Decode up to `most` pictures, evenly spread; one sentence about each that is broken."""
        found = []
        for picture in self.index.spread(most):
            try:
                self.read(picture)
            except UnreadableFile as error:
                found.append(str(error))
        return found

    def _checked(self, picture: int, read: Callable[[bytes], T]) -> T:
        position = int(self.index.positions[picture])
        try:
            return read(self.files.read(position))
        except Unreadable as error:
            raise unreadable(self.files, position, str(error)) from error


class StoredPictures:
    """A subset of the pictures of a reader, as `Pictures`."""

    def __init__(self, reader: PictureReader, chosen: Integers) -> None:
        self._reader, self._chosen = reader, chosen
        vectors = reader.index.vectors
        self.labels: Labels = reader.index.labels[chosen] if vectors is None else vectors[chosen]

    def __len__(self) -> int:
        return len(self._chosen)

    def batch(self, indices: Integers, seeds: Integers | None = None) -> tuple[Images, Labels]:
        format, arrays = self._reader.format, self._reader.read_all(self._chosen[indices].tolist())
        shape = (len(indices), format.channels, format.resolution, format.resolution)
        if format.encoding == "pictures":
            pixels = np.empty(shape, np.uint8)
            for i, array in enumerate(arrays):
                pixels[i] = array
            return pixels_to_network(pixels), self.labels[indices]
        images = np.empty(shape, np.float32)
        for i, array in enumerate(arrays):
            images[i] = latent_to_network(array, None if seeds is None else int(seeds[i]))
        return images, self.labels[indices]


def dataset_from_files(files: Files, name: str, held_out: int, max_images: int | None = None) -> Dataset:
    """The pictures among `files` as a dataset, divided as `split` says. Raises DatasetError."""
    reader = PictureReader(files)
    info = info_of(reader, name)
    train, kept = split(info, held_out, max_images)
    return Dataset(info, StoredPictures(reader, train), StoredPictures(reader, kept), reader.verify)


def dataset_in_order(files: Files, name: str) -> Dataset:
    """All pictures among `files` as training pictures, in the order of their names. Raises DatasetError."""
    reader = PictureReader(files)
    order = np.arange(len(reader), dtype=np.int64)
    return Dataset(
        info_of(reader, name), StoredPictures(reader, order), StoredPictures(reader, order[:0]), reader.verify
    )


def info_of(reader: PictureReader, name: str) -> DatasetInfo:
    """Size and shape of the reader's dataset, under a name. Raises DatasetError."""
    return DatasetInfo(
        name,
        num_pictures=len(reader),
        resolution=reader.format.resolution,
        channels=reader.format.channels,
        num_classes=reader.index.num_classes,
        encoding=reader.format.encoding,
        fingerprint=reader.index.fingerprint,
        class_names=reader.index.classes,
        vector_size=0 if reader.index.vectors is None else reader.index.vectors.shape[1],
    )
