"""What all figures share: colours for light and dark pages, a styled page of panels, PNG and SVG bytes."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from matplotlib import rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

DPI = 150
Format = Literal["png", "svg"]
_DRAWING = threading.RLock()
"""Matplotlib's style is one for the whole process, and the API draws in several threads."""
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
    others: tuple[str, ...]
    """Further colours, for pictures of more than four curves."""
    heat: tuple[str, str]
    """Ends of the colours of a map: of the best value, and of the worst."""

    @property
    def curves(self) -> tuple[str, ...]:
        """Colours of curves, in order."""
        return (self.blue, self.orange, self.green, self.violet, *self.others)

    def curve(self, index: int) -> str:
        """Colour of one curve. Colours repeat after the last one."""
        return self.curves[index % len(self.curves)]


LIGHT = Theme(
    *("#ffffff", "#1d2430", "#b8bfca", "#1f5fbf", "#c4501b", "#2c7a3f", "#7a3fa0"),
    others=("#8a6a00", "#0a7f88", "#b0306a", "#5a6472"),
    heat=("#1f5fbf", "#f2f4f8"),
)
DARK = Theme(
    *("#15191f", "#e6e9ee", "#4a5361", "#78b0ff", "#ff9a5c", "#7ccf8e", "#cc9bf0"),
    others=("#e0c060", "#5fd0d8", "#f08ab8", "#a8b2c0"),
    heat=("#3f7fdf", "#1c222b"),
)


@contextmanager
def page(
    theme: Theme, size: tuple[float, float], rows: int = 1, columns: int = 1, sharex: bool = False
) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure of `size` inches in the theme's colours, and its `rows` x `columns` panels as a flat list.

    The style holds inside the block only: draw and call `image` there. One thread draws at a time.
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
        "svg.hashsalt": "phema",
    }
    with _DRAWING, rc_context(style):
        figure = Figure(size, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))
        yield figure, list(figure.subplots(rows, columns, squeeze=False, sharex=sharex).flat)


def image(figure: Figure, format: Format = "png") -> bytes:
    """The figure as a PNG or SVG; equal figures give equal bytes."""
    file = io.BytesIO()
    figure.savefig(file, format=format, dpi=DPI, metadata={"Software": None} if format == "png" else {"Date": None})
    return file.getvalue()


def title(axes: Axes, text: str, side: Literal["left", "right"] = "left", colour: str | None = None) -> None:
    """The title of a panel, in the style of all figures."""
    axes.set_title(text, loc=side, fontsize=10, fontweight="bold", color=colour or rcParams["axes.titlecolor"])


def percent(value: float) -> str:
    """An EMA length as text: 0.13 becomes 13 %."""
    return f"{100 * value:.4g} %"


def thousands(value: float, _position: int | None) -> str:
    """Tick label of a number of images: 12800 becomes 12.8k. A matplotlib tick formatter."""
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"
