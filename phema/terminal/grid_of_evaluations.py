"""Evaluates many combinations of weights, guide and recipe, with progress: the points of an analysis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from phema.client.average_models import Reconstruction
from phema.client.client import Client
from phema.client.response_models import Evaluation
from phema.terminal.live_progress import follow_evaluations, follow_reconstructions
from phema.terminal.screen import Screen


@dataclass(frozen=True)
class Weights:
    """Weights of a run: an EMA length for all tensors, and another one for the tensors of one pattern."""

    run: str
    sigma_rel: float
    num_images: int | None = None
    """None is the latest time."""
    tensors: tuple[str, float] | None = None
    """A pattern of tensor names, and their EMA length."""


@dataclass(frozen=True)
class GridPoint:
    """One evaluation that is wanted."""

    weights: Weights
    recipe: Mapping[str, Any] = field(default_factory=dict)
    guide: Weights | None = None


def evaluate_grid(
    client: Client, screen: Screen, points: Sequence[GridPoint], way_back: str = "the same command picks them up again"
) -> list[Evaluation]:
    """Reconstruct what is missing, evaluate every point, and return the finished evaluations in order.

    Results that exist are not computed again. Raises JobFailed if one fails.
    """
    wanted = dict.fromkeys([p.weights for p in points] + [p.guide for p in points if p.guide is not None])
    made = dict(zip(wanted, follow_reconstructions(client, screen, _reconstruct(client, list(wanted))), strict=True))
    evaluations = []
    for point in points:
        recipe = dict(point.recipe)
        if point.guide is not None:
            recipe["guide_id"] = made[point.guide].id
        evaluations.append(client.evaluate(made[point.weights], wait=False, **recipe))
    title = f"evaluating {len(points)} points" if len(points) > 1 else "evaluating"
    return follow_evaluations(client, screen, evaluations, title, way_back)


def _reconstruct(client: Client, wanted: Sequence[Weights]) -> list[Reconstruction]:
    """One request per run and time, so that snapshots are read once, and one per pattern of tensors."""
    found: dict[Weights, Reconstruction] = {}
    for weights in wanted:
        if weights in found:
            continue
        if weights.tensors is not None:
            tensors = {weights.tensors[0]: weights.tensors[1]}
            [found[weights]] = client.reconstruct(
                weights.run, weights.sigma_rel, weights.num_images, tensors=tensors, wait=False
            )
            continue
        together = [
            other
            for other in wanted
            if (other.run, other.num_images, other.tensors) == (weights.run, weights.num_images, None)
        ]
        items = client.reconstruct(weights.run, [other.sigma_rel for other in together], weights.num_images, wait=False)
        found |= dict(zip(together, items, strict=True))
    return [found[weights] for weights in wanted]
