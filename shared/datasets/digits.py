"""The built-in dataset: the UCI pictures of handwritten digits that ship with scikit-learn."""

from __future__ import annotations

import numpy as np

from phema.shared.datasets.dataset_checks import DIGITS
from phema.shared.datasets.pictures import Dataset, InMemory

_SPLIT_SEED = 0


def load_digits(*, held_out: int) -> Dataset:
    """1,797 grey 8x8 pictures of ten classes; values 0..16 are mapped to [-1, 1].

    The last `held_out` of one fixed shuffle are kept from training. The file is ordered by writer, so without the
    shuffle they would come from a few writers. Raises DatasetError if no picture remains to train on.
    """
    from sklearn.datasets import load_digits as load_bunch  # takes seconds to import

    DIGITS.check_held_out(held_out)
    bunch = load_bunch()
    images = (bunch.images.astype(np.float32) / 8.0 - 1.0)[:, None]
    labels = bunch.target.astype(np.int64)
    # RandomState's stream is frozen by NumPy's policy; Generator's is not.
    order = np.random.RandomState(_SPLIT_SEED).permutation(len(images))
    train, kept = order[: len(images) - held_out], order[len(images) - held_out :]
    return Dataset(DIGITS, InMemory(images[train], labels[train]), InMemory(images[kept], labels[kept]))
