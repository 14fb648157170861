"""The demo's figures, from plain numbers to PNG bytes, each in a light and a dark version."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter

from phema.shared.snapshots.planning.profile_weighting import weighting
from phema.shared.snapshots.profile import Profile

DPI = 150
WIDTH = 8.0


class HistoryRow(Protocol):
    """One row of a run's history: figures by name (`loss`, `weight/dec/4/mean`) at one time in images."""

    @property
    def num_images(self) -> int: ...
    @property
    def values(self) -> Mapping[str, float | None]: ...


class ProfileAtTime(Protocol):
    """A snapshot of a plan: the profile it stores, as JSON, and its time."""

    @property
    def profile(self) -> Mapping[str, Any]: ...
    @property
    def num_images(self) -> int: ...


class FittedProfile(Protocol):
    """An output of a plan: the wanted profile, as JSON, one coefficient per snapshot, and the misfit."""

    @property
    def profile(self) -> Mapping[str, Any]: ...
    @property
    def label(self) -> str: ...
    @property
    def sigma_rel(self) -> float | None: ...
    @property
    def coefficients(self) -> Sequence[float]: ...
    @property
    def profile_error(self) -> float | None: ...


class FittedPlan(Protocol):
    """A reconstruction plan, as the API and the client describe it."""

    @property
    def num_images(self) -> int: ...
    @property
    def snapshots(self) -> Sequence[ProfileAtTime]: ...
    @property
    def outputs(self) -> Sequence[FittedProfile]: ...


@dataclass(frozen=True)
class Theme:
    """Colours that are legible on their own background."""

    background: str
    ink: str
    faint: str
    blue: str
    orange: str
    green: str
    violet: str


LIGHT = Theme("#ffffff", "#1d2430", "#b8bfca", "#1f5fbf", "#c4501b", "#2c7a3f", "#7a3fa0")
DARK = Theme("#15191f", "#e6e9ee", "#4a5361", "#78b0ff", "#ff9a5c", "#7ccf8e", "#cc9bf0")


@dataclass(frozen=True)
class Point:
    """One reconstructed set of weights and its figures."""

    sigma_rel: float
    frechet: float
    held_out_loss: float


def curve(points: Sequence[Point], tracked: Sequence[float], theme: Theme = LIGHT) -> bytes:
    """Fréchet distance and held-out loss over sigma_rel; the best of each marked, `tracked` EMAs as dotted lines."""
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


def profiles(plan: FittedPlan, theme: Theme = LIGHT) -> bytes:
    """Wanted (filled) and reconstructed (line) weighting of training history for each output of a plan.

    The reconstructed profile is the combination of the stored ones by the plan's coefficients (the paper's Fig. 4).
    """
    stored = [weighting(Profile.model_validate(s.profile), s.num_images) for s in plan.snapshots]
    times = np.linspace(plan.num_images / 1000, plan.num_images, 1000)
    densities = np.stack([profile.density(times) for profile in stored])
    columns = min(3, len(plan.outputs))
    rows = -(-len(plan.outputs) // columns)
    with page(theme, (WIDTH, 1.7 * rows + 0.5), rows, columns, sharex=True) as (figure, panels):
        for axes, output in zip(panels, plan.outputs, strict=False):
            wanted = weighting(Profile.model_validate(output.profile), plan.num_images).density(times)
            found = np.asarray(output.coefficients) @ densities
            axes.fill_between(times, wanted, color=theme.faint, linewidth=0, label="wanted")
            axes.plot(times, found, color=theme.blue, linewidth=1.4, label="reconstructed")
            title = output.label if output.sigma_rel is None else f"σ_rel {100 * output.sigma_rel:g} %"
            axes.set_title(title, loc="left", fontsize=9, fontweight="bold")
            missed = output.profile_error or 0.0
            error = f"error {100 * missed:.2g} %" if missed > 1e-6 else "stored"
            axes.text(0.03, 0.9, error, transform=axes.transAxes, va="top", fontsize=8)
            axes.set_yticks([])
            axes.grid(False)
            axes.set_ylim(min(0.0, 1.05 * float(found.min())), 1.1 * float(max(wanted.max(), found.max())))
            axes.xaxis.set_major_formatter(FuncFormatter(thousands))
        for axes in panels[len(plan.outputs) :]:
            axes.set_axis_off()
        figure.supxlabel("images seen when the averaged weights were current", fontsize=9)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=2)
        return png(figure)


