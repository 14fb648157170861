"""What a report is made from: plain data, wherever it was read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from phema.shared.analyses.evaluated_points import EvaluatedPoint
from phema.shared.analyses.profiles import CombinedPlan


@dataclass(frozen=True)
class HistoryLine:
    """Figures of one time of a run, by name (`loss`, `weight/dec/4/mean`); None for values that are not finite."""

    num_images: int
    values: Mapping[str, float | None]


@dataclass(frozen=True)
class ReportedRun:
    """One run of the report."""

    id: str
    name: str
    state: str
    num_images: int
    total_images: int
    config: Mapping[str, Any]
    history: Sequence[HistoryLine]
    stored: Sequence[float]
    """σ_rel of the averages that were stored while it trained."""
    thinned: bool = False
    """`history` leaves out rows between those that it has."""

    @property
    def network(self) -> Mapping[str, Any]:
        found = self.config.get("network")
        return found if isinstance(found, Mapping) else {}

    @property
    def dataset(self) -> Mapping[str, Any]:
        found = self.config.get("dataset")
        return found if isinstance(found, Mapping) else {}

    @property
    def keeps_its_learning_rate(self) -> bool:
        """Whether the learning rate never falls after its ramp-up."""
        return "learning_rate" in self.config and self.config.get("lr_decay_iterations") is None


@dataclass(frozen=True)
class FoundOptimum:
    """The answer of a search over the EMA length of one run."""

    run: str
    """Name."""
    figure: str
    num_images: int
    """Training time of the weights."""
    num_samples: int
    """Pictures from which `value` was computed."""
    sigma_rel: float
    low: float
    high: float
    """The optimum lies between these with a probability of 95 %."""
    value: float
    standard_error: float | None
    at_the_edge: bool
    """The optimum lies at the edge of the range that was searched."""
    num_pictures: int
    curve: Sequence[tuple[float, float, float]] = ()
    """The model of the figure: (σ_rel, mean, standard deviation) on a grid."""


@dataclass(frozen=True)
class ReportInputs:
    """Everything that a report shows."""

    runs: Sequence[ReportedRun]
    """In the order in which they were named."""
    points: Sequence[EvaluatedPoint]
    """Finished evaluations of the runs, newest first. Those that are compared have replicates."""
    plan: CombinedPlan | None = None
    """Reconstructions of the first run."""
    pictures: Callable[[str], bytes | None] = lambda key: None
    """The object with this key, which is a grid of pictures as a PNG; None if it is missing."""
    real: bytes | None = None
    """A grid of training pictures, one class per row, as a PNG."""
    optima: Sequence[FoundOptimum] = ()

    def grid_of(self, point: EvaluatedPoint) -> bytes | None:
        """The grid of an evaluation as a PNG, if there is one."""
        return None if point.pictures_key is None else self.pictures(point.pictures_key)
