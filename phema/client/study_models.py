"""What the API answers about studies: sweeps, searches and continuous evaluations."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from pydantic import Field

from phema.client.response_models import TERMINAL, Job, ResponseModel

if TYPE_CHECKING:
    import pandas


class CurvePoint(ResponseModel):
    """The best EMA length of a run at one training time."""

    num_images: int
    sigma_rel: float
    figure: str
    value: float | None
    standard_error: float | None = None
    evaluation_id: str
    edge: bool = False
    """Whether the best is at the end of its bracket of EMA lengths."""


class ProgressCurve(ResponseModel):
    """What the continuous evaluation of a run has found so far."""

    run_id: str
    state: str | None = None
    """State of the continuous evaluation; None for a run without one."""
    points: list[CurvePoint] = Field(default_factory=list)
    failures: list[str] = Field(default_factory=list)
    stopped: str | None = None
    """Why the stop rule ended the run."""

    def to_pandas(self) -> pandas.DataFrame:
        """The points as a data frame. Needs pandas."""
        from phema.client.display.frames import frame

        return frame(self.points)


class PointWeights(ResponseModel):
    """The weights of a point of a study, or its guide's."""

    run_id: str
    num_images: int
    profile: dict[str, Any]
    label: str
    """A short text for the profile. Different profiles may have the same label."""
    sigma_rel: float | None = None


class StudyPoint(ResponseModel):
    """One point of a sweep: weights, recipe and figures."""

    number: int
    state: str
    weights: PointWeights
    guide: PointWeights | None = None
    recipe: dict[str, Any] = Field(default_factory=dict)
    reconstruction_id: str | None = None
    evaluation_id: str | None = None
    figures: dict[str, float | None] | None = None
    errors: dict[str, float | None] | None = None
    """Standard error of each figure that has one."""
    difference: float | None = None
    """How much worse than the best point the ranking figure is; None for the best itself."""
    difference_error: float | None = None
    """Standard error of the difference."""
    distinct: bool | None = None
    """Whether the best point is better by more than two standard errors of the difference; None if unknown."""
    error: str | None = None
    """Why the point has no figures."""


class Sweep(ResponseModel):
    """Evaluations over a grid. A list of sweeps contains no points."""

    id: str
    run_id: str
    state: str
    spec: dict[str, Any] = Field(default_factory=dict)
    """The complete grid."""
    extends: str | None = None
    """The sweep that this one extends."""
    num_points: int
    result: dict[str, Any] | None = None
    """The answer of a finished sweep: best point, points it cannot be told from, edges of the range."""
    job: Job
    figure: str | None = None
    """The figure that ranks the points."""
    best: int | None = None
    """Number of the best point so far."""
    answer: str | None = None
    """What the points so far say, in one sentence."""
    points: list[StudyPoint] = Field(default_factory=list)
    error: str | None = None
    created_at: datetime | None = None

    @property
    def done(self) -> bool:
        return self.state in TERMINAL

    def to_pandas(self) -> pandas.DataFrame:
        """The points as a data frame. Needs pandas."""
        from phema.client.display.frames import frame

        return frame(self.points)

    @property
    def best_point(self) -> StudyPoint | None:
        """The best point so far."""
        return next((point for point in self.points if point.number == self.best), None)


class SearchCurvePoint(ResponseModel):
    """The model of a search at one point."""

    point: dict[str, float]
    """Value on each axis, by name."""
    value: float
    difference: float
    """Value minus that of the best point."""
    difference_error: float
    """Standard deviation of the difference."""


class SearchResult(ResponseModel):
    """The answer of a search."""

    figure: str
    point: dict[str, float]
    """The best point: value on each axis, by name."""
    value: float
    standard_error: float | None = None
    num_samples: int
    """Pictures of `value`, from seeds that no earlier step had used."""
    interval: dict[str, tuple[float, float]]
    """By axis: where the optimum lies with a probability of 95 %."""
    at_edge: dict[str, str] = Field(default_factory=dict)
    """Axes on which the best point lies at the `low` or `high` end of the range."""
    interval_reaches: dict[str, list[str]] = Field(default_factory=dict)
    """Axes whose interval contains an end of the range."""
    indistinguishable: list[SearchCurvePoint] = Field(default_factory=list)
    """Evaluated points that cannot be told from the best."""
    curve: list[SearchCurvePoint] = Field(default_factory=list)
    """The model along each axis through the best point."""
    pictures: int
    sentence: str


class SearchPoint(ResponseModel):
    """One evaluated point of a search, once for each number of pictures."""

    number: int
    step: int
    """The step that chose the point, from 0."""
    state: str
    point: dict[str, float]
    num_samples: int
    seed: int
    reconstruction_id: str | None = None
    evaluation_id: str | None = None
    figures: dict[str, float | None] | None = None
    errors: dict[str, float | None] | None = None
    error: str | None = None
    """Why the point has no figures."""


class Search(ResponseModel):
    """A search for the best point. A list of searches contains no points."""

    id: str
    run_id: str
    state: str
    spec: dict[str, Any] = Field(default_factory=dict)
    """The complete request."""
    purpose: str | None = None
    """What the latest step is for."""
    result: SearchResult | None = None
    """The answer of a finished search."""
    job: Job
    points: list[SearchPoint] = Field(default_factory=list)
    error: str | None = None
    created_at: datetime | None = None

    def to_pandas(self) -> pandas.DataFrame:
        """The evaluated points as a data frame. Needs pandas."""
        from phema.client.display.frames import frame

        return frame(self.points)

    @property
    def done(self) -> bool:
        return self.state in TERMINAL
