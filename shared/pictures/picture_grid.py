"""Many pictures as one, the way people look at them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_GAP = 2
_COMFORTABLE = 48
"""Smaller pictures are enlarged to about this many pixels, or 8x8 digits would be specks."""


def picture_grid(pictures: NDArray[np.float32], columns: int) -> NDArray[np.uint8]:
    """Pictures float [N, C, H, W] in [-1, 1], row by row on white: uint8 [height, width], or [height, width, 3].

    One or two channels show the first as grey, three or more the first three as red, green and blue. Values outside
    the range are clipped. Tiny pictures are enlarged by whole factors without smoothing.
    """
    n, channels, height, width = pictures.shape
    colours = 3 if channels >= 3 else 1
    scale = max(1, _COMFORTABLE // max(height, width))
    rows = -(-n // columns)
    cell_h, cell_w = height * scale + _GAP, width * scale + _GAP
    canvas = np.full((rows * cell_h + _GAP, columns * cell_w + _GAP, colours), 255, np.uint8)
    levels = np.rint((np.clip(pictures[:, :colours], -1, 1) + 1) * 127.5).astype(np.uint8)
    for i, picture in enumerate(levels):
        tile = picture.transpose(1, 2, 0).repeat(scale, axis=0).repeat(scale, axis=1)
        top, left = _GAP + i // columns * cell_h, _GAP + i % columns * cell_w
        canvas[top : top + height * scale, left : left + width * scale] = tile
    return canvas[:, :, 0] if colours == 1 else canvas
