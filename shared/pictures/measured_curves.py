"""Curves of a figure with error bars: over the EMA length (the paper's Figure 5a), guidance, or noise levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from phema.shared.pictures.measured import Curve, FigureName, Measured
from phema.shared.pictures.theme import LIGHT, WIDTH, Format, Theme, image, page, percent, title

_WIDE = 8.0
"""Ratio of the largest to the smallest place from which on the axis is logarithmic."""
_LABEL_INCHES = 0.46
"""Width that a tick label needs."""


@dataclass(frozen=True)
class HorizontalAxis:
    """What a curve's `x` is. `kind` decides the tick labels."""

    label: str
    kind: Literal["share", "number"] = "number"

    def text(self, value: float) -> str:
        return percent(value) if self.kind == "share" else f"{value:.4g}"


SIGMA_REL = HorizontalAxis("EMA length σ_rel", "share")


def measured_curves(
    curves: Sequence[Curve],
    figure_name: FigureName,
    axis: HorizontalAxis = SIGMA_REL,
    *,
    marked: Sequence[float] = (),
    logarithmic: bool = False,
    theme: Theme = LIGHT,
    format: Format = "png",
) -> bytes:
    """PNG or SVG: one curve per run or setting, with bars of one standard error.

    A ring is around the best point of each curve. Full circles cannot be told from it; hollow ones are worse. Dotted
    lines are at the places `marked`, such as the EMA lengths that were stored. `logarithmic` scales the values.
    """
    with page(theme, (WIDTH, 3.9)) as (figure, (axes,)):
        draw_curves(axes, curves, figure_name, axis, marked=marked, theme=theme)
        title(axes, figure_name.title)
        if logarithmic:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        if len(curves) > 1 or any(curve.reference for curve in curves):
            figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=min(4, 2 * len(curves)))
        elif curves and (words := best_in_words(curves[0], figure_name, axis)):
            title(axes, words, "right", theme.curve(0))
        return image(figure, format)


def draw_curves(
    axes: Axes,
    curves: Sequence[Curve],
    figure_name: FigureName,
    axis: HorizontalAxis,
    *,
    marked: Sequence[float] = (),
    theme: Theme = LIGHT,
) -> None:
    """Draw into one panel what `measured_curves` draws. Call it within `page`."""
    for place in marked:
        axes.axvline(place, color=theme.faint, linestyle=":", linewidth=1.2, zorder=0)
    ties_known = any(point.tied for curve in curves for point in curve.points)
    for index, curve in enumerate(curves):
        _draw_curve(axes, curve, figure_name, theme.curve(index), theme.background if ties_known else None)
        if curve.reference is not None:
            _draw_level(axes, curve.reference, curve.reference_label, theme.curve(index))
    set_places(axes, sorted({point.x for curve in curves for point in curve.points}), axis)
    axes.margins(y=0.12)


def best_in_words(curve: Curve, figure_name: FigureName, axis: HorizontalAxis) -> str:
    """Where a curve is best, and its value there; empty for a curve without points."""
    if not curve.points:
        return ""
    best = curve.points[figure_name.best([point.measured.value for point in curve.points])]
    return f"best at {axis.text(best.x)}: {in_words(best.measured)}"


def in_words(measured: Measured) -> str:
    """The value and its standard error, rounded to one digit of the error, or to two if the first is 1 or 2."""
    error = measured.standard_error
    if error is None or not error > 0:
        return f"{measured.value:#.4g}".rstrip(".")
    power = int(np.floor(np.log10(error)))
    digits = 2 if error < 3 * 10.0**power else 1
    places = max(0, digits - 1 - power)
    return f"{measured.value:.{places}f} ± {error:.{places}f}"


def error_bars(values: Sequence[Measured]) -> list[float]:
    """Half lengths of the bars; 0 where the standard error is unknown."""
    return [value.standard_error or 0.0 for value in values]


def set_places(axes: Axes, places: Sequence[float], axis: HorizontalAxis) -> None:
    """Scale, tick labels and name of the horizontal axis whose measured places are `places`, in order."""
    axes.set_xlabel(axis.label)
    if not places:
        return
    if places[0] > 0 and places[-1] / places[0] >= _WIDE:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    ticks = _apart(places, _LABEL_INCHES / _width(axes), logarithmic=axes.get_xscale() == "log")
    axes.set_xticks(ticks, [axis.text(tick) for tick in ticks])


def _draw_curve(axes: Axes, curve: Curve, figure_name: FigureName, colour: str, hollow: str | None) -> None:
    """`hollow` fills points that are not tied; None fills all points with the curve's colour."""
    points = sorted(curve.points, key=lambda point: point.x)
    if not points:
        return
    x, values = [point.x for point in points], [point.measured for point in points]
    y = [value.value for value in values]
    axes.errorbar(
        x, y, error_bars(values), color=colour, linewidth=1.6, elinewidth=1.1, capsize=2.5, label=curve.label, zorder=2
    )
    for point in points:
        face = colour if point.tied or hollow is None else hollow
        axes.plot(point.x, point.measured.value, "o", markersize=4.8, color=colour, markerfacecolor=face, zorder=3)
    best = figure_name.best(y)
    axes.plot(x[best], y[best], "o", markersize=12, markerfacecolor="none", markeredgecolor=colour, mew=1.8, zorder=4)


def _draw_level(axes: Axes, measured: Measured, label: str, colour: str) -> None:
    axes.axhline(measured.value, color=colour, linestyle=(0, (5, 3)), linewidth=1.2, label=label, zorder=1)
    if measured.standard_error:
        low, high = measured.value - measured.standard_error, measured.value + measured.standard_error
        axes.axhspan(low, high, color=colour, alpha=0.12, linewidth=0, zorder=0)


def _width(axes: Axes) -> float:
    """About the inches of a panel in a row of panels."""
    spec, figure = axes.get_subplotspec(), axes.get_figure(root=True)
    columns = 1 if spec is None else spec.get_geometry()[1]
    return WIDTH if figure is None else float(figure.get_size_inches()[0]) / columns


def _apart(places: Sequence[float], share: float, *, logarithmic: bool) -> list[float]:
    """Those of `places`, in order, that are at least `share` of the axis apart. The first and the last are kept."""
    scaled = np.log(places) if logarithmic else np.asarray(places)
    least = share * float(scaled[-1] - scaled[0])
    kept = [0]
    for index in range(1, len(places)):
        if scaled[index] - scaled[kept[-1]] >= least:
            kept.append(index)
    last = len(places) - 1
    if kept[-1] != last:
        kept[-1] = last
    return [places[index] for index in kept]
