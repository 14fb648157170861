"""Find the pictures among the files of a dataset, and their labels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phema.shared.datasets.errors import DatasetError
from phema.shared.datasets.files.files import Files, unreadable

LABELS_FILE = "dataset.json"
PICTURES = (".png", ".jpg", ".jpeg")
ARRAYS = (".npy",)
_OTHER_PICTURES = (
    *(".avif", ".bmp", ".gif", ".heic", ".heif", ".jp2", ".npy", ".npz"),
    *(".pbm", ".pgm", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
)
"""Other picture formats. They are an error: ignoring them silently could drop part of a dataset."""
MAX_LABEL = 2**20
_LARGEST = float(np.finfo(np.float32).max)
MAX_VECTOR = 2**16
"""Largest number of values of a label vector."""
HASHED_FILES = 16
"""Number of files whose bytes enter the fingerprint if the files have no checksums."""


@dataclass(frozen=True)
class PictureIndex:
    """The pictures among the files of a dataset, in the order of their names."""

    files: Files
    positions: NDArray[np.int64]
    """[N] positions of the pictures in `files.names`."""
    labels: NDArray[np.int64]
    """[N]; zeros for a dataset without classes."""
    num_classes: int
    """1 + the largest label; 0 for a dataset without classes."""
    classes: tuple[str, ...] = ()
    """Names of the classes by label: those of the class folders, or those that dataset.json lists; else empty."""
    vectors: NDArray[np.float32] | None = None
    """[N, D] for a dataset whose labels are vectors instead of classes."""
    other_pictures: tuple[str, ...] = ()
    """Names of files of other picture formats, if `index_pictures` did not refuse them."""

    def __len__(self) -> int:
        return len(self.positions)

    def name(self, picture: int) -> str:
        return self.files.names[int(self.positions[picture])]

    @property
    def is_arrays(self) -> bool:
        return self.name(0).lower().endswith(ARRAYS)

    @property
    def listed_labels(self) -> list[Any] | None:
        """The label of each picture, a class or a vector, as dataset.json lists it; None without labels."""
        labels: NDArray[Any] = self.labels if self.vectors is None else self.vectors
        return list(labels.tolist()) if self.num_classes or self.vectors is not None else None

    def spread(self, most: int) -> list[int]:
        """Up to `most` pictures, evenly spread from the first to the last."""
        chosen = np.linspace(0, len(self) - 1, min(most, len(self))).round().astype(np.int64)
        return [int(picture) for picture in np.unique(chosen)]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over name, size, CRC (if in a zip) and label of every picture.

        Outside a zip also over the bytes of up to 16 pictures, which are read: latents all have one size. Raises
        DatasetError.
        """
        if self.files.stamps_content:
            digest = hashlib.sha256(b"phema dataset 1\n")
        else:
            digest = hashlib.sha256(b"phema dataset 2\n")
            for picture in self.spread(HASHED_FILES):
                digest.update(hashlib.sha256(self.files.read(int(self.positions[picture]))).digest())
        labels = self.listed_labels or ["-"] * len(self)
        for position, label in zip(self.positions.tolist(), labels, strict=True):
            digest.update(f"{self.files.names[position]}\0{self.files.stamp(position)}\0{label}\n".encode())
        return digest.hexdigest()


def index_pictures(files: Files, *, endings: Sequence[str] | None = None) -> PictureIndex:
    """Pictures and their labels: from dataset.json at the top, else from class folders, else none.

    `endings` of file names make pictures; by default those that training reads, and other picture formats are an
    error. With `endings`, they are listed in `other_pictures`. Raises DatasetError also if there are no pictures,
    PNG/JPEG and NPY are mixed, or labels are missing or not valid.
    """
    read = tuple(endings or PICTURES + ARRAYS)
    positions = np.array([i for i, name in enumerate(files.names) if name.lower().endswith(read)], np.int64)
    refused = [name for name in files.names if name.lower().endswith(_OTHER_PICTURES) and not _ends(name, read)]
    if refused and endings is None:
        raise DatasetError(
            f"{_some(refused)} in dataset {files.where} {'is' if len(refused) == 1 else 'are'} of no kind that is "
            "read; use PNG, JPEG or NPY, or convert the pictures with `phema dataset convert`"
        )
    if not len(positions):
        allowed = ", ".join(read)
        raise DatasetError(f"dataset {files.where} holds no pictures: no file ends in one of {allowed}")
    return replace(_labelled(files, positions), other_pictures=tuple(refused))


def _labelled(files: Files, positions: NDArray[np.int64]) -> PictureIndex:
    names = [files.names[i] for i in positions]
    arrays = [name.lower().endswith(ARRAYS) for name in names]
    if any(arrays) and not all(arrays):
        picture, latents = names[arrays.index(False)], names[arrays.index(True)]
        raise DatasetError(f"dataset {files.where} mixes pictures ({picture}) and arrays ({latents}); use one kind")
    if LABELS_FILE in files.names:
        return _labels_from_json(files, positions, names)
    misplaced = next((name for name in files.names if name.endswith(f"/{LABELS_FILE}")), None)
    if misplaced is not None:
        raise DatasetError(f"{misplaced} in dataset {files.where} must lie at the top, beside the folders it names")
    folders = _class_folders(files, names)
    if folders is None:
        return _unlabelled(files, positions)
    # By text, also where all names are numbers ("10" before "9"), as published dataset tools do: labels must agree with
    # those of networks and statistics made with them.
    folder_names = sorted(set(folders))
    label_of = {name: label for label, name in enumerate(folder_names)}
    labels = np.array([label_of[folder] for folder in folders], np.int64)
    return PictureIndex(files, positions, labels, len(folder_names), tuple(folder_names))


