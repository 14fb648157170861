"""Sweeps over grids and searches for the best point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from phema.client.operations.operations import Operations
from phema.client.resources.watched import identity_of
from phema.client.response_models import Job, Run
from phema.client.study_models import Search, Sweep


class Studying(Operations):
    """Studies of many evaluations."""

    def sweep(
        self,
        /,
        run: str | Run,
        sigma_rel: float | Sequence[float] | None = None,
        num_images: int | Sequence[int] | None = None,
        *,
        wait: bool = True,
        on_progress: Callable[[Job], None] | None = None,
        **grid: Any,
    ) -> Sweep:
        """Evaluate every point of a grid over a run's weights and the sampling recipe.

        Every axis takes one value or a list: `sigma_rel` or `profiles`, `num_images` (default: the latest time),
        `tensors`, `guidance`, `guidance_interval`, `num_steps`, `churn`, `seed`, … `guide` is `{"sigma_rel": …}` with
        optional `run` and `num_images`. `num_samples`, `metrics` and `grid` are the same for all points;
        `docs/sweeps.md` lists the fields.

        Points that were computed before are not computed again. With `wait`, returns when every point has figures or
        an error, and raises JobFailed if no point has figures. Without `wait`, returns at once;
        `client.sweeps.get(id)` then returns the points so far.
        """
        axes = {"sigma_rel": sigma_rel, "num_images": num_images}
        return self.sweeps.create(identity_of(run), wait=wait, on_progress=on_progress, **axes, **grid)

    def search(
        self,
        /,
        run: str | Run,
        sigma_rel: Sequence[float] | None = None,
        *,
        budget: int | None = None,
        wait: bool = True,
        on_progress: Callable[[Job], None] | None = None,
        **request: Any,
    ) -> Search:
        """Find the best EMA length of a run between the two ends of `sigma_rel`, within a `budget` of pictures.

        With `guidance=(low, high)` and `guide={"sigma_rel": …}` (with optional `run` and `num_images`), the guidance
        weight is searched too, and the guide's EMA length if its `sigma_rel` is a range. `figure` names what is
        optimised. `docs/search.md` lists the other fields.

        Points that were computed before are not computed again. With `wait`, the result has `.result`: the best point
        with its interval; raises JobFailed if the search fails. Without `wait`, returns at once;
        `client.searches.get(id)` then returns the points so far.
        """
        ends = None if sigma_rel is None else list(sigma_rel)
        return self.searches.create(
            identity_of(run), wait=wait, on_progress=on_progress, sigma_rel=ends, budget=budget, **request
        )
