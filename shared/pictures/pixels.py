"""From the values that networks draw to the pixels that people see."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def to_pixels(pictures: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Pictures float [N, C, H, W] in [-1, 1] as uint8 [N, H, W, 1 or 3].

    One or two channels show the first as grey, three or more the first three as red, green and blue. Values are clipped
    to the range and rounded to the nearest of 256 levels.
    """
    colours = 3 if pictures.shape[1] >= 3 else 1
    levels = np.rint((np.clip(pictures[:, :colours], -1, 1) + 1) * 127.5).astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(0, 2, 3, 1))
