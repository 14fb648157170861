"""How a figure changes when one group of tensors has another EMA length (the paper's Figure 5b)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from phema.shared.pictures.measured import CurvePoint, FigureName
from phema.shared.pictures.measured_curves import SIGMA_REL, error_bars, set_places
from phema.shared.pictures.theme import LIGHT, WIDTH, Format, Theme, image, page, percent, title

HIGHLIGHTED = 6
"""Curves in colour: those that reach farthest from the baseline. The others are grey."""


@dataclass(frozen=True)
class TensorCurve:
    """Differences to the baseline when the tensors of `pattern` have the EMA length `x` and all others keep theirs."""

    pattern: str
    points: Sequence[CurvePoint]

    @property
    def reach(self) -> float:
        return max((abs(point.measured.value) for point in self.points), default=0.0)


def tensor_sensitivity(
    curves: Sequence[TensorCurve],
    sigma_rel: float,
    figure_name: FigureName,
    *,
    theme: Theme = LIGHT,
    format: Format = "png",
) -> bytes:
    """PNG or SVG: difference to the network in which every tensor has `sigma_rel`, with bars of one standard error."""
    shown = sorted(curves, key=lambda curve: curve.reach, reverse=True)
    with page(theme, (WIDTH, 4.2)) as (figure, (axes,)):
        axes.axhline(0, color=theme.ink, linewidth=0.9, zorder=1)
        axes.axvline(sigma_rel, color=theme.faint, linestyle=":", linewidth=1.2, zorder=0)
        for index, curve in enumerate(shown):
            points = sorted(curve.points, key=lambda point: point.x)
            x, values = [p.x for p in points], [p.measured for p in points]
            y = [value.value for value in values]
            if index < HIGHLIGHTED:
                look: dict[str, Any] = {"color": theme.curve(index), "linewidth": 1.6, "marker": "o", "markersize": 4}
                axes.errorbar(
                    x, y, error_bars(values), **look, elinewidth=1.0, capsize=2, label=curve.pattern, zorder=3
                )
            else:
                axes.plot(x, y, color=theme.faint, linewidth=1.0, zorder=2)
        set_places(axes, sorted({point.x for curve in curves for point in curve.points}), SIGMA_REL)
        axes.set_xlabel("EMA length σ_rel of the named tensors")
        side = "below 0 is better" if figure_name.better == "lower" else "above 0 is better"
        # A line of its own: the name of a figure alone may fill the width.
        title(axes, f"{figure_name.title}:\ndifference to {percent(sigma_rel)} for all tensors ({side})")
        if shown:
            figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
        return image(figure, format)
