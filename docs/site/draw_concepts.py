"""Draws the pictures of docs/concepts: python docs/site/draw_concepts.py

Each picture is computed from the same code that plans reconstructions, and is the same at every call.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from phema.shared.edm2.averaging.posthoc import solve
from phema.shared.edm2.averaging.power_function import beta, gamma_from_sigma_rel
from phema.shared.edm2.averaging.weightings import DecayWeighting, ExponentialWeighting, PowerWeighting
from phema.shared.pictures.theme import LIGHT, image, page, thousands, title

FOLDER = Path(__file__).parents[1] / "pictures" / "concepts"
IMAGES = 1_000_000
"""Length of the training that every picture shows."""
COLOURS = (LIGHT.blue, LIGHT.orange, LIGHT.green)


def bias_and_noise() -> bytes:
    """One weight in training, and its averages of three lengths: the short one is noisy, the long one lags behind."""
    steps = 4000
    times = np.arange(1, steps + 1) * IMAGES / steps
    noise = np.random.default_rng(7).normal(size=steps)
    correlated = np.zeros(steps)
    for step in range(1, steps):
        correlated[step] = 0.93 * correlated[step - 1] + noise[step]
    path = 1 - np.exp(-3.2 * times / IMAGES) + 0.022 * correlated
    with page(LIGHT, (8.0, 3.0)) as (figure, (axes,)):
        axes.plot(times, path, color=LIGHT.faint, linewidth=0.5, label="the weight itself")
        for sigma_rel, colour in zip((0.01, 0.08, 0.25), COLOURS, strict=True):
            gamma, average = gamma_from_sigma_rel(sigma_rel), np.empty(steps)
            average[0] = path[0]
            for step in range(1, steps):
                decay = beta(gamma, times[step], times[step] - times[step - 1])
                average[step] = decay * average[step - 1] + (1 - decay) * path[step]
            axes.plot(times, average, color=colour, linewidth=1.6, label=f"average, σ_rel {sigma_rel:g}")
        axes.set_xlim(0, IMAGES)
        axes.set_yticks([])
        axes.grid(False)
        axes.xaxis.set_major_formatter(FuncFormatter(thousands))
        axes.set_xlabel("images seen")
        title(axes, "One weight of a network, and its averages (simulated)")
        axes.legend(loc="lower right")
        return image(figure)


def lengths_in_images() -> bytes:
    """Where half and nine tenths of an average's weight lie, after 1 M images."""
    lengths = (0.01, 0.03, 0.05, 0.10, 0.15, 0.20, 0.25)
    with page(LIGHT, (8.0, 2.9)) as (figure, (axes,)):
        for row, sigma_rel in enumerate(lengths):
            exponent = gamma_from_sigma_rel(sigma_rel) + 1
            half, most = (IMAGES * share ** (1 / exponent) for share in (0.5, 0.1))
            axes.barh(row, IMAGES - most, left=most, height=0.62, color=LIGHT.blue, alpha=0.25)
            axes.barh(row, IMAGES - half, left=half, height=0.62, color=LIGHT.blue)
            words = f"{(IMAGES - half) / 1000:.0f}k, {(IMAGES - most) / 1000:.0f}k"
            axes.text(most - 8000, row, words, ha="right", va="center", fontsize=8.5)
        axes.set_yticks(range(len(lengths)), [f"{value:.2f}" for value in lengths])
        axes.invert_yaxis()
        axes.set_xlim(0, IMAGES)
        axes.grid(False)
        axes.xaxis.set_major_formatter(FuncFormatter(thousands))
        axes.set_xlabel("images seen")
        axes.set_ylabel("σ_rel")
        title(axes, "The last images that carry half (dark) and 90 % (light) of an average")
        return image(figure)


def traditional_and_power() -> bytes:
    """A traditional EMA keeps its length; a power-function EMA keeps its share of the training."""
    with page(LIGHT, (8.0, 2.9), columns=2) as (figure, panels):
        for end, colour in zip((250_000, 500_000, IMAGES), COLOURS, strict=True):
            times = np.linspace(0, end, 2001)
            weightings = (ExponentialWeighting(end, half_life_images=50_000), PowerWeighting(end, sigma_rel=0.10))
            for axes, weighting in zip(panels, weightings, strict=True):
                _profile(axes, times, weighting.density(times), colour, f"after {end / 1000:g}k images")
        for axes, text in zip(
            panels, ("traditional EMA, half-life 50k images", "power function, σ_rel 0.10"), strict=True
        ):
            _time_axis(axes)
            title(axes, text)
        panels[1].legend(loc="upper right")
        return image(figure)


