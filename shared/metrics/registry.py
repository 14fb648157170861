"""Every metric, found in `phema.shared.metrics.offered`. Torch-free, so that the API can read it.

To add a metric, add a module below `offered` with a constant `METRIC`; the registry finds it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from phema.shared.metrics import offered
from phema.shared.metrics.discovery import constants
from phema.shared.metrics.errors import ScoringError
from phema.shared.metrics.extractor_registry import EXTRACTORS, check_extractor
from phema.shared.metrics.metric import Figure, Metric, ScoredRun

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in sorted(constants(offered, "METRIC", Metric), key=lambda metric: (metric.rank, metric.name))
}
"""By name, in order of rank."""

FIGURES: dict[str, Figure] = {figure.name: figure for metric in METRICS.values() for figure in metric.figures}


def available_metrics(run: ScoredRun) -> tuple[str, ...]:
    """Names of the metrics that a run can have with enough generated pictures, in order of rank."""
    return tuple(name for name, metric in METRICS.items() if _obstacle(metric, run) is None)


def default_metrics(run: ScoredRun, num_samples: int | None = None) -> tuple[str, ...]:
    """Metrics of a request that names none. Those that need more than `num_samples` pictures are left out.

    If that leaves none, they stay, so that `check_metrics` can say what is missing.
    """
    usual = tuple(name for name in available_metrics(run) if METRICS[name].default_for(run))
    enough = tuple(name for name in usual if num_samples is None or num_samples >= minimum_pictures(name))
    return enough or usual


def minimum_pictures(name: str) -> int:
    """Smallest number of generated pictures that the metric can be computed from; 0 if it needs none."""
    metric = METRICS[name]
    if metric.extractor is None:
        return 0
    full_rank = EXTRACTORS[metric.extractor].num_features + 1 if metric.full_rank else 0
    return metric.groups * max(metric.minimum, full_rank)


def check_metrics(names: Sequence[str], run: ScoredRun, num_samples: int) -> None:
    """Raise ScoringError unless all metrics are known, fit the run and have enough pictures. Reads nothing."""
    if not names:
        raise ScoringError(f"metrics is empty; name at least one of {', '.join(METRICS)}")
    for name in names:
        if name not in METRICS:
            raise ScoringError(f"metrics names {name!r}; allowed are {', '.join(METRICS)}")
        if (obstacle := _obstacle(METRICS[name], run)) is not None:
            raise ScoringError(f"metrics names {name}, but {obstacle}; {', '.join(available_metrics(run))} are allowed")
        if num_samples < (needed := minimum_pictures(name)):
            raise ScoringError(too_few(name, num_samples, needed), "num_samples")


def too_few(name: str, given: int, needed: int) -> str:
    """The sentence for a metric with too few generated pictures."""
    metric = METRICS[name]
    why = ""
    if metric.full_rank:
        num_features = needed // metric.groups - 1
        groups = f" in each of {metric.groups} groups" if metric.groups > 1 else ""
        why = f": more than its {num_features} features{groups}, so that covariances have full rank"
    return f"num_samples is {given}, but metric {name} needs at least {needed}{why}"


def ranking_figure(names: Collection[str]) -> Figure | None:
    """The figure by which evaluations with figures of these `names` are ranked: the first of `FIGURES`, or None."""
    return next((figure for name, figure in FIGURES.items() if name in names), None)


def _obstacle(metric: Metric, run: ScoredRun) -> str | None:
    """Why the run cannot have the metric; the end of a sentence."""
    if "held_out" in metric.needs and not run.held_out:
        return "dataset.held_out of the run is 0, so no pictures were kept from training for it"
    if metric.extractor is None:
        return None
    try:
        check_extractor(metric.extractor, run)
    except ScoringError as error:
        return str(error)
    return None
