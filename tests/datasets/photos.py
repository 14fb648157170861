"""Real pictures from scikit-image, and datasets of them that are written without phema's own code."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")


def photograph(name: str) -> NDArray[np.uint8]:
    """uint8 [H, W, 3]."""
    return np.asarray(getattr(skimage.data, name)())


def tiles(count: int, size: int) -> list[NDArray[np.uint8]]:
    """Different squares [size, size, 3] cut from the photographs in turn; no two overlap."""
    cutters = [_squares(photograph(name), size) for name in PHOTOGRAPHS]
    return [next(cutters[i % len(cutters)]) for i in range(count)]


def _squares(picture: NDArray[np.uint8], size: int) -> Iterator[NDArray[np.uint8]]:
    height, width = picture.shape[:2]
    for top in range(0, height - size + 1, size):
        for left in range(0, width - size + 1, size):
            yield picture[top : top + size, left : left + size]


def encoded(picture: NDArray[np.uint8], kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind, **options)
    return file.getvalue()


def npy(array: NDArray[np.generic]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def labelled(names: Sequence[str], labels: Sequence[object]) -> bytes:
    return json.dumps({"labels": [[n, label] for n, label in zip(names, labels, strict=True)]}).encode()


def write_zip(path: Path, files: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_folder(path: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    path.mkdir(exist_ok=True)
    return path


def photo_files(count: int, size: int, *, classes: int = 4) -> tuple[dict[str, bytes], list[NDArray[np.uint8]]]:
    """An ADM-style dataset of `count` tiles labelled 0, 1, …, and the tiles."""
    pictures = tiles(count, size)
    names = [f"00000/img{i:08d}.png" for i in range(count)]
    files = {name: encoded(picture) for name, picture in zip(names, pictures, strict=True)}
    return {**files, "dataset.json": labelled(names, [i % classes for i in range(count)])}, pictures
