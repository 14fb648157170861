"""Every metric: its figures, what it needs and where it is computed. Torch-free, so that the API can read it.

To add a metric, write its module with two functions, and add its entry to `METRICS`:

    def work(inputs: ScoringInputs) -> int: ...                     # network evaluations, counted in pictures
    def compute(inputs: ScoringInputs) -> dict[str, float]: ...     # figure name to value
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

Need = Literal["samples", "reference", "held_out"]
"""`samples`: generated pictures. `reference`: moments of the training pictures. `held_out`: pictures kept
from training; a run with `dataset.held_out` 0 has none and cannot have the metric."""


@dataclass(frozen=True)
class Figure:
    """One number of an evaluation."""

    name: str
    better: Literal["lower", "higher"]
    unit: str
    """Empty for a number without unit."""
    description: str


@dataclass(frozen=True)
class Metric:
    """One way to score a network."""

    name: str
    """As requests name it in `metrics`."""
    figures: tuple[Figure, ...]
    needs: frozenset[Need]
    module: str
    """Module with the functions `work` and `compute`. A name and no import: it needs torch."""


_ALL = (
    Metric(
        name="frechet",
        figures=(
            Figure("frechet", "lower", "", "Fréchet distance between drawn and training pictures in random features"),
        ),
        needs=frozenset({"samples", "reference"}),
        module="phema.shared.metrics.frechet",
    ),
    Metric(
        name="held_out_loss",
        figures=(
            Figure("held_out_loss", "lower", "", "Weighted denoising loss on pictures that were kept from training"),
        ),
        needs=frozenset({"held_out"}),
        module="phema.shared.metrics.held_out_loss",
    ),
)

METRICS = {metric.name: metric for metric in _ALL}
"""By name. Requests that name no metrics get all that the run can have, in this order."""

FIGURES = {figure.name: figure for metric in _ALL for figure in metric.figures}


def available_metrics(*, held_out: int) -> tuple[str, ...]:
    """Names of the metrics of a run that keeps `held_out` pictures from training."""
    return tuple(name for name, metric in METRICS.items() if held_out or "held_out" not in metric.needs)


def ranking_figure(names: Collection[str]) -> Figure | None:
    """The figure by which evaluations with figures of these `names` are ranked: the first of `FIGURES`, or None."""
    return next((figure for name, figure in FIGURES.items() if name in names), None)
