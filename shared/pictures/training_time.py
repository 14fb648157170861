"""The best EMA length over training time (the paper's Figure 5c)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.ticker import FuncFormatter

from phema.shared.pictures.measured import FigureName, Measured
from phema.shared.pictures.measured_curves import error_bars
from phema.shared.pictures.theme import LIGHT, WIDTH, Format, Theme, image, page, percent, thousands, title


@dataclass(frozen=True)
class BestAtTime:
    """The best value at one training time, its EMA length, and the range of lengths that cannot be told from it."""

    num_images: int
    best: Measured
    sigma_rel: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class BestOverTime:
    """Best values of one run, in order of time."""

    label: str
    times: Sequence[BestAtTime]


def best_over_training_time(
    runs: Sequence[BestOverTime], figure_name: FigureName, *, theme: Theme = LIGHT, format: Format = "png"
) -> bytes:
    """PNG or SVG: above, the best value at each time; below, the EMA length at which it lies.

    Bars above are one standard error. Bars below span the measured lengths that cannot be told from the best.
    """
    with page(theme, (WIDTH, 5.2), rows=2, sharex=True) as (figure, (upper, lower)):
        for index, run in enumerate(runs):
            colour, times = theme.curve(index), [time.num_images for time in run.times]
            best = [time.best for time in run.times]
            bars: dict[str, Any] = {"color": colour, "marker": "o", "markersize": 4.5, "linewidth": 1.6, "capsize": 2.5}
            upper.errorbar(times, [m.value for m in best], error_bars(best), **bars, elinewidth=1.1, label=run.label)
            lengths = [time.sigma_rel for time in run.times]
            below = [time.sigma_rel - time.lowest for time in run.times]
            above = [time.highest - time.sigma_rel for time in run.times]
            lower.errorbar(times, lengths, [below, above], **bars, elinewidth=4.5, ecolor=(colour, 0.22))
        title(upper, f"{figure_name.title}, best of all lengths")
        title(lower, "EMA length σ_rel of the best (bar: cannot be told from it)")
        lower.set_xlabel("images seen")
        lower.set_ylim(bottom=0)
        lower.yaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(value)))
        lower.xaxis.set_major_formatter(FuncFormatter(thousands))
        if len(runs) > 1:
            figure.legend(*upper.get_legend_handles_labels(), loc="outside lower center", ncols=min(4, len(runs)))
        return image(figure, format)
