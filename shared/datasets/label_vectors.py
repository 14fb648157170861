"""Which label vectors pictures are drawn with that are not given one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from phema.shared.datasets.pictures import Dataset


def vectors_of_seeds(dataset: Dataset, seeds: Sequence[int]) -> NDArray[np.float32]:
    """Float32 [n, D]: for each seed the label vector of a training picture, chosen by the seed alone."""
    count = len(dataset.train)
    # RandomState's stream is frozen by NumPy's policy; Generator's is not.
    chosen = [int(np.random.RandomState(seed % 2**32).randint(count)) for seed in seeds]
    return dataset.train.labels[chosen].astype(np.float32)
