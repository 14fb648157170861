"""The best figure of a run over its training time, from brackets of EMA lengths, and when to stop. NumPy only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from phema.shared.edm2.averaging.power_function import SIGMA_REL_LIMIT
from phema.shared.metrics.figures import FigureValue, difference
from phema.shared.recipes.continuous_evaluation import ContinuousEvaluation
from phema.shared.recipes.run_config import RunConfig
from phema.shared.snapshots.profile import Profile
from phema.shared.studies.outcome import EvaluatedPoint, study_outcome
from phema.shared.studies.point import StudyPointSpec, WeightsSpec
from phema.shared.studies.ranking import DECISIVE

_SHORTEST = 0.005
"""Smallest sigma_rel of a bracket: shorter averages need snapshots that runs do not store."""


@dataclass(frozen=True)
class CurvePoint:
    """The best EMA length at one time."""

    num_images: int
    sigma_rel: float
    figure: str
    better: Literal["lower", "higher"]
    value: FigureValue
    evaluation_id: str
    edges: dict[str, Literal["lowest", "highest"]]
    """`sigma_rel`, if the best is the first or last of its bracket: the next bracket moves there."""


def bracket(config: ContinuousEvaluation, best: float | None) -> list[float]:
    """Three EMA lengths: the best so far (None for the first bracket), and its neighbours on a geometric grid.

    They have four digits, as people write them.
    """
    centre = 0 if best is None else round(math.log(best / config.sigma_rel) / math.log(config.factor))
    widths = [float(f"{config.sigma_rel * config.factor**k:.4g}") for k in (centre - 1, centre, centre + 1)]
    allowed = [width for width in widths if _SHORTEST <= width < SIGMA_REL_LIMIT]
    return allowed or [config.sigma_rel]


def bracket_points(
    run_id: str, config: ContinuousEvaluation, metrics: Sequence[str], num_images: int, best: float | None
) -> list[StudyPointSpec]:
    """The points of one time."""
    recipe: dict[str, Any] = {
        "guidance": 1.0,
        "num_samples": config.num_samples,
        "num_steps": config.num_steps,
        "seed": config.seed,
        "metrics": list(metrics),
    }
    return [
        StudyPointSpec(
            weights=WeightsSpec(run_id=run_id, num_images=num_images, profile=Profile.power(width)), recipe=recipe
        )
        for width in bracket(config, best)
    ]


def times_to_evaluate(run: RunConfig, config: ContinuousEvaluation, stored: Iterable[int], done: int) -> list[int]:
    """Stored times after `done` that are due, in order: every `every_snapshots`-th one, and the end of the run."""
    step = config.every_snapshots * run.snapshot_every
    return sorted(t for t in set(stored) if t > done and (t % step == 0 or t >= run.total_images))


def progress_curve(points: Sequence[EvaluatedPoint]) -> list[CurvePoint]:
    """One entry per time with figures, in order of time, without replicates, which `with_replicates` adds."""
    by_time: dict[int, list[EvaluatedPoint]] = {}
    for point in points:
        by_time.setdefault(StudyPointSpec.model_validate(point.point).weights.num_images, []).append(point)
    found = []
    for num_images, bracketed in sorted(by_time.items()):
        outcome = study_outcome(bracketed, {})
        if outcome.ranking is None or outcome.figure is None:
            continue
        best = outcome.ranking.best
        evaluation = next(point.evaluation for point in bracketed if point.number == best.number)
        found.append(
            CurvePoint(
                num_images,
                best.coordinates["sigma_rel"],
                outcome.figure.name,
                outcome.figure.better,
                best.value,
                evaluation.id,
                outcome.ranking.edges,
            )
        )
    return found


def with_replicates(
    curve: Sequence[CurvePoint], replicates: Mapping[str, Mapping[str, Sequence[float]]]
) -> list[CurvePoint]:
    """The curve with replicates of its values, by evaluation id and figure: errors of differences need them."""
    return [
        replace(
            point,
            value=replace(point.value, replicates=tuple(replicates.get(point.evaluation_id, {}).get(point.figure, ()))),
        )
        for point in curve
    ]


def stop_sentence(config: ContinuousEvaluation, curve: Sequence[CurvePoint], since: int) -> str | None:
    """Why the run should end now; None if it should go on.

    A gain is a figure that is better than the best so far by more than DECISIVE standard errors of the difference, or
    by any amount where there are no errors. `since`: images at which the rule began to count, after a resume.
    """
    patience = config.stop_after_images
    if patience is None or not curve:
        return None
    best = curve[0]
    for point in curve[1:]:
        if _is_gain(point, best):
            best = point
    idle = curve[-1].num_images - max(best.num_images, since)
    if idle < patience:
        return None
    return (
        f"ended by evaluation.stop_after_images {patience}: {best.figure} has not improved since {best.num_images} "
        f"images, where it was {best.value.value:.4g} at sigma_rel {best.sigma_rel:.3g}"
    )


def _is_gain(point: CurvePoint, best: CurvePoint) -> bool:
    change, error = difference(point.value, best.value)
    gain = -change if point.better == "lower" else change
    return gain > DECISIVE * (error or 0.0)
