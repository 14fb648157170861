"""A curve in the size of a word, as the path of an SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT, MARGIN = 96, 26, 2
"""In pixels."""


@dataclass(frozen=True)
class Sparkline:
    """`path` is the attribute `d` in a box of WIDTH x HEIGHT; `end` its last point; `words` describe the curve."""

    path: str
    end: tuple[float, float]
    words: str

    width = WIDTH
    height = HEIGHT


def sparkline(curve: Sequence[tuple[int, float]], total: int, name: str) -> Sparkline | None:
    """The curve over the images 0 to `total`, logarithmic if all values are positive; None if it is empty."""
    values = [value for _, value in curve]
    if not values:
        return None
    scale = math.log if min(values) > 0 else float
    low, high = scale(min(values)), scale(max(values))
    span = (high - low) or 1.0
    total = max(total, curve[-1][0], 1)
    points = [
        (
            MARGIN + (WIDTH - 2 * MARGIN) * images / total,
            HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (scale(value) - low) / span,
        )
        for images, value in curve
    ]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return Sparkline(path, points[-1], f"{name} from {values[0]:.3g} to {values[-1]:.3g}")
