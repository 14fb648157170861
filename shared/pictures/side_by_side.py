"""Grids of drawn pictures side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from phema.shared.pictures.theme import LIGHT, WIDTH, Format, Theme, image, page, title


@dataclass(frozen=True)
class Captioned:
    """A PNG and its caption."""

    caption: str
    png: bytes


def side_by_side(
    grids: Sequence[Captioned], columns: int = 3, *, theme: Theme = LIGHT, format: Format = "png"
) -> bytes:
    """PNG or SVG of grids with their captions, `columns` in a row. Pixels are not smoothed.

    Grids of equal seeds show the same noise at the same place, so that only the weights differ.
    """
    columns = max(1, min(columns, len(grids)))
    rows = -(-len(grids) // columns)
    side = WIDTH / columns
    with page(theme, (WIDTH, rows * (0.93 * side + 0.25)), max(1, rows), columns) as (figure, panels):
        for axes, grid in zip(panels, grids, strict=False):
            pixels = np.asarray(Image.open(io.BytesIO(grid.png)).convert("RGB"))
            axes.imshow(pixels, interpolation="nearest" if len(pixels) < side * 150 else "antialiased")
            title(axes, grid.caption)
        for axes in panels:
            axes.set_axis_off()
        return image(figure, format)
