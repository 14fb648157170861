"""Pictures as they are stored: a grid in one PNG."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from phema.shared.pictures.picture_grid import picture_grid


def grid_png(pictures: NDArray[np.float32], columns: int) -> bytes:
    """`picture_grid` of pictures float [N, C, H, W] in [-1, 1] as a PNG; equal pictures give equal bytes."""
    file = io.BytesIO()
    Image.fromarray(picture_grid(pictures, columns)).save(file, "PNG", optimize=True)
    return file.getvalue()
