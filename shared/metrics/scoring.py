"""From features to figures: one call for all metrics of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module

import numpy as np
from numpy.typing import NDArray

from phema.shared.metrics.errors import ScoringError
from phema.shared.metrics.extractor_registry import EXTRACTORS
from phema.shared.metrics.figures import FigureValue
from phema.shared.metrics.network_inputs import NetworkInputs
from phema.shared.metrics.reference import Reference
from phema.shared.metrics.registry import METRICS, minimum_pictures, too_few


def extractors_of(names: Sequence[str]) -> tuple[str, ...]:
    """Names of the extractors that these metrics need, each once, in the order of first use."""
    return tuple(dict.fromkeys(extractor for name in names if (extractor := METRICS[name].extractor) is not None))


def check_references(names: Sequence[str], references: Mapping[str, Reference]) -> None:
    """Raise ScoringError unless each metric can be computed with its reference, by extractor name."""
    for name in names:
        metric = METRICS[name]
        if metric.extractor is None:
            continue
        reference = references[metric.extractor]
        num_features = EXTRACTORS[metric.extractor].num_features
        if reference.moments.num_features != num_features:
            raise ScoringError(
                f"the reference has {reference.moments.num_features} features, but metric {name} needs the "
                f"{num_features} of extractor {metric.extractor}",
                "reference",
            )
        if reference.features is None and metric.needs_features:
            raise ScoringError(
                f"metrics names {name}, which compares single pictures, but the reference holds only a mean and a "
                "covariance; give a dataset as reference",
                "reference",
            )
        needed = max(metric.minimum, num_features + 1 if metric.full_rank else 0)
        if 0 < reference.count < needed:
            raise ScoringError(
                f"the reference has {reference.count} pictures, but metric {name} needs at least {needed}", "reference"
            )


def score(
    names: Sequence[str], features: Mapping[str, NDArray[np.float32]], references: Mapping[str, Reference]
) -> dict[str, FigureValue]:
    """Every figure of the metrics that compare pictures; others among `names` are passed over.

    `features`: by extractor name float32 [n, d], one row per generated picture in seed order. `references`: by
    extractor name. Raises ScoringError for too few pictures, a reference that does not fit, and features that are not
    finite.
    """
    check_references(names, references)
    found: dict[str, FigureValue] = {}
    for name in names:
        metric = METRICS[name]
        if metric.extractor is None or metric.compute is None:
            continue
        rows = features[metric.extractor]
        if len(rows) < (needed := minimum_pictures(name)):
            raise ScoringError(too_few(name, len(rows), needed), "num_samples")
        if not np.isfinite(rows).all():
            raise ScoringError("features contain values that are not finite")
        found |= metric.compute(rows, references[metric.extractor])
    return found


def score_network(names: Sequence[str], inputs: NetworkInputs) -> dict[str, FigureValue]:
    """Every figure of the metrics that need no sampling; others among `names` are passed over. Raises DatasetError."""
    found: dict[str, FigureValue] = {}
    for name in names:
        if (module := METRICS[name].from_network) is not None:
            found |= import_module(module).measure_network(inputs)
    return found