def labels_document(
    names: Sequence[str], labels: Sequence[int] | Sequence[Sequence[float]] | None, classes: Sequence[str] = ()
) -> bytes:
    """The bytes of dataset.json for pictures of those names. `classes`: names of the classes by label, if known."""
    listed = None if labels is None else [[name, label] for name, label in zip(names, labels, strict=True)]
    return json.dumps({"labels": listed} | ({"classes": list(classes)} if classes else {})).encode()


def _ends(name: str, endings: tuple[str, ...]) -> bool:
    return name.lower().endswith(endings)


def _some(names: Sequence[str]) -> str:
    """Up to three names, and the number of the others."""
    shown, rest = ", ".join(names[:3]), len(names) - 3
    return f"{shown} and {rest} more" if rest > 0 else shown


def _unlabelled(files: Files, positions: NDArray[np.int64]) -> PictureIndex:
    return PictureIndex(files, positions, np.zeros(len(positions), np.int64), 0)


def _class_folders(files: Files, names: Sequence[str]) -> list[str] | None:
    """Class folder of each picture, below a single folder around all; None if no picture lies in a class folder."""
    parts = [name.split("/") for name in names]
    top = {path[0] for path in parts}
    if len(top) == 1 and all(len(path) > 2 for path in parts):  # a zip of one folder that holds the class folders
        parts = [path[1:] for path in parts]
    bare = [name for name, path in zip(names, parts, strict=True) if len(path) == 1]
    if len(bare) == len(names):
        return None
    if bare:
        raise DatasetError(
            f"{bare[0]} in dataset {files.where} has no label: it lies beside the class folders, in none of them"
            + (f", as do {len(bare) - 1} more" if len(bare) > 1 else "")
        )
    return [path[0] for path in parts]


def _labels_from_json(files: Files, positions: NDArray[np.int64], names: Sequence[str]) -> PictureIndex:
    """The pictures with the labels of dataset.json: classes, vectors, or none."""
    where = f"{LABELS_FILE} in dataset {files.where}"
    position = files.names.index(LABELS_FILE)
    try:
        document: Any = json.loads(files.read(position))
    except (ValueError, RecursionError) as error:
        raise unreadable(files, position, f"it is no valid JSON ({error})") from error
    if not isinstance(document, dict) or "labels" not in document:
        raise DatasetError(f'{where} must be an object with "labels", a list of [name, label], or null for none')
    if document["labels"] is None:
        return _unlabelled(files, positions)
    if not isinstance(document["labels"], list):
        raise DatasetError(f'"labels" of {where} must be a list of [name, label], or null for none')
    label_of: dict[str, Any] = {}
    for entry in document["labels"]:
        name, label = _entry(entry, where)
        if name in label_of:
            raise DatasetError(f"{where} names {name} twice")
        label_of[name] = label
    missing = next((name for name in names if name not in label_of), None)
    if missing is not None:
        raise DatasetError(f"{missing} in dataset {files.where} has no label: {LABELS_FILE} does not name it")
    if len(label_of) > len(names):
        absent = min(label_of.keys() - set(names))
        raise DatasetError(f"{where} names {absent}, which is not there")
    given = [label_of[name] for name in names]
    sizes = {len(label) if isinstance(label, list) else 0 for label in given}
    if len(sizes) > 1:
        raise DatasetError(f"the labels of {where} differ in kind; give classes only, or vectors of one length")
    if sizes != {0}:
        return replace(_unlabelled(files, positions), vectors=np.array(given, np.float32))
    labels = np.array(given, np.int64)
    num_classes = int(labels.max()) + 1
    return PictureIndex(
        files, positions, labels, num_classes, _class_names(document.get("classes"), num_classes, where)
    )


def _entry(entry: Any, where: str) -> tuple[str, int | list[float]]:
    """A picture's name and its label, which is a class or a vector. Raises DatasetError."""
    match entry:
        case [str(name), int(label)] if not isinstance(label, bool):
            if not 0 <= label < MAX_LABEL:
                raise DatasetError(f"the label of {name} in {where} is {label}; it must be from 0 to {MAX_LABEL - 1}")
            return name, label
        case [str(name), [*values]] if 0 < len(values) <= MAX_VECTOR and all(map(_is_finite, values)):
            return name, values
    raise DatasetError(f"{where} lists {json.dumps(entry)[:100]}, which is no [name, label]")


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _LARGEST


def _class_names(given: Any, num_classes: int, where: str) -> tuple[str, ...]:
    """Names of the classes by label, which dataset.json may list. Raises DatasetError."""
    if given is None:
        return ()
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given) or len(given) < num_classes:
        raise DatasetError(
            f'"classes" of {where} must list the name of each of the {num_classes} classes, or be left out'
        )
    return tuple(given)
