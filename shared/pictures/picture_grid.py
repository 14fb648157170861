"""Many pictures in one, as an array and as a PNG."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from phema.shared.pictures.pixels import to_pixels

_GAP = 2
"""White pixels between pictures."""
_MIN_SIZE = 48
"""Smaller pictures are enlarged to about this many pixels: 8x8 digits would be hard to see."""


def picture_grid(pictures: NDArray[np.float32], columns: int) -> NDArray[np.uint8]:
    """Pictures float [N, C, H, W] in [-1, 1], row by row on white: uint8 [height, width], or [height, width, 3].

    Colours and rounding are those of `to_pixels`; see `pixel_grid`.
    """
    return pixel_grid(to_pixels(pictures), columns)


def pixel_grid(pixels: NDArray[np.uint8], columns: int) -> NDArray[np.uint8]:
    """Pictures uint8 [N, H, W, 1 or 3], row by row on white: uint8 [height, width], or [height, width, 3].

    Tiny pictures are enlarged by whole factors without smoothing.
    """
    n, height, width, colours = pixels.shape
    scale = max(1, _MIN_SIZE // max(height, width))
    rows = -(-n // columns)
    cell_h, cell_w = height * scale + _GAP, width * scale + _GAP
    canvas = np.full((rows * cell_h + _GAP, columns * cell_w + _GAP, colours), 255, np.uint8)
    for i, picture in enumerate(pixels):
        tile = picture.repeat(scale, axis=0).repeat(scale, axis=1)
        top, left = _GAP + i // columns * cell_h, _GAP + i % columns * cell_w
        canvas[top : top + height * scale, left : left + width * scale] = tile
    return canvas[:, :, 0] if colours == 1 else canvas


def grid_png(pictures: NDArray[np.float32], columns: int) -> bytes:
    """`picture_grid` of pictures float [N, C, H, W] in [-1, 1] as a PNG; equal pictures give equal bytes."""
    return encoded_png(picture_grid(pictures, columns))


def encoded_png(canvas: NDArray[np.uint8]) -> bytes:
    """A picture uint8 [height, width] or [height, width, 3] as a PNG; equal pictures give equal bytes."""
    file = io.BytesIO()
    Image.fromarray(canvas).save(file, "PNG", optimize=True)
    return file.getvalue()
