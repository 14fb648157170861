"""What all figures share: colours for light and dark pages, a styled page of panels, PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

DPI = 150
WIDTH = 8.0
"""Width in inches of a figure that fills a report's column."""


@dataclass(frozen=True)
class Theme:
    """Colours as `#rrggbb`, legible on `background`."""

    background: str
    ink: str
    faint: str
    blue: str
    orange: str
    green: str
    violet: str


LIGHT = Theme("#ffffff", "#1d2430", "#b8bfca", "#1f5fbf", "#c4501b", "#2c7a3f", "#7a3fa0")
DARK = Theme("#15191f", "#e6e9ee", "#4a5361", "#78b0ff", "#ff9a5c", "#7ccf8e", "#cc9bf0")


@contextmanager
def page(
    theme: Theme, size: tuple[float, float], rows: int = 1, columns: int = 1, sharex: bool = False
) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure of `size` inches in the theme's colours, and its `rows` x `columns` panels as a flat list.

    The style holds inside the block only: draw and call `png` there.
    """
    style: Any = {
        "figure.facecolor": theme.background,
        "axes.facecolor": theme.background,
        "savefig.facecolor": theme.background,
        "text.color": theme.ink,
        "axes.labelcolor": theme.ink,
        "axes.titlecolor": theme.ink,
        "axes.edgecolor": theme.faint,
        "xtick.color": theme.ink,
        "ytick.color": theme.ink,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "grid.color": theme.faint,
        "grid.alpha": 0.45,
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "font.size": 9,
    }
    with rc_context(style):
        figure = Figure(size, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))
        yield figure, list(figure.subplots(rows, columns, squeeze=False, sharex=sharex).flat)


def png(figure: Figure) -> bytes:
    """The figure as a PNG; equal figures give equal bytes."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    return file.getvalue()


def thousands(value: float, _position: int | None) -> str:
    """Tick label of a number of images: 12800 becomes 12.8k. A matplotlib tick formatter."""
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"
