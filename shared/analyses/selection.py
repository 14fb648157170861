"""Keeps the evaluations that can be compared: those whose weights and recipe differ only in what is studied."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from phema.shared.analyses.evaluated_points import EvaluatedPoint
from phema.shared.metrics.registry import FIGURES, ranking_figure
from phema.shared.snapshots.profile import Profile

Axis = Literal["sigma_rel", "num_images", "guidance", "guidance_interval", "guide", "tensors"]
"""What a study varies. The run may always differ."""

_OF_GUIDANCE: frozenset[Axis] = frozenset({"guidance", "guidance_interval", "guide"})
_DOES_NOT_MATTER = ("metrics", "grid", "keep_pictures", "guide_id", *_OF_GUIDANCE)
"""Fields of a recipe that change no figure, and those of guidance, which `_guidance` compares."""


class NothingToShow(ValueError):
    """No finished evaluation fits the analysis. The sentence says what to evaluate first."""


@dataclass(frozen=True)
class Selection:
    """Evaluations that can be compared, and the figure that is studied."""

    points: tuple[EvaluatedPoint, ...]
    figure: str
    left_out: int
    """Number of finished evaluations of the runs that cannot be compared with these, or that lack the figure."""

    @property
    def better(self) -> Literal["lower", "higher"]:
        return FIGURES[self.figure].better if self.figure in FIGURES else "lower"

    @property
    def runs(self) -> tuple[str, ...]:
        """Names of the runs, in order of their first point."""
        return tuple(dict.fromkeys(point.run for point in self.points))

    @property
    def recipe(self) -> dict[str, Any]:
        """The fields of the recipe that all points share."""
        first, *others = [point.recipe for point in self.points]
        return {name: value for name, value in first.items() if all(r.get(name) == value for r in others)}


def select(
    points: Sequence[EvaluatedPoint],
    axes: frozenset[Axis],
    *,
    figure: str | None = None,
    num_images: int | None = None,
    keep: Callable[[EvaluatedPoint], bool] = lambda point: True,
    wanted: str = "evaluations",
) -> Selection:
    """The largest group of `points` that differ only in `axes` and in the run.

    Of equally large groups, the one with more pictures, then the one that comes first in `points`, which are newest
    first. `figure` None is the figure by which evaluations are ranked. `num_images` None is, for studies at one time,
    the time that the largest group has. An evaluation that was repeated counts once, as its newest one.

    Raises NothingToShow with `wanted` in its sentence.
    """
    fitting = [p for p in points if keep(p) and (num_images is None or p.num_images == num_images)]
    names = {name for point in fitting for name in point.figures}
    chosen = figure or _ranking(names)
    having = [point for point in fitting if chosen in point.figures]
    if chosen is None or not having:
        known = f"; finished evaluations have {', '.join(sorted(names))}" if names and figure else ""
        what = f" with figure {figure}" if figure else ""
        at = "" if num_images is None else f" at {num_images} images"
        raise NothingToShow(f"there are no finished {wanted}{what}{at}{known}")
    best = max(_groups(having, axes), key=lambda group: (len(group), _num_samples(group[0])), default=[])
    return Selection(tuple(best), chosen, len(points) - len(best))


def _groups(points: Sequence[EvaluatedPoint], axes: frozenset[Axis]) -> list[list[EvaluatedPoint]]:
    """Points that can be compared, each once. Unguided points join every study of guidance that they fit."""
    alike: dict[str, dict[str, dict[str, EvaluatedPoint]]] = {}
    for point in points:
        by_guidance = alike.setdefault(_rest(point, axes), {})
        by_guidance.setdefault(_guidance(point, axes), {}).setdefault(_place(point), point)
    found = []
    for by_guidance in alike.values():
        unguided = by_guidance.get("", {}) if axes & _OF_GUIDANCE else {}
        found += [list((group | unguided).values()) for group in by_guidance.values()]
    return found


def _ranking(names: set[str]) -> str | None:
    found = ranking_figure(names)
    return found.name if found is not None else min(names, default=None)


def _num_samples(point: EvaluatedPoint) -> int:
    return int(point.recipe.get("num_samples", 0))


def _rest(point: EvaluatedPoint, axes: frozenset[Axis]) -> str:
    """Everything but the axes, the run and the guidance, as a key."""
    recipe = {name: value for name, value in point.recipe.items() if name not in _DOES_NOT_MATTER}
    rest: dict[str, Any] = {"recipe": recipe, "profile": _fixed_profile(point.profile, axes)}
    if "num_images" not in axes:
        rest["num_images"] = point.num_images
    return json.dumps(rest, sort_keys=True)


def _fixed_profile(profile: Profile, axes: frozenset[Axis]) -> Any:
    """What the weights of a study share."""
    if "tensors" in axes and profile.default is not None:
        profile = profile.default
    return "power" if "sigma_rel" in axes and profile.sigma_rel is not None else _identity(profile)


def _guidance(point: EvaluatedPoint, axes: frozenset[Axis]) -> str:
    """What the guidance of a study shares, as a key; empty for points without guidance."""
    if point.guidance == 1:
        return ""
    values = {"guidance": point.guidance, "guidance_interval": point.interval, "guide": _guide(point)}
    return json.dumps({name: value for name, value in values.items() if name not in axes}, sort_keys=True)


def _guide(point: EvaluatedPoint) -> list[Any] | None:
    if point.guide is None:
        return None
    return [point.guide.run, point.guide.num_images, _identity(point.guide.profile)]


def _identity(profile: Profile) -> dict[str, Any]:
    """The profile without `gamma`, which depends on the rounding of the machine's libm."""
    return profile.model_dump(mode="json", exclude={"gamma"}, exclude_none=True)


def _place(point: EvaluatedPoint) -> str:
    """What a point of a study is, whichever evaluation measured it."""
    place = [point.run, point.num_images, _identity(point.profile)]
    return json.dumps([*place, point.guidance, point.interval, _guide(point)], sort_keys=True)
