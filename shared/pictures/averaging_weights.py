"""The picture of what sigma_rel means: the weight that each moment of training has in the average.

python -m phema.shared.pictures.averaging_weights docs/pictures/sigma_rel.png
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.ticker import FuncFormatter

from phema.shared.edm2.averaging.power_function import gamma_from_sigma_rel
from phema.shared.pictures.theme import LIGHT, Format, Theme, image, page

WIDTH, HEIGHT = 8.0, 2.7


def power_function_weights(sigma_rels: Sequence[float], theme: Theme = LIGHT, format: Format = "png") -> bytes:
    """PNG or SVG of power-function averaging weights over training (Karras et al. 2024, Section 3.1).

    One curve per sigma_rel. A bar under each curve is its standard deviation: `sigma_rel` times the length of training.
    """
    times = np.linspace(0, 1, 1001)
    colours = (theme.blue, theme.orange, theme.green, theme.violet)
    with page(theme, (WIDTH, HEIGHT)) as (figure, (axes,)):
        for index, (sigma_rel, colour) in enumerate(zip(sigma_rels, colours, strict=False)):
            gamma = gamma_from_sigma_rel(sigma_rel)
            density = (gamma + 1) * times**gamma
            axes.plot(times, density, color=colour, linewidth=1.8, label=f"σ_rel {sigma_rel:.2f}")
            axes.fill_between(times, density, color=colour, alpha=0.12, linewidth=0)
            mean, height = (gamma + 1) / (gamma + 2), -0.55 - 0.75 * index
            ends = [mean - sigma_rel, mean + sigma_rel]
            axes.plot(ends, [height] * 2, color=colour, linewidth=3.5, solid_capstyle="butt")
            axes.plot([mean], [height], "|", color=theme.ink, markersize=7)
        axes.set_xlim(0, 1)
        axes.set_yticks([])
        axes.grid(False)
        axes.axhline(0, color=theme.faint, linewidth=0.8)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.0f} %"))
        axes.set_xlabel("training time at which the averaged weights were current (bars: mean ± σ_rel)")
        axes.set_title("Weight of each moment of training in the average", loc="left", fontsize=10, fontweight="bold")
        axes.legend(loc="upper left")
        return image(figure, format)


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(power_function_weights([0.05, 0.10, 0.20]))
