"""The API's responses about averages of a run: plans, reconstructions, curves, previews, bases, retention."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field, PrivateAttr

from phema.client.response_models import TERMINAL, Job, PictureSource, ResponseModel


class PlannedSnapshot(ResponseModel):
    """A snapshot that the reconstruction reads, or a vector of the plan's basis."""

    id: str | None = None
    num_images: int
    profile: dict[str, Any] = Field(default_factory=dict)
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


class LearningRateMultiplier(ResponseModel):
    """By what an average multiplies the learning rate of the training at `num_images`."""

    num_images: int
    multiplier: float


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
    learning_rate: list[LearningRateMultiplier] = Field(default_factory=list)
    """The decay of the learning rate that the average stands for, at 50, 75, 90 and 95 % of its time."""
    tensors: list[TensorCoefficients] = Field(default_factory=list)
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


class ProfileCurve(ResponseModel):
    """Weighting of training history, wanted and reconstructed, as weight per share of training at `times` (images)."""

    output: int
    """Index in the plan's outputs."""
    pattern: str | None = None
    """Pattern of the tensors' names; None for the profile of all tensors that match no pattern."""
    label: str
    sigma_rel: float | None = None
    times: list[float]
    wanted: list[float] | None = None
    """None for raw weights, whose profile is an impulse."""
    reconstructed: list[float] | None = None
    """None if raw weights are read."""


class SnapshotShare(ResponseModel):
    """What one stored EMA contributes: one coefficient per curve."""

    num_images: int
    label: str
    sigma_rel: float | None = None
    coefficients: list[float]


class ProfileCurves(ResponseModel):
    """A plan and its curves (the paper's Figure 4)."""

    plan: Plan
    curves: list[ProfileCurve]
    shares: list[SnapshotShare]


class PreviewPlan(ResponseModel):
    """What a preview would read, and how long it would take."""

    plan: Plan
    parameters: int
    """Parameters of the run's network."""
    seconds: float | None = None
    """Estimated duration at the speed of the latest previews; None before the first one."""
    large: bool = False
    """Whether drawing takes long: more than 2 s, or a network of more than 5 million parameters before anything is
    measured."""


class Preview(PredictedErrors):
    """Pictures of one average, whose weights are not stored, in a PNG grid."""

    id: str
    run_id: str
    num_images: int
    profile: dict[str, Any]
    label: str
    """A short text for the profile. Different profiles may have the same label."""
    sigma_rel: float | None = None
    """σ_rel of a power-function EMA; None for other profiles."""
    state: str
    request: dict[str, Any] = Field(default_factory=dict)
    """Seeds, class and settings of the sampler."""
    basis_id: str | None = None
    """The basis that is read instead of snapshots, if any."""
    size: int | None = None
    sha256: str | None = None
    job_id: str | None = None
    error: str | None = None
    created_at: datetime | None = None
    _picture: PictureSource = PrivateAttr(default_factory=PictureSource)

    @property
    def done(self) -> bool:
        return self.state in TERMINAL


class BasisPlan(ResponseModel):
    """What `compact` would read and store."""

    num_images: int
    sigma_rel_min: float
    sigma_rel_max: float
    tolerance: float
    profiles: list[dict[str, Any]] = Field(default_factory=list)
    """Averages besides the range of sigma_rel that the basis covers."""
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
    profiles: list[dict[str, Any]] = Field(default_factory=list)
    """Averages besides the range of sigma_rel that the basis covers."""
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


class DecayForecastLine(ResponseModel):
    """Predicted errors of one learning-rate decay (`lr_decay`), before and after the policy is applied."""

    shape: str
    length_images: int
    before: float | None
    after: float | None


class Forecast(ResponseModel):
    """Predicted errors of reconstructions at one training time."""

    num_images: int
    errors: list[ForecastLine]
    decays: list[DecayForecastLine] = Field(default_factory=list)


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
