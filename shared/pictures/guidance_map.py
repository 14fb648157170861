"""A figure over EMA length and guidance weight (the paper's Figure 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from phema.shared.pictures.measured import Curve, CurvePoint, FigureName, Measured
from phema.shared.pictures.measured_curves import SIGMA_REL, draw_curves, in_words
from phema.shared.pictures.theme import LIGHT, Format, Theme, image, page, percent, title


@dataclass(frozen=True)
class MapPoint:
    """A measured value at one EMA length and guidance weight. `tied` as in `CurvePoint`."""

    sigma_rel: float
    guidance: float
    measured: Measured
    tied: bool = False


def guidance_map(
    points: Sequence[MapPoint], figure_name: FigureName, *, theme: Theme = LIGHT, format: Format = "png"
) -> bytes:
    """PNG or SVG: left, a map of the values; right, one curve per guidance weight with bars of one standard error.

    A frame is around the best cell. Cells with a dot cannot be told from it. Empty cells were not measured.
    """
    with page(theme, (10.2, 4.2), 1, 2) as (figure, (left, right)):
        _draw_map(left, points, figure_name, theme)
        title(left, figure_name.title)
        weights = sorted({point.guidance for point in points})
        curves = [
            Curve(
                f"guidance {weight:g}",
                [CurvePoint(p.sigma_rel, p.measured, p.tied) for p in points if p.guidance == weight],
            )
            for weight in weights
        ]
        draw_curves(right, curves, figure_name, SIGMA_REL, theme=theme)
        if points:
            best = points[figure_name.best([point.measured.value for point in points])]
            where = f"best at {percent(best.sigma_rel)}, guidance {best.guidance:g}: {in_words(best.measured)}"
            title(right, where)
        figure.legend(*right.get_legend_handles_labels(), loc="outside lower right", ncols=min(5, max(1, len(curves))))
        return image(figure, format)


def _draw_map(axes: Axes, points: Sequence[MapPoint], figure_name: FigureName, theme: Theme) -> None:
    lengths, weights = sorted({p.sigma_rel for p in points}), sorted({p.guidance for p in points})
    values = np.full((len(weights), len(lengths)), np.nan)
    for point in points:
        values[weights.index(point.guidance), lengths.index(point.sigma_rel)] = point.measured.value
    axes.grid(False)
    axes.set_xlabel(SIGMA_REL.label)
    axes.set_ylabel("guidance weight")
    if not points:
        return
    colours = list(theme.heat) if figure_name.better == "lower" else list(reversed(theme.heat))
    ranks = _ranks(values)
    axes.imshow(ranks, origin="lower", aspect="auto", cmap=LinearSegmentedColormap.from_list("heat", colours))
    for point in points:
        row, column = weights.index(point.guidance), lengths.index(point.sigma_rel)
        goodness = ranks[row, column] if figure_name.better == "higher" else 1 - ranks[row, column]
        ink = "#ffffff" if goodness > 0.6 else theme.ink
        dot = "•" if point.tied else ""
        text = f"{point.measured.value:#.3g}".rstrip(".")
        axes.text(column, row, f"{text}{dot}", ha="center", va="center", fontsize=7.5, color=ink)
    best = points[figure_name.best([point.measured.value for point in points])]
    corner = (lengths.index(best.sigma_rel) - 0.5, weights.index(best.guidance) - 0.5)
    axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=theme.orange, linewidth=2.2))
    axes.set_xticks(range(len(lengths)), [percent(length) for length in lengths])
    axes.set_yticks(range(len(weights)), [f"{weight:g}" for weight in weights])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 0 to 1 in place of values, so that one bad cell does not take all colours. NaN stays."""
    flat = values.ravel()
    known = np.flatnonzero(np.isfinite(flat))
    ranks = np.full(flat.shape, np.nan)
    ranks[known] = np.argsort(np.argsort(flat[known])) / max(1, len(known) - 1)
    return ranks.reshape(values.shape)
