"""The grid as a file."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from phema.shared.pictures.picture_grid import grid_png


def _decoded(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_pixels_lie_where_they_belong() -> None:
    pictures = np.linspace(-1, 1, 3 * 64, dtype=np.float32).reshape(3, 1, 8, 8)
    image = _decoded(grid_png(pictures, columns=2))
    assert image.shape == (2 * 50 + 2, 2 * 50 + 2)
    tile = image[2 : 2 + 48 : 6, 52 : 52 + 48 : 6]
    np.testing.assert_array_equal(tile, np.rint((pictures[1, 0] + 1) * 127.5).astype(np.uint8))
    assert image[2, 2] == 0
    assert (image[52:100, 52:100] == 255).all(), "the empty place is paper"


def test_colour_and_large_pictures_keep_their_size() -> None:
    pictures = np.zeros((4, 3, 64, 64), np.float32)
    pictures[:, 0] = 1
    image = _decoded(grid_png(pictures, columns=2))
    assert image.shape == (2 * 66 + 2, 2 * 66 + 2, 3)
    assert image[10, 10].tolist() == [255, 128, 128]


@pytest.mark.parametrize("channels", [2, 4])
def test_latents_are_shown_too(channels: int) -> None:
    assert _decoded(grid_png(np.zeros((1, channels, 8, 8), np.float32), columns=1)).shape[:2] == (52, 52)


def test_values_outside_the_range_are_clipped_and_bytes_repeat() -> None:
    pictures = np.array([-9.0, 9.0], np.float32).reshape(2, 1, 1, 1)
    image = _decoded(grid_png(pictures, columns=2))
    assert (image[2, 2], image[2, 52]) == (0, 255)
    assert grid_png(pictures, columns=2) == grid_png(pictures, columns=2)
