"""Labels as a network takes them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def label_rows(labels: NDArray[np.int64] | NDArray[np.float32], label_dim: int) -> Tensor | None:
    """Float32 [N, label_dim]: one-hot rows of classes int64 [N], or label vectors float32 [N, label_dim] as they are.

    None for a network without labels (`label_dim` 0).
    """
    if not label_dim:
        return None
    given = torch.from_numpy(labels)
    return given if given.ndim == 2 else torch.nn.functional.one_hot(given, label_dim).float()