def magnitudes(history: Sequence[HistoryRow], theme: Theme = LIGHT) -> bytes:
    """Magnitudes of activations and weights over training, by side and resolution (the paper's Fig. 3 and 15)."""
    names = sorted({name.rpartition("/")[0] for line in history for name in line.values if name.count("/") == 3})
    buckets = sorted({name.partition("/")[2] for name in names}, key=lambda b: (b.split("/")[0] != "enc", b))
    colours = (theme.blue, theme.orange, theme.green, theme.violet)
    with page(theme, (WIDTH, 5.0), 2, 2, sharex=True) as (figure, panels):
        grid = [(kind, statistic) for kind in ("activation", "weight") for statistic in ("max", "mean")]
        for axes, (kind, statistic) in zip(panels, grid, strict=True):
            for index, bucket in enumerate(buckets):
                side, resolution = bucket.split("/")
                line = series(history, f"{kind}/{bucket}/{statistic}")
                label = f"{'encoder' if side == 'enc' else 'decoder'} {resolution}×{resolution}"
                style = "-" if side == "enc" else (0, (4, 1.5))
                axes.plot(*line, color=colours[index % len(colours)], linestyle=style, linewidth=1.6, label=label)
            axes.set_title(f"{kind.capitalize()}s, {statistic}", loc="left", fontsize=10, fontweight="bold")
            axes.set_ylim(0, 1.1 * axes.dataLim.y1)
            axes.xaxis.set_major_formatter(FuncFormatter(thousands))
        figure.supxlabel("images seen", fontsize=9)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=4)
        return png(figure)


def training(history: Sequence[HistoryRow], theme: Theme = LIGHT) -> bytes:
    """Loss and learning rate over training."""
    with page(theme, (WIDTH, 2.6), 1, 2) as (figure, panels):
        for axes, name, title, colour in (
            (panels[0], "loss", "Training loss", theme.blue),
            (panels[1], "learning_rate", "Learning rate", theme.green),
        ):
            axes.plot(*series(history, name), color=colour, linewidth=1.8)
            axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
            axes.set_xlabel("images seen")
            axes.xaxis.set_major_formatter(FuncFormatter(thousands))
        return png(figure)


def series(history: Sequence[HistoryRow], name: str) -> tuple[list[int], list[float]]:
    pairs = [(line.num_images, line.values[name]) for line in history if line.values.get(name) is not None]
    return [x for x, _ in pairs], [y for _, y in pairs if y is not None]


def _mark_lowest(axes: Axes, x: Sequence[float], values: Sequence[float], colour: str) -> None:
    best = int(np.argmin(values))
    axes.plot(x[best], values[best], "o", markersize=13, markerfacecolor="none", markeredgecolor=colour, mew=2)
    lowest = f"{values[best]:#.4g}".rstrip(".")
    axes.set_title(f"best at {x[best]:g} %: {lowest}", loc="right", fontsize=10, fontweight="bold", color=colour)
    axes.margins(y=0.15)


def thousands(value: float, _position: int | None) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


@contextmanager
def page(theme: Theme, size: tuple[float, float], rows: int = 1, columns: int = 1, sharex: bool = False) -> Any:
    """A figure in the theme's colours and its panels as a flat list."""
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
    }
    with rc_context(style):
        figure = Figure(size, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))
        yield figure, list(figure.subplots(rows, columns, squeeze=False, sharex=sharex).flat)


def png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    return file.getvalue()
