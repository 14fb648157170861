"""The built-in dataset: the UCI pictures of handwritten digits that ship with scikit-learn."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from phema.shared.datasets.dataset_checks import DIGITS
from phema.shared.datasets.pictures import Dataset, InMemory
from phema.shared.datasets.splitting import split


def load_digits(*, held_out: int, max_images: int | None = None) -> Dataset:
    """1,797 grey 8x8 pictures of ten classes; values 0..16 are mapped to [-1, 1].

    The last `held_out` of one fixed shuffle are kept from training, and at most the first `max_images` are trained on.
    The file is ordered by writer, so without the shuffle they would come from a few writers. Raises DatasetError if no
    picture remains to train on.
    """
    train, kept = split(DIGITS, held_out, max_images)
    rows = np.loadtxt(_file(), delimiter=",", dtype=np.float32)
    images = rows[:, :64].reshape(-1, 1, 8, 8) / 8.0 - 1.0
    labels = rows[:, 64].astype(np.int64)
    return Dataset(DIGITS, InMemory(images[train], labels[train]), InMemory(images[kept], labels[kept]))


def _file() -> Path:
    """The file in scikit-learn's package: 64 pixels and the class per row. Importing the package takes seconds."""
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("the dataset of digits ships with scikit-learn, which is not installed")
    return Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
