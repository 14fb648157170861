"""Learns an average with a service: the scores are figures of evaluations, such as a Fréchet distance.

Every question of the search is a point of a sweep, so that the service evaluates a generation on all its workers, and
computes nothing twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from typing import Any

from phema.client.client import Client
from phema.client.reconstruction_requests import Profiles, profile_bodies
from phema.client.study_models import StudyPoint
from phema.errors import InvalidArgument
from phema.sdk.learned_averages.average_search import AverageSearch
from phema.sdk.learned_averages.comparison import Comparison, compare
from phema.shared.metrics.registry import METRICS
from phema.shared.snapshots.profile import Profile


@dataclass(frozen=True)
class AverageOfFigure:
    """A learned average of a run of a service, and how it compares with the best EMA length."""

    figure: str
    profile: Profile
    """The average. `client.reconstruct(run, profiles=profile)` returns its reconstruction."""
    reconstruction_id: str
    best_length: Profile
    score: float
    """The average's figure on the seeds of the search, which flatters it."""
    best_length_score: float
    evaluations: int
    """Number of figures that the search took."""
    held_out: Comparison
    """On seeds that the search has not seen, each block of seeds counted as an example. Lower is better: a figure of
    which higher is better is negated."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {
            "profile": self.profile.model_dump(mode="json"),
            "best_length": self.best_length.model_dump(mode="json"),
        }


def learn_by_figure(
    client: Client,
    run: str,
    figure: str,
    *,
    num_images: int | None = None,
    sigma_rel_min: float = 0.02,
    sigma_rel_max: float = 0.25,
    profiles: Profiles = (),
    evaluations: int = 60,
    blocks: int = 8,
    num_samples: int = 1024,
    seed: int = 0,
    state: str | PathLike[str] | None = None,
    on_progress: Callable[[int, int, float], None] | None = None,
    **recipe: Any,
) -> AverageOfFigure:
    """Search for the mixture of averages with the best `figure`, and compare it with the best EMA length.

    The search draws `num_samples` pictures of the seeds from `seed` on for every average. The comparison draws as many
    of the seeds behind these, in `blocks` blocks, for the two averages. `recipe`: other fields of an evaluation, such
    as `num_steps`. The other arguments are those of `phema.learn_average`.

    Raises phema.errors.InvalidArgument, also for a figure that is no figure of drawn pictures, since no unseen data
    would be left to judge the result; JobFailed; and MissingPackages without the extra `learn`.
    """
    metric, sign = _metric_of(figure)
    if blocks < 2:
        raise InvalidArgument(f"blocks {blocks} must be at least 2")
    for name in ("metrics", "sigma_rel", "tensors"):
        if name in recipe:
            raise InvalidArgument(f"{name} cannot be given: it follows from the search")
    time = client.plan(run, sigma_rel_min, num_images).num_images
    search = AverageSearch(
        time,
        sigma_rel_min=sigma_rel_min,
        sigma_rel_max=sigma_rel_max,
        profiles=[Profile.model_validate(body) for body in profile_bodies(profiles)],
        evaluations=evaluations,
        seed=seed,
        state=state,
    )
    fixed = {"num_images": time, "metrics": [metric], "num_samples": num_samples, "grid": 1, **recipe}

    def points(averages: Sequence[Profile], seeds: Sequence[int]) -> dict[tuple[Profile, int], StudyPoint]:
        sweep = client.sweep(run, profiles=list(averages), seed=list(seeds), **fixed)
        return {(Profile.model_validate(p.weights.profile), p.recipe["seed"]): p for p in sweep.points}

    def value(point: StudyPoint) -> float:
        found = (point.figures or {}).get(figure)
        return math.nan if found is None else sign * found

    while asked := search.ask():
        found = points(asked, [seed])
        search.tell([value(found[profile, seed]) for profile in asked])
        if on_progress is not None:
            on_progress(len(search.scores), search.total, min(search.scores))
    chosen, length = search.best, search.best_length
    unseen = [seed + num_samples * (1 + block) for block in range(blocks)]
    judged = points(list(dict.fromkeys([chosen, length])), unseen)
    return AverageOfFigure(
        figure=figure,
        profile=chosen,
        reconstruction_id=client.evaluation(str(judged[chosen, unseen[0]].evaluation_id)).reconstruction_id,
        best_length=length,
        score=min(search.scores),
        best_length_score=search.best_length_score,
        evaluations=len(search.scores),
        held_out=compare(*([value(judged[profile, s]) for s in unseen] for profile in (chosen, length))),
    )


def _metric_of(figure: str) -> tuple[str, float]:
    """The metric that has the figure, and by what to multiply the figure so that lower is better."""
    drawn: Mapping[str, tuple[str, float]] = {
        one.name: (metric.name, 1.0 if one.better == "lower" else -1.0)
        for metric in METRICS.values()
        if "samples" in metric.needs
        for one in metric.figures
    }
    if figure not in drawn:
        raise InvalidArgument(f"figure {figure!r} is no figure of drawn pictures; allowed: {', '.join(drawn)}")
    return drawn[figure]
