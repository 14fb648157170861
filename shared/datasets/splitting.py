"""Which pictures of a dataset a run trains on, and which it holds out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from phema.shared.datasets.dataset_checks import DatasetInfo
from phema.shared.datasets.errors import DatasetError

_SPLIT_SEED = 0


def split(
    info: DatasetInfo, held_out: int, max_images: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the pictures (to train on, held out), in the order of one fixed shuffle.

    The last `held_out` of the shuffle are held out, so a larger number holds out the same ones and more. At most the
    first `max_images` are trained on, so a larger number trains on the same ones and more. Raises DatasetError if no
    picture remains to train on.
    """
    if held_out >= info.num_pictures:
        raise DatasetError(
            f"dataset.held_out is {held_out}, but {info.name} has {info.num_pictures} pictures; hold out fewer"
        )
    # RandomState's stream is frozen by NumPy's policy; Generator's is not.
    order = np.random.RandomState(_SPLIT_SEED).permutation(info.num_pictures).astype(np.int64)
    end = info.num_pictures - held_out
    return order[: end if max_images is None else min(end, max_images)], order[end:]
