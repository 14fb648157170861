"""Searches as JSON."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from phema.services.api.http.schema_base import BodyId, ResponseModel, Timestamp
from phema.services.api.jobs.schemas import Job
from phema.shared.catalog import JobState
from phema.shared.studies.search_spec import SearchSpec


class SearchCreate(SearchSpec):
    """A run, the ranges to search, and a budget of pictures."""

    run: BodyId = Field(description="Id or name of the run.")

    @property
    def spec(self) -> SearchSpec:
        return SearchSpec(**{name: getattr(self, name) for name in SearchSpec.model_fields})


class CurvePoint(ResponseModel):
    """The model of the figure at one point."""

    point: dict[str, float] = Field(description="Value on each axis, by name.")
    value: float = Field(description="As an evaluation with `num_samples` pictures would measure it.")
    difference: float = Field(description="Value minus that of the best point.")
    difference_error: float = Field(description="Standard deviation of `difference`, which is not certain.")


class SearchResult(ResponseModel):
    """The answer of a search."""

    figure: str
    point: dict[str, float] = Field(description="The best point: value on each axis, by name.")
    value: float = Field(description="Its figure, from pictures of seeds that no earlier step had used.")
    standard_error: float | None = Field(description="Of `value`.")
    num_samples: int = Field(description="Pictures of `value`.")
    seed: int = Field(description="Seed of the first of these pictures.")
    interval: dict[str, tuple[float, float]] = Field(
        description="By axis: where the optimum lies with a probability of 95 %, according to the model."
    )
    at_edge: dict[str, str] = Field(description="Axes on which the best point lies at the `low` or `high` end.")
    interval_reaches: dict[str, list[str]] = Field(description="Axes whose interval contains an end of the range.")
    indistinguishable: list[CurvePoint] = Field(
        description="Evaluated points that differ from the best by less than two standard deviations."
    )
    curve: list[CurvePoint] = Field(
        description="The model along the axis; of several axes, along each through the best point, one after the other."
    )
    pictures: int = Field(description="Pictures that the search drew, those of equal earlier evaluations included.")
    sentence: str = Field(description="The answer for people.")


class SearchPoint(ResponseModel):
    """One evaluated point. A point that got more pictures in a later step appears once for each number."""

    number: int
    step: int = Field(description="The step that chose the point, from 0.")
    state: JobState
    point: dict[str, float] = Field(description="Value on each axis, by name.")
    num_samples: int
    seed: int
    reconstruction_id: str | None
    evaluation_id: str | None
    figures: dict[str, float | None] | None = Field(description="By name; null until the point is evaluated.")
    errors: dict[str, float | None] | None = Field(description="Standard error of each figure that has one.")
    error: str | None = Field(description="Why the point has no figures.")


class Search(ResponseModel):
    """One search. Cancel it through its job; the same request continues it."""

    id: str
    run_id: str
    state: JobState
    spec: SearchSpec = Field(description="The complete request, with the defaults filled in.")
    purpose: str | None = Field(description="What the latest step is for.")
    result: SearchResult | None = Field(description="The answer; null until the search is done.")
    job: Job
    error: str | None
    created_at: Timestamp


class SearchDetail(Search):
    """A search with its points so far."""

    points: list[SearchPoint] = Field(description="The points that were started, in order.")


def result_of(document: dict[str, Any] | None) -> SearchResult | None:
    """The stored answer."""
    return None if document is None else SearchResult.model_validate(document)
