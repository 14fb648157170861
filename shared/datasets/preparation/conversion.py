"""Convert photographs of any size and format to a dataset of squares."""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from phema.shared.datasets.decoding import MAX_RESOLUTION, Unreadable
from phema.shared.datasets.errors import DatasetError, PicturesRefused, UnreadableFile
from phema.shared.datasets.files.file_index import LABELS_FILE, PictureIndex, index_pictures, labels_document
from phema.shared.datasets.files.files import Files, unreadable
from phema.shared.datasets.preparation.dataset_writer import new_dataset
from phema.shared.datasets.preparation.photographs import PHOTOGRAPHS, open_photograph
from phema.shared.datasets.preparation.transforms import TRANSFORMS, WIDE, Size

T = TypeVar("T")
Progress = Callable[[int, int], None]
"""Called with (pictures done, total)."""
_AHEAD = 4
"""Converted pictures per thread that may wait to be written."""


@dataclass(frozen=True)
class Converted:
    """Size and classes of the dataset that was written."""

    num_pictures: int
    num_classes: int
    classes: tuple[str, ...]
    """Names of the classes by label: those of the class folders, or those in dataset.json; empty if unknown."""
    skipped: tuple[tuple[str, str], ...] = ()
    """(name, why) of the pictures that were left out because they cannot be converted."""


@dataclass(frozen=True)
class ConversionOptions:
    """How pictures are converted.

    `size` is (width, height) in pixels; the pictures that are written are `width` x `width`, so only the transform
    `center-crop-wide` takes a smaller height. `upright` honours EXIF orientation. `max_images` converts at most so
    many pictures, evenly spread over the source. `skip_bad` leaves out pictures that cannot be converted. `threads`
    defaults to one per core.
    """

    size: Size
    transform: str = "adm"
    grey: bool = False
    upright: bool = True
    max_images: int | None = None
    skip_bad: bool = False
    threads: int | None = None

    def check(self) -> None:
        """Raises DatasetError for a size that is out of range, or that does not fit the transform."""
        width, height = self.size
        if not (1 <= width <= MAX_RESOLUTION and 1 <= height <= MAX_RESOLUTION):
            given = str(width) if width == height else f"{width}x{height}"
            raise DatasetError(f"resolution is {given}; it must be from 1 to {MAX_RESOLUTION}")
        if self.transform not in TRANSFORMS:
            raise DatasetError(f"transform is {self.transform}; allowed are {', '.join(TRANSFORMS)}")
        if self.transform == WIDE and height >= width:
            raise DatasetError(
                f"resolution is {width}x{height}, and {WIDE} needs one that is wider than high, such as "
                f"{width}x{max(1, width * 9 // 16)}"
            )
        if self.transform != WIDE and width != height:
            raise DatasetError(
                f"resolution is {width}x{height}, and {self.transform} makes squares; give one number, or use {WIDE}"
            )


def convert(
    source: Files, destination: Path, options: ConversionOptions, progress: Progress = lambda done, total: None
) -> Converted:
    """Write a dataset of PNG files and dataset.json, in the order of the source's names.

    Equal sources give equal bytes. Writes a zip file if `destination` ends in .zip, else a folder. Pictures are RGB, or
    grey if so requested. Raises PicturesRefused, which names every picture that cannot be converted, and DatasetError.
    """
    options.check()
    found = index_pictures(source, endings=PHOTOGRAPHS)
    chosen = range(len(found)) if options.max_images is None else found.spread(options.max_images)
    refused = [(name, "it is of no format that phema converts") for name in found.other_pictures]
    total = len(chosen) + len(refused)
    written: list[int] = []
    with new_dataset(destination) as write:
        progress(0, len(chosen))
        squares = in_threads(lambda picture: _square(found, picture, options), chosen, options.threads)
        for done, (picture, square) in enumerate(zip(chosen, squares, strict=True), start=1):
            if isinstance(square, UnreadableFile):
                refused.append((square.name, square.why))
            elif not refused or options.skip_bad:  # after a refusal, the rest is only checked
                write(numbered(len(written), "png"), square)
                written.append(picture)
            progress(done, len(chosen))
        if refused and not options.skip_bad:
            raise PicturesRefused(source.where, sorted(refused), total)
        write(LABELS_FILE, _labels(found, written))
    return Converted(len(written), found.num_classes, found.classes, tuple(sorted(refused)))


def _square(found: PictureIndex, picture: int, options: ConversionOptions) -> bytes | UnreadableFile:
    """The PNG file of one picture, or why there is none."""
    position = int(found.positions[picture])
    try:
        image = open_photograph(found.files.read(position), upright=options.upright)
    except Unreadable as error:
        return unreadable(found.files, position, str(error))
    except UnreadableFile as error:
        return error
    file = io.BytesIO()
    TRANSFORMS[options.transform](image.convert("L" if options.grey else "RGB"), options.size).save(file, "PNG")
    return file.getvalue()


def _labels(found: PictureIndex, written: list[int]) -> bytes:
    """dataset.json for the pictures that were written. Raises DatasetError if a class has lost all of its pictures."""
    if not written:
        raise DatasetError(f"none of the {len(found)} pictures in dataset {found.files.where} can be converted")
    names = [numbered(i, "png") for i in range(len(written))]
    if found.vectors is not None:
        return labels_document(names, found.vectors[written].tolist())
    if not found.num_classes:
        return labels_document(names, None)
    labels = found.labels[written]
    lost = np.setdiff1d(found.labels, labels)
    if len(lost):
        name = found.classes[int(lost[0])] if found.classes else str(lost[0])
        raise DatasetError(
            f"no picture of class {name} in dataset {found.files.where} would be written; "
            "raise --max-images, repair the pictures of the class, or remove the class"
        )
    return labels_document(names, labels.tolist(), found.classes)


def numbered(picture: int, suffix: str) -> str:
    """File name such as 00012/img00012345.png: at most 1,000 files in a folder."""
    return f"{picture // 1000:05d}/img{picture:08d}.{suffix}"


def in_threads(work: Callable[[int], T], items: Iterable[int], threads: int | None = None) -> Iterator[T]:
    """Results of `work(item)` in order of the items; the number of waiting results is bounded."""
    threads = threads or os.cpu_count() or 1
    with ThreadPoolExecutor(threads, thread_name_prefix="convert") as pool:
        waiting: deque[Future[T]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= _AHEAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
