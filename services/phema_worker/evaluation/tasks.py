"""The tasks of an evaluation and their outcomes. Plain values: no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from phema.services.phema_worker.task_outcomes import Done
from phema.shared.metrics.figures import FigureValue

Identities = dict[str, dict[str, Any]]
"""`ExtractorIdentity.document()` by extractor name."""


@dataclass(frozen=True)
class Weights:
    """A finished reconstruction in the store."""

    reconstruction_id: str
    key: str
    sha256: str


@dataclass(frozen=True)
class Network:
    """What draws the pictures of an evaluation. `config` is the run's configuration as JSON."""

    weights: Weights
    guide: Weights | None
    config: dict[str, Any]
    recipe: dict[str, Any]


@dataclass(frozen=True)
class PrepareTask:
    """Make sure that extractors and reference statistics exist. Writes no object that a row will name."""

    token: str
    evaluation_id: str
    run_id: str
    network: Network

    @property
    def keys(self) -> tuple[str, ...]:
        return ()


@dataclass(frozen=True)
class DrawTask:
    """Draw the pictures with seeds `first` to `first + count - 1`, counted from the recipe's seed."""

    token: str
    part_id: str
    network: Network
    extractors: Identities
    fingerprint: str
    """Of the run's dataset, when the evaluation was prepared."""
    first: int
    count: int
    grid: bool
    """The part is the evaluation's grid: pictures are kept, and row r shows class r."""
    key: str

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.key,)


@dataclass(frozen=True)
class StoredPart:
    """A part whose features are in the store."""

    key: str
    sha256: str
    count: int
    seconds: float
    busy_seconds: float


@dataclass(frozen=True)
class ScoreTask:
    """Compute the figures from the parts, which are in the order of their seeds."""

    token: str
    evaluation_id: str
    network: Network
    extractors: Identities
    fingerprint: str
    parts: tuple[StoredPart, ...]
    grid: StoredPart
    pictures_key: str
    archive_key: str | None
    """Key of the zip file of all pictures, for recipes that keep them."""

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.pictures_key,) if self.archive_key is None else (self.pictures_key, self.archive_key)


EvaluationTask = PrepareTask | DrawTask | ScoreTask


@dataclass(frozen=True)
class Prepared(Done):
    """The evaluation can be drawn with these extractors, from the dataset with this fingerprint."""

    extractors: Identities
    fingerprint: str


@dataclass(frozen=True)
class Drawn(Done):
    """A part is in the store."""

    num_sampled: int
    busy_seconds: float
    """Time in which sampler and extractors worked; the rest of `seconds` they waited for weights and the store."""


@dataclass(frozen=True)
class Scored(Done):
    """Figures by name, and what decided them."""

    figures: dict[str, FigureValue]
    provenance: dict[str, Any]
