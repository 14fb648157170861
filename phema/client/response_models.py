"""The API's responses as immutable objects. Fields that a newer API adds are kept and can be read."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

TERMINAL = frozenset({"succeeded", "failed", "cancelled"})


class ResponseModel(BaseModel):
    """Base class of all responses. `to_json()` returns the API's JSON document."""

    model_config = ConfigDict(frozen=True, extra="allow")

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


class Job(ResponseModel):
    """A durable unit of work. `state` is queued, running, succeeded, failed or cancelled."""

    id: str
    kind: str
    state: str
    run_id: str | None = None
    request_id: str | None = None
    """Id of the request that created the job. The services' log lines about the job contain it."""
    progress: float = 0.0
    """0 to 1."""
    message: str | None = None
    error: str | None = None
    attempts: int = 0
    """Number of attempts since the last progress."""
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def done(self) -> bool:
        return self.state in TERMINAL


class Run(ResponseModel):
    """One training run. Its training time is `num_images`, the number of images seen."""

    id: str
    name: str
    state: str
    origin: str = "trained"
    """`trained` (by phema), `external` (by another training loop) or `imported` (from files)."""
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


class Snapshot(ResponseModel):
    """The weights of one EMA of a run at one time."""

    id: str
    num_images: int
    profile: dict[str, Any] = {}
    """The weighting of the training history: `kind` and the fields of that kind."""
    sigma_rel: float | None = None
    """σ_rel of a power-function EMA; None for other profiles."""
    pinned: bool = False
    size: int | None = None
    sha256: str | None = None
    created_at: datetime | None = None

    @property
    def average(self) -> str:
        """A short text for the profile: the sigma_rel, such as `0.05`, or `half-life 50,000,000`."""
        half_life = self.profile.get("half_life_images")
        if half_life is not None:
            return f"half-life {half_life:,}"
        return str(self.profile.get("kind", "")) if self.sigma_rel is None else f"{self.sigma_rel:g}"


class Metrics(ResponseModel):
    """One row of a run's history. `values` maps names such as `loss` or `weight/dec/4/mean` to numbers."""

    num_images: int
    values: dict[str, float | None]


class PlannedSnapshot(ResponseModel):
    """A snapshot that the reconstruction reads, or a vector of the plan's basis."""

    id: str | None = None
    num_images: int
    profile: dict[str, Any] = {}
    sigma_rel: float | None = None


class PredictedErrors(ResponseModel):
    """Predicted errors of a reconstruction, from its coefficients."""

    profile_error: float | None = None
    """Relative L2 distance between the wanted and the reconstructed profile; None if raw weights are combined."""
    rounding_error: float | None = None
    """Error from the rounding of the stored weights, relative to the weights."""
    predicted_error: float
    """Expected relative L2 distance of the weights from the wanted average."""
    noise_gain: float
    """Euclidean norm of the coefficients, by which the rounding of the snapshots is amplified."""


class TensorCoefficients(PredictedErrors):
    """The profile and coefficients of the tensors whose names match `pattern`."""

    pattern: str
    profile: dict[str, Any]
    label: str
    coefficients: list[float]


class PlannedOutput(PredictedErrors):
    """One profile of a plan: `coefficients` (one per snapshot) and their predicted errors."""

    profile: dict[str, Any]
    label: str
    """A short text for the profile."""
    sigma_rel: float | None = None
    """σ_rel of a power-function EMA; None for other profiles."""
    coefficients: list[float]
    advice: str | None = None
    """Why the fit is poor and how to improve it; None for a good fit."""
    tensors: list[TensorCoefficients] = []
    """The tensors of a `per_tensor` profile that do not have its default."""


class Plan(ResponseModel):
    """What a reconstruction would read, and its predicted errors. Computed without reading weights."""

    num_images: int
    snapshots: list[PlannedSnapshot]
    outputs: list[PlannedOutput]
    bytes_to_read: int
    seconds: float | None = None
    """Estimated duration in seconds at the speed of the latest reconstructions; None before the first one."""
    calibrated: bool = False
    """Whether the errors are calibrated with the movement of this run's own weights."""
    basis_id: str | None = None
    """The basis that is read instead of snapshots, if any."""


class Reconstruction(PredictedErrors):
    """One set of weights reconstructed from a run's snapshots."""

    id: str
    run_id: str
    num_images: int
    profile: dict[str, Any]
    label: str
    """A short text for the profile. Different profiles may have the same label."""
    sigma_rel: float | None = None
    """σ_rel of a power-function EMA; None for other profiles."""
    state: str
    dtype: str = "float32"
    regularize: bool = True
    advice: str | None = None
    """Why the fit is poor and how to improve it; None for a good fit."""
    job_id: str | None = None
    error: str | None = None
    size: int | None = None
    sha256: str | None = None
    created_at: datetime | None = None

    @property
    def done(self) -> bool:
        return self.state in TERMINAL


class Evaluation(ResponseModel):
    """Metrics and pictures of one reconstruction under one sampling recipe."""

    id: str
    run_id: str
    reconstruction_id: str
    num_images: int
    profile: dict[str, Any]
    label: str
    """A short text for the profile. Different profiles may have the same label."""
    sigma_rel: float | None = None
    """σ_rel of a power-function EMA; None for other profiles."""
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


class BasisPlan(ResponseModel):
    """What `compact` would read and store."""

    num_images: int
    sigma_rel_min: float
    sigma_rel_max: float
    tolerance: float
    vectors: int
    bytes_to_read: int
    bytes_to_store: int
    error_added: float
    """Largest relative error that the basis adds to a reconstruction within its range."""
    basis_id: str | None = None
    """A finished basis that covers the request, if there is one. Nothing has to be read or stored then."""


class Basis(ResponseModel):
    """A few vectors that replace all snapshots of a run up to one training time."""

    id: str
    run_id: str
    state: str
    num_images: int
    sigma_rel_min: float
    sigma_rel_max: float
    tolerance: float
    vectors: int
    error_added: float
    size: int | None = None
    job_id: str | None = None
    error: str | None = None
    created_at: datetime | None = None

    @property
    def done(self) -> bool:
        return self.state in TERMINAL


class Amount(ResponseModel):
    """A number of snapshots and their size in bytes."""

    snapshots: int
    bytes: int


class ForecastLine(ResponseModel):
    """Predicted errors of one EMA length, before and after the policy is applied."""

    sigma_rel: float
    before: float | None
    after: float | None
    """Predicted relative error of the weights; None if no reconstruction is possible any more."""


class Forecast(ResponseModel):
    """Predicted errors of reconstructions at one training time."""

    num_images: int
    errors: list[ForecastLine]


class Retention(ResponseModel):
    """What a retention policy frees, and its effect on reconstructions.

    `job` deletes the snapshots; it is None for a dry run.
    """

    policy: str
    dry_run: bool
    frees: Amount
    keeps: Amount
    pinned: int
    """Number of snapshots that the policy would delete but that are pinned."""
    in_use: int
    """Number of snapshots that stay because a job reads them or training may write them again."""
    times_lost: int
    """Number of training times that have no snapshot afterwards."""
    forecasts: list[Forecast]
    refused: str | None = None
    """Why the policy would be refused without `force`."""
    job: Job | None = None
