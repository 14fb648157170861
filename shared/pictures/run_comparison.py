"""Runs side by side: the best value of each, and its difference to the best of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from phema.shared.pictures.measured import FigureName, Measured
from phema.shared.pictures.measured_curves import in_words
from phema.shared.pictures.theme import LIGHT, WIDTH, Format, Theme, image, page, title


@dataclass(frozen=True)
class ComparedRow:
    """One line: what is compared, its value, and its difference to the best line; None for the best itself."""

    label: str
    measured: Measured
    difference: Measured | None


def run_comparison(
    rows: Sequence[ComparedRow], figure_name: FigureName, *, theme: Theme = LIGHT, format: Format = "png"
) -> bytes:
    """PNG or SVG: left, the values; right, differences to the best. Bars are one and two standard errors.

    A difference whose longer bar crosses 0 decides nothing.
    """
    with page(theme, (WIDTH, 1.35 + 0.42 * len(rows)), 1, 2) as (figure, (left, right)):
        left.set_yticks(range(len(rows)), [row.label for row in rows])
        right.set_yticks([])
        right.axvline(0, color=theme.ink, linewidth=0.9, zorder=1)
        for index, row in enumerate(rows):
            colour = theme.curve(index)
            _bar(left, row.measured, index, colour)
            if row.difference is None:
                right.text(0, index, " best", va="center", color=colour, fontweight="bold")
            else:
                _bar(right, row.difference, index, colour)
        for axes in (left, right):
            axes.set_ylim(len(rows) - 0.4, -0.6)
            axes.grid(True, axis="x")
            axes.grid(False, axis="y")
            axes.spines["left"].set_visible(False)
            axes.tick_params(axis="y", length=0)
            axes.margins(x=0.14)
        figure.suptitle(figure_name.title, x=0.01, ha="left", fontsize=10, fontweight="bold")
        title(left, "Value")
        title(right, "Difference to the best")
        return image(figure, format)


def _bar(axes: Axes, measured: Measured, place: int, colour: str) -> None:
    error = measured.standard_error or 0.0
    axes.errorbar(measured.value, place, xerr=2 * error, color=colour, elinewidth=1.2, capsize=3, zorder=2)
    axes.errorbar(measured.value, place, xerr=error, fmt="o", color=colour, markersize=5.5, elinewidth=3.5, zorder=3)
    axes.annotate(
        in_words(measured),
        (measured.value, place),
        xytext=(0, 7),
        textcoords="offset points",
        ha="center",
        fontsize=8,
        color=colour,
    )
