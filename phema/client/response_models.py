"""What the API answers, as immutable objects. Fields a newer API adds are kept and readable too."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

TERMINAL = frozenset({"succeeded", "failed", "cancelled"})


class Record(BaseModel):
    """Base of all answers. `to_json()` is the API's own document."""

    model_config = ConfigDict(frozen=True, extra="allow")

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


class Job(Record):
    """A durable unit of work. `state` is queued, running, succeeded, failed or cancelled."""

    id: str
    kind: str
    state: str
    run_id: str | None = None
    request_id: str | None = None
    """The request that asked for it first; the services' log lines about it carry it."""
    progress: float = 0.0
    """0 to 1."""
    message: str | None = None
    error: str | None = None
    attempts: int = 0
    """Attempts since the last progress."""
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def done(self) -> bool:
        return self.state in TERMINAL


class Run(Record):
    """One training run. Its clock is `num_images`, the images seen."""

    id: str
    name: str
    state: str
    origin: str = "trained"
    """`trained` by phema, by an `external` training loop, or `imported` from files."""
    preset: str | None = None
    num_images: int = 0
    total_images: int
    config: dict[str, Any] = {}
    config_hash: str = ""
    created_at: datetime | None = None
    job: Job | None = None
    error: str | None = None

    @property
    def done(self) -> bool:
        return self.state in TERMINAL


class Snapshot(Record):
    """The weights of one EMA of a run at one time."""

    id: str
    num_images: int
    profile: dict[str, Any] = {}
    """How it averages the history: `kind` and that kind's fields."""
    sigma_rel: float | None = None
    """Of a power-function EMA, otherwise None."""
    pinned: bool = False
    size: int | None = None
    sha256: str | None = None
    created_at: datetime | None = None

    @property
    def average(self) -> str:
        """Its EMA, for people: `0.05`, the sigma_rel, or `half-life 50,000,000`."""
        half_life = self.profile.get("half_life_images")
        if half_life is not None:
            return f"half-life {half_life:,}"
        return str(self.profile.get("kind", "")) if self.sigma_rel is None else f"{self.sigma_rel:g}"


class Metrics(Record):
    """One line of a run's history; `values` maps names such as `loss` or `weight/dec/4/mean` to figures."""

    num_images: int
    values: dict[str, float | None]


class PlannedSnapshot(Record):
    """A snapshot, or a vector of the plan's basis."""

    id: str | None = None
    num_images: int
    profile: dict[str, Any] = {}
    sigma_rel: float | None = None


class Errors(Record):
    """What the coefficients of a reconstruction promise."""

    profile_error: float | None = None
    """Relative L2 distance between the wanted and the reconstructed profile; None where raw weights take part."""
    rounding_error: float | None = None
    """What the rounding of the stored weights adds up to, relative to the weights."""
    predicted_error: float
    """Expected relative L2 distance of the weights from the wanted average."""
    noise_gain: float
    """Euclidean norm of the coefficients: how much the snapshots' rounding is amplified."""


class TensorCoefficients(Errors):
    """Tensors whose name matches `pattern` have a profile of their own."""

    pattern: str
    profile: dict[str, Any]
    label: str
    coefficients: list[float]


class PlannedOutput(Errors):
    """One profile of a plan: `coefficients` (one per snapshot) and what they promise."""

    profile: dict[str, Any]
    label: str
    """The profile in short, for people."""
    sigma_rel: float | None = None
    """Of a power-function EMA, otherwise None."""
    coefficients: list[float]
    advice: str | None = None
    """Why the fit is poor and what would mend it; None for a good one."""
    tensors: list[TensorCoefficients] = []
    """Of a per-tensor profile: all that is not its default."""


class Plan(Record):
    """What a reconstruction would read and how well it would do, computed without reading any weights."""

    num_images: int
    snapshots: list[PlannedSnapshot]
    outputs: list[PlannedOutput]
    bytes_to_read: int
    seconds: float | None = None
    """Time to read them at the speed of the latest reconstructions; None before there was one."""
    calibrated: bool = False
    """Whether the run's own snapshots told how much its weights move."""
    basis_id: str | None = None
    """The basis that is read instead of snapshots."""


class Reconstruction(Errors):
    """One set of weights reconstructed from a run's snapshots."""

    id: str
    run_id: str
    num_images: int
    profile: dict[str, Any]
    label: str
    """The profile in short, for people; different ones may share it."""
    sigma_rel: float | None = None
    """Of a power-function EMA, otherwise None."""
    state: str
    dtype: str = "float32"
    regularize: bool = True
    advice: str | None = None
    """Why the fit is poor and what would mend it; None for a good one."""
    job_id: str | None = None
    error: str | None = None
    size: int | None = None
    sha256: str | None = None
    created_at: datetime | None = None

    @property
    def done(self) -> bool:
        return self.state in TERMINAL


class Evaluation(Record):
    """Figures and pictures of one reconstruction under one sampling recipe."""

    id: str
    run_id: str
    reconstruction_id: str
    num_images: int
    profile: dict[str, Any]
    label: str
    """The profile in short, for people; different ones may share it."""
    sigma_rel: float | None = None
    """Of a power-function EMA, otherwise None."""
    state: str
    recipe: dict[str, Any] = {}
    figures: dict[str, float | None] | None = None
    """Name and value of each figure of the recipe's metrics; None until the job is done."""
    job_id: str | None = None
    error: str | None = None
    created_at: datetime | None = None

    @property
    def done(self) -> bool:
        return self.state in TERMINAL