def chosen_afterwards() -> bytes:
    """Stored profiles, and a profile that was never stored as their combination."""
    times = np.linspace(0, IMAGES, 4001)
    stored = [
        PowerWeighting(end, sigma_rel) for end in range(125_000, IMAGES + 1, 125_000) for sigma_rel in (0.05, 0.10)
    ]
    wanted = [PowerWeighting(IMAGES, sigma_rel) for sigma_rel in (0.07, 0.15)]
    solution = solve(stored, wanted)
    densities = np.stack([profile.density(times) for profile in stored])
    with page(LIGHT, (8.0, 4.6), rows=2, sharex=True) as (figure, (top, bottom)):
        for index, density in enumerate(densities):
            label = (f"stored, σ_rel {stored[index].sigma_rel:g}") if index < 2 else None
            top.plot(times, density, color=(LIGHT.faint, LIGHT.violet)[index % 2], linewidth=1.0, label=label)
        for row, (profile, colour) in enumerate(zip(wanted, COLOURS, strict=False)):
            bottom.fill_between(times, profile.density(times), color=colour, alpha=0.2, linewidth=0)
            label = f"σ_rel {profile.sigma_rel:g}: error of the profile {100 * solution.profile_error[row]:.1f} %"
            bottom.plot(times, solution.coefficients[row] @ densities, color=colour, linewidth=1.5, label=label)
        for axes in (top, bottom):
            _time_axis(axes)
        top.legend(loc="upper right")
        bottom.legend(loc="upper left")
        top.set_xlabel("")
        title(top, "Stored while training: two averages at eight times")
        title(bottom, "Chosen afterwards: wanted profiles (filled) and combinations of stored ones (lines)")
        return image(figure)


def tails() -> bytes:
    """The multiplier of the learning rate that an average stands for, over training."""
    times = np.linspace(0, IMAGES, 2001)
    with page(LIGHT, (8.0, 2.9)) as (figure, (axes,)):
        for sigma_rel, colour in zip((0.05, 0.10, 0.20), COLOURS, strict=True):
            tail = PowerWeighting(IMAGES, sigma_rel).tail(times)
            axes.plot(times, tail, color=colour, linewidth=1.6, label=f"average, σ_rel {sigma_rel:.2f}")
        decay = DecayWeighting(IMAGES, start=0.8 * IMAGES, shape="cosine").tail(times)
        axes.plot(times, decay, "--", color=LIGHT.ink, linewidth=1.2, label="cosine decay over the last 20 %")
        axes.set_xlim(0, IMAGES)
        axes.set_ylim(0, 1.05)
        axes.xaxis.set_major_formatter(FuncFormatter(thousands))
        axes.set_xlabel("images seen when the update was made")
        title(axes, "Share of each update that is left in the average")
        axes.legend(loc="lower left")
        return image(figure)


PICTURES: dict[str, Callable[[], bytes]] = {
    "bias-and-noise.png": bias_and_noise,
    "chosen-afterwards.png": chosen_afterwards,
    "lengths-in-images.png": lengths_in_images,
    "tails.png": tails,
    "traditional-and-power.png": traditional_and_power,
}


def _profile(axes: Axes, times: np.ndarray, density: np.ndarray, colour: str, label: str) -> None:
    axes.plot(times, density, color=colour, linewidth=1.6, label=label)
    axes.fill_between(times, density, color=colour, alpha=0.12, linewidth=0)


def _time_axis(axes: Axes) -> None:
    axes.set_xlim(0, IMAGES)
    axes.set_ylim(bottom=0)
    axes.set_yticks([])
    axes.grid(False)
    axes.xaxis.set_major_formatter(FuncFormatter(thousands))
    axes.set_xlabel("images seen")


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        (FOLDER / name).write_bytes(draw())
