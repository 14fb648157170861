"""Pictures of responses, drawn by the functions that draw those of reports and pages. None without matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from phema.client.average_models import Plan
from phema.client.response_models import Evaluation, Metrics
from phema.client.study_models import ProgressCurve, Search, Sweep

if TYPE_CHECKING:
    from phema.shared.pictures.measured import Curve, CurvePoint, FigureName


def can_draw() -> bool:
    """Whether matplotlib, the extra `plots`, is installed."""
    return find_spec("matplotlib") is not None


def plan_picture(plan: Plan) -> bytes | None:
    """Wanted and reconstructed profiles."""
    if not can_draw() or not plan.outputs or not all(snapshot.profile for snapshot in plan.snapshots):
        return None
    if any(output.profile.get("kind") == "per_tensor" or output.profile_error is None for output in plan.outputs):
        return None
    from phema.shared.pictures.plan_profiles import plan_profiles

    return plan_profiles(plan, format="svg")


def history_picture(history: Sequence[Metrics]) -> bytes | None:
    """Loss and learning rate over training."""
    if not can_draw() or len(history) < 2 or not any("loss" in row.values for row in history):
        return None
    from phema.shared.pictures.training_history import training

    return training(history, format="svg")


def evaluations_picture(evaluations: Sequence[Evaluation]) -> bytes | None:
    """A figure over the EMA length: one curve for each run, time and recipe with at least two lengths."""
    if not can_draw():
        return None
    figure = _ranking([evaluation.figures or {} for evaluation in evaluations])
    if figure is None:
        return None
    groups: dict[tuple[str, int, str], list[Evaluation]] = {}
    for evaluation in evaluations:
        if evaluation.sigma_rel is not None and (evaluation.figures or {}).get(figure) is not None:
            key = (evaluation.run_id, evaluation.num_images, repr(sorted(evaluation.recipe.items())))
            groups.setdefault(key, []).append(evaluation)
    curves = [
        _curve(
            f"{run} at {num_images:,} images",
            [_point(one.sigma_rel or 0.0, one.figures or {}, one.errors or {}, figure) for one in group],
        )
        for (run, num_images, _), group in groups.items()
        if len({one.sigma_rel for one in group}) > 1
    ]
    return _measured(curves, figure) if curves else None


def sweep_picture(sweep: Sweep) -> bytes | None:
    """The ranking figure over the EMA length, one curve for each time, guide and recipe."""
    if not can_draw() or sweep.figure is None:
        return None
    groups: dict[str, list[CurvePoint]] = {}
    for point in sweep.points:
        if point.weights.sigma_rel is not None and (point.figures or {}).get(sweep.figure) is not None:
            drawn = _point(
                point.weights.sigma_rel, point.figures or {}, point.errors or {}, sweep.figure, point.distinct is False
            )
            guide = "" if point.guide is None else f", guide {point.guide.label}"
            weight = point.recipe.get("guidance", 1)
            label = f"{point.weights.num_images:,} images{guide}{f', guidance {weight:g}' if weight != 1 else ''}"
            groups.setdefault(label, []).append(drawn)
    curves = [_curve(label, points) for label, points in groups.items() if len({point.x for point in points}) > 1]
    return _measured(curves, sweep.figure) if curves else None


def search_picture(search: Search) -> bytes | None:
    """The model of a search over the EMA length alone, and its answer."""
    result = search.result
    if not can_draw() or result is None or set(result.point) != {"sigma_rel"} or len(result.curve) < 2:
        return None
    from phema.shared.pictures.measured import Measured
    from phema.shared.pictures.search_model import search_model

    return search_model(
        [(point.point["sigma_rel"], point.value, point.difference_error) for point in result.curve],
        result.point["sigma_rel"],
        result.interval["sigma_rel"],
        Measured(result.value, result.standard_error),
        _name(result.figure),
        format="svg",
    )


def progress_picture(curve: ProgressCurve) -> bytes | None:
    """The best value and its EMA length over training time."""
    points = [point for point in curve.points if point.value is not None]
    if not can_draw() or len(points) < 2:
        return None
    from phema.shared.pictures.measured import Measured
    from phema.shared.pictures.training_time import BestAtTime, BestOverTime, best_over_training_time

    times = [
        BestAtTime(
            point.num_images,
            Measured(point.value or 0.0, point.standard_error),
            point.sigma_rel,
            point.sigma_rel,
            point.sigma_rel,
        )
        for point in points
    ]
    return best_over_training_time([BestOverTime(curve.run_id, times)], _name(points[0].figure), format="svg")


def _ranking(figures: Sequence[Mapping[str, float | None]]) -> str | None:
    """The figure by which evaluations are ranked, among those that any has."""
    from phema.shared.metrics.registry import ranking_figure

    found = ranking_figure({name for one in figures for name, value in one.items() if value is not None})
    return None if found is None else found.name


def _name(figure: str) -> FigureName:
    from phema.shared.metrics.registry import FIGURES
    from phema.shared.pictures.measured import FigureName

    return FigureName(figure, FIGURES[figure].better if figure in FIGURES else "lower")


def _point(
    x: float,
    figures: Mapping[str, float | None],
    errors: Mapping[str, float | None],
    figure: str,
    tied: bool = False,
) -> CurvePoint:
    from phema.shared.pictures.measured import CurvePoint, Measured

    return CurvePoint(x, Measured(figures[figure] or 0.0, errors.get(figure)), tied)


def _curve(label: str, points: Sequence[CurvePoint]) -> Curve:
    from phema.shared.pictures.measured import Curve

    return Curve(label, sorted(points, key=lambda point: point.x))


def _measured(curves: Sequence[Curve], figure: str) -> bytes:
    from phema.shared.pictures.measured_curves import measured_curves

    return measured_curves(curves, _name(figure), format="svg")
