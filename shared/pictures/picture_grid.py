"""Many pictures in one, as an array and as a PNG."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_GAP = 2
"""White pixels between pictures."""
_MIN_SIZE = 48
"""Smaller pictures are enlarged to about this many pixels: 8x8 digits would be hard to see."""


def picture_grid(pictures: NDArray[np.float32], columns: int) -> NDArray[np.uint8]:
    """Pictures float [N, C, H, W] in [-1, 1], row by row on white: uint8 [height, width], or [height, width, 3].

    One or two channels show the first as grey, three or more the first three as red, green and blue. Values outside
    the range are clipped. Tiny pictures are enlarged by whole factors without smoothing.
    """
    n, channels, height, width = pictures.shape
    colours = 3 if channels >= 3 else 1
    scale = max(1, _MIN_SIZE // max(height, width))
    rows = -(-n // columns)
    cell_h, cell_w = height * scale + _GAP, width * scale + _GAP
    canvas = np.full((rows * cell_h + _GAP, columns * cell_w + _GAP, colours), 255, np.uint8)
    levels = np.rint((np.clip(pictures[:, :colours], -1, 1) + 1) * 127.5).astype(np.uint8)
    for i, picture in enumerate(levels):
        tile = picture.transpose(1, 2, 0).repeat(scale, axis=0).repeat(scale, axis=1)
        top, left = _GAP + i // columns * cell_h, _GAP + i % columns * cell_w
        canvas[top : top + height * scale, left : left + width * scale] = tile
    return canvas[:, :, 0] if colours == 1 else canvas


def grid_png(pictures: NDArray[np.float32], columns: int) -> bytes:
    """`picture_grid` of pictures float [N, C, H, W] in [-1, 1] as a PNG; equal pictures give equal bytes."""
    file = io.BytesIO()
    Image.fromarray(picture_grid(pictures, columns)).save(file, "PNG", optimize=True)
    return file.getvalue()
