"""Find the pictures among the files of a dataset, and their labels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phema.shared.datasets.errors import DatasetError
from phema.shared.datasets.files.files import Files, unreadable

LABELS_FILE = "dataset.json"
PICTURES = (".png", ".jpg", ".jpeg")
ARRAYS = (".npy",)
_REFUSED = (".avif", ".bmp", ".gif", ".npz", ".ppm", ".tif", ".tiff", ".webp")
"""Other picture formats. They are an error: ignoring them silently could drop part of a dataset."""
MAX_LABEL = 2**20
HASHED_FILES = 16
"""Number of files whose bytes enter the fingerprint if the files have no checksums."""


@dataclass(frozen=True)
class PictureIndex:
    """The pictures among the files of a dataset, in the order of their names."""

    files: Files
    positions: NDArray[np.int64]
    """[N] positions of the pictures in `files.names`."""
    labels: NDArray[np.int64]
    """[N]; zeros for a dataset without labels."""
    num_classes: int
    """1 + the largest label; 0 for a dataset without labels."""
    classes: tuple[str, ...] = ()
    """Names of the class folders by label, if labels come from folders."""

    def __len__(self) -> int:
        return len(self.positions)

    def name(self, picture: int) -> str:
        return self.files.names[int(self.positions[picture])]

    @property
    def is_arrays(self) -> bool:
        return self.name(0).lower().endswith(ARRAYS)

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
        for position, label in zip(self.positions.tolist(), self.labels.tolist(), strict=True):
            shown = label if self.num_classes else "-"
            digest.update(f"{self.files.names[position]}\0{self.files.stamp(position)}\0{shown}\n".encode())
        return digest.hexdigest()


def index_pictures(files: Files) -> PictureIndex:
    """Pictures and their labels: from dataset.json at the top, else from class folders, else none.

    Raises DatasetError if there are no pictures, PNG/JPEG and NPY are mixed, or labels are missing or not valid.
    """
    positions = np.array([i for i, name in enumerate(files.names) if _is_picture(files, name)], np.int64)
    if not len(positions):
        allowed = ", ".join(PICTURES + ARRAYS)
        raise DatasetError(f"dataset {files.where} holds no pictures: no file ends in one of {allowed}")
    names = [files.names[i] for i in positions]
    arrays = [name.lower().endswith(ARRAYS) for name in names]
    if any(arrays) and not all(arrays):
        picture, latents = names[arrays.index(False)], names[arrays.index(True)]
        raise DatasetError(f"dataset {files.where} mixes pictures ({picture}) and arrays ({latents}); use one kind")
    if LABELS_FILE in files.names:
        listed = _labels_from_json(files, names)
        return (
            _unlabelled(files, positions)
            if listed is None
            else PictureIndex(files, positions, listed, int(listed.max()) + 1)
        )
    misplaced = next((name for name in files.names if name.endswith(f"/{LABELS_FILE}")), None)
    if misplaced is not None:
        raise DatasetError(f"{misplaced} in dataset {files.where} must lie at the top, beside the folders it names")
    folders = _class_folders(files, names)
    if folders is None:
        return _unlabelled(files, positions)
    # By text, also where all names are numbers ("10" before "9"), as published dataset tools do: labels must agree with
    # those of networks and statistics made with them.
    classes = sorted(set(folders))
    label_of = {name: label for label, name in enumerate(classes)}
    labels = np.array([label_of[folder] for folder in folders], np.int64)
    return PictureIndex(files, positions, labels, len(classes), tuple(classes))


def labels_document(names: Sequence[str], labels: Sequence[int] | None) -> bytes:
    """The bytes of dataset.json for pictures of those names."""
    listed = None if labels is None else [[name, label] for name, label in zip(names, labels, strict=True)]
    return json.dumps({"labels": listed}).encode()


def _is_picture(files: Files, name: str) -> bool:
    lower = name.lower()
    if lower.endswith(_REFUSED):
        raise DatasetError(f"{name} in dataset {files.where} is of no kind that is read; use PNG, JPEG or NPY")
    return lower.endswith(PICTURES + ARRAYS)


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
        )
    return [path[0] for path in parts]


def _labels_from_json(files: Files, names: Sequence[str]) -> NDArray[np.int64] | None:
    """Labels from dataset.json, in the order of `names`; None if it says that there are none."""
    where = f"{LABELS_FILE} in dataset {files.where}"
    position = files.names.index(LABELS_FILE)
    try:
        document: Any = json.loads(files.read(position))
    except (ValueError, RecursionError) as error:
        raise unreadable(files, position, f"it is no valid JSON ({error})") from error
    if not isinstance(document, dict) or "labels" not in document:
        raise DatasetError(f'{where} must be an object with "labels", a list of [name, label], or null for none')
    if document["labels"] is None:
        return None
    if not isinstance(document["labels"], list):
        raise DatasetError(f'"labels" of {where} must be a list of [name, label], or null for none')
    label_of: dict[str, int] = {}
    for entry in document["labels"]:
        match entry:
            case [str(name), int(label)] if not isinstance(label, bool):
                if not 0 <= label < MAX_LABEL:
                    raise DatasetError(
                        f"the label of {name} in {where} is {label}; it must be from 0 to {MAX_LABEL - 1}"
                    )
                if name in label_of:
                    raise DatasetError(f"{where} names {name} twice")
                label_of[name] = label
            case _:
                raise DatasetError(f"{where} lists {json.dumps(entry)[:100]}, which is no [name, label]")
    missing = next((name for name in names if name not in label_of), None)
    if missing is not None:
        raise DatasetError(f"{missing} in dataset {files.where} has no label: {LABELS_FILE} does not name it")
    if len(label_of) > len(names):
        absent = min(label_of.keys() - set(names))
        raise DatasetError(f"{where} names {absent}, which is not there")
    return np.array([label_of[name] for name in names], np.int64)
