"""The answer of a search over the EMA length: the model of the figure, and the interval of the optimum."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from phema.shared.pictures.measured import FigureName, Measured
from phema.shared.pictures.measured_curves import SIGMA_REL, error_bars, in_words, set_places
from phema.shared.pictures.theme import LIGHT, WIDTH, Format, Theme, image, page, percent, title


def search_model(
    curve: Sequence[tuple[float, float, float]],
    sigma_rel: float,
    interval: tuple[float, float],
    answer: Measured,
    figure_name: FigureName,
    *,
    theme: Theme = LIGHT,
    format: Format = "png",
) -> bytes:
    """PNG or SVG: the model as a line with a band of one standard deviation, and the answer with its error.

    `curve` is (σ_rel, mean, standard deviation) on a grid. The shaded stretch of the axis is `interval`.
    """
    places, means, deviations = (np.array(values) for values in zip(*sorted(curve), strict=True))
    with page(theme, (WIDTH, 3.2)) as (figure, (axes,)):
        axes.axvspan(*interval, color=theme.green, alpha=0.13, linewidth=0, zorder=0)
        axes.fill_between(places, means - deviations, means + deviations, color=theme.blue, alpha=0.2, linewidth=0)
        axes.plot(places, means, color=theme.blue, linewidth=1.6)
        axes.errorbar([sigma_rel], [answer.value], error_bars([answer]), fmt="o", color=theme.orange, capsize=3)
        set_places(axes, sorted({float(places[0]), *interval, sigma_rel, float(places[-1])}), SIGMA_REL)
        title(axes, figure_name.title)
        title(axes, f"optimum at {percent(sigma_rel)}: {in_words(answer)}", "right", theme.orange)
        return image(figure, format)
