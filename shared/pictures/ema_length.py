"""Figures of networks over the EMA length σ_rel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from phema.shared.pictures.theme import LIGHT, WIDTH, Theme, page, png


@dataclass(frozen=True)
class Point:
    """One EMA length and the figures of its network."""

    sigma_rel: float
    frechet: float
    held_out_loss: float


def ema_length_curve(points: Sequence[Point], tracked: Sequence[float], theme: Theme = LIGHT) -> bytes:
    """PNG: Fréchet distance and held-out loss over sigma_rel, the lowest of each marked.

    Dotted lines mark `tracked`, the sigma_rel of the EMAs stored during training.
    """
    with page(theme, (WIDTH, 5.2), rows=2, sharex=True) as (figure, (upper, lower)):
        x = [100 * point.sigma_rel for point in points]
        for axes, values, colour, name in (
            (upper, [point.frechet for point in points], theme.blue, "Fréchet distance"),
            (lower, [point.held_out_loss for point in points], theme.orange, "Held-out denoising loss"),
        ):
            for sigma_rel in tracked:
                axes.axvline(100 * sigma_rel, color=theme.faint, linestyle=":", linewidth=1.2, zorder=0)
            axes.plot(x, values, color=colour, marker="o", markersize=4.5, linewidth=1.8)
            _mark_lowest(axes, x, values, colour)
            axes.set_title(name, loc="left", fontsize=10, fontweight="bold")
        lower.set_xlabel("EMA length σ_rel (dotted: the two that were tracked during training)")
        lower.set_xticks(x, [f"{value:g} %" for value in x])
        return png(figure)


def _mark_lowest(axes: Axes, x: Sequence[float], values: Sequence[float], colour: str) -> None:
    best = int(np.argmin(values))
    axes.plot(x[best], values[best], "o", markersize=13, markerfacecolor="none", markeredgecolor=colour, mew=2)
    lowest = f"{values[best]:#.4g}".rstrip(".")
    axes.set_title(f"best at {x[best]:g} %: {lowest}", loc="right", fontsize=10, fontweight="bold", color=colour)
    axes.margins(y=0.15)
