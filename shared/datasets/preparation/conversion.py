"""Convert photographs of any size to a dataset of squares, as ADM prepared ImageNet (Dhariwal and Nichol 2021)."""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from PIL import Image

from phema.shared.datasets.decoding import MAX_RESOLUTION, Unreadable, open_picture
from phema.shared.datasets.errors import DatasetError
from phema.shared.datasets.files.file_index import LABELS_FILE, index_pictures, labels_document
from phema.shared.datasets.files.files import Files, unreadable
from phema.shared.datasets.preparation.dataset_writer import new_dataset

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
    """Names of the source's class folders by label; empty if labels come from dataset.json or there are none."""


def adm_crop(picture: Image.Image, resolution: int) -> Image.Image:
    """The centre of the picture at `resolution` x `resolution` pixels.

    Halves the picture with a box filter while its short side is at least twice the resolution, resizes the short side
    to the resolution by bicubic interpolation, then crops the centre.
    """
    while min(picture.size) >= 2 * resolution:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = resolution / min(picture.size)
    size = (round(picture.width * scale), round(picture.height * scale))
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    left, top = (picture.width - resolution) // 2, (picture.height - resolution) // 2
    return picture.crop((left, top, left + resolution, top + resolution))


def convert(
    source: Files,
    destination: Path,
    *,
    resolution: int,
    grey: bool = False,
    threads: int | None = None,
    progress: Progress = lambda done, total: None,
) -> Converted:
    """Write a dataset of PNG files and dataset.json, in the order of the source's names.

    Equal sources give equal bytes. Writes a zip file if `destination` ends in .zip, else a folder. Pictures are RGB, or
    grey with `grey`. `threads` defaults to one per core. Raises DatasetError.
    """
    if not 1 <= resolution <= MAX_RESOLUTION:
        raise DatasetError(f"resolution is {resolution}; it must be from 1 to {MAX_RESOLUTION}")
    found = index_pictures(source)
    if found.is_arrays:
        raise DatasetError(f"dataset {source.where} holds arrays; only PNG and JPEG pictures are converted")

    def square(picture: int) -> bytes:
        position = int(found.positions[picture])
        try:
            image = open_picture(source.read(position)).convert("L" if grey else "RGB")
        except Unreadable as error:
            raise unreadable(source, position, str(error)) from error
        file = io.BytesIO()
        adm_crop(image, resolution).save(file, "PNG")
        return file.getvalue()

    with new_dataset(destination) as write:
        names = [numbered(picture, "png") for picture in range(len(found))]
        progress(0, len(found))
        squares = in_threads(square, range(len(found)), threads or os.cpu_count() or 1)
        for picture, (name, data) in enumerate(zip(names, squares, strict=True)):
            write(name, data)
            progress(picture + 1, len(found))
        write(LABELS_FILE, labels_document(names, found.labels.tolist() if found.num_classes else None))
    return Converted(len(found), found.num_classes, found.classes)


def numbered(picture: int, suffix: str) -> str:
    """File name such as 00012/img00012345.png: at most 1,000 files in a folder."""
    return f"{picture // 1000:05d}/img{picture:08d}.{suffix}"


def in_threads(work: Callable[[int], T], items: Iterable[int], threads: int) -> Iterator[T]:
    """Results of `work(item)` in order of the items; the number of waiting results is bounded."""
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
