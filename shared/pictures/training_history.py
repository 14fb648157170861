"""Figures of a run's history: magnitudes (the paper's Figures 3 and 15), loss and learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from phema.shared.pictures.theme import LIGHT, WIDTH, Format, Theme, image, page, thousands

KINDS = {"activation": "Activations", "weight": "Weights"}


class HistoryRow(Protocol):
    """One row of a run's history: figures by name (`loss`, `weight/dec/4/mean`) at one time in images."""

    @property
    def num_images(self) -> int: ...
    @property
    def values(self) -> Mapping[str, float | None]: ...


def magnitudes(history: Sequence[HistoryRow], theme: Theme = LIGHT, format: Format = "png") -> bytes:
    """PNG or SVG: largest and mean magnitudes of activations and weights over training, by side and resolution."""
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
            _start_at_zero(axes, 1.1)
            axes.xaxis.set_major_formatter(FuncFormatter(thousands))
        figure.supxlabel("images seen", fontsize=9)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=4)
        return image(figure, format)


def magnitudes_by_configuration(
    histories: Mapping[str, Sequence[HistoryRow]], theme: Theme = LIGHT, format: Format = "png"
) -> bytes:
    """PNG or SVG of the paper's Figure 3: largest magnitudes by side and resolution, of EMA weights.

    One column per configuration, whose letter is the key in `histories`. Axes start at 0 and differ by column.
    """
    buckets = sorted(
        {
            "/".join(name.split("/")[1:3])
            for history in histories.values()
            for line in history
            for name in line.values
            if name.startswith("activation/")
        },
        key=lambda bucket: (not bucket.startswith("enc"), -int(bucket.split("/")[1])),
    )
    colours = (theme.blue, theme.orange, theme.green, theme.violet)
    resolutions = sorted({int(bucket.split("/")[1]) for bucket in buckets}, reverse=True)
    with page(theme, (2.6 * len(histories), 5.0), len(KINDS), len(histories), sharex=True) as (figure, panels):
        grid = [(kind, letter) for kind in KINDS for letter in histories]
        for axes, (kind, letter) in zip(panels, grid, strict=True):
            for bucket in buckets:
                side, resolution = bucket.split("/")
                axes.plot(
                    *series(histories[letter], f"{kind}/{bucket}/max"),
                    color=colours[resolutions.index(int(resolution)) % len(colours)],
                    linestyle="-" if side == "enc" else (0, (4, 1.5)),
                    linewidth=1.6,
                    label=f"{'encoder' if side == 'enc' else 'decoder'} {resolution}×{resolution}",
                )
            axes.set_title(f"{letter}: {KINDS[kind].lower()}", loc="left", fontsize=10, fontweight="bold")
            _start_at_zero(axes, 1.15)
            axes.xaxis.set_major_formatter(FuncFormatter(thousands))
        figure.supxlabel("images seen", fontsize=9)
        figure.supylabel("largest magnitude", fontsize=9)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(buckets))
        return image(figure, format)


def training(history: Sequence[HistoryRow], theme: Theme = LIGHT, format: Format = "png") -> bytes:
    """PNG or SVG: loss and learning rate over training."""
    with page(theme, (WIDTH, 2.6), 1, 2) as (figure, panels):
        for axes, name, title, colour in (
            (panels[0], "loss", "Training loss", theme.blue),
            (panels[1], "learning_rate", "Learning rate", theme.green),
        ):
            axes.plot(*series(history, name), color=colour, linewidth=1.8)
            axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
            axes.set_xlabel("images seen")
            axes.xaxis.set_major_formatter(FuncFormatter(thousands))
        return image(figure, format)


def series(history: Sequence[HistoryRow], name: str) -> tuple[list[int], list[float]]:
    """Times in images and values of the figure `name`, where the history has a value."""
    pairs = [(line.num_images, line.values[name]) for line in history if line.values.get(name) is not None]
    return [x for x, _ in pairs], [y for _, y in pairs if y is not None]


def _start_at_zero(axes: Axes, room: float) -> None:
    """Let the vertical axis end at `room` times the largest value; a panel without a finite value keeps its limits."""
    if math.isfinite(axes.dataLim.y1):
        axes.set_ylim(0, room * axes.dataLim.y1)
