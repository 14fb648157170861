"""Runs and their history as JSON."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from phema.services.api.http.schema_base import ResponseModel, Timestamp
from phema.services.api.jobs.schemas import Job
from phema.services.api.run_plans.schemas import RunName, WantedRun
from phema.shared.catalog import FailureCause, JobState, RunState


class RunCreate(WantedRun):
    """A new training run."""

    name: RunName = Field(description="Unique; letters, digits and `._-`.")


class Parent(ResponseModel):
    """The stored weights from which a fork began."""

    run_id: str
    num_images: int = Field(description="Images that the other run had seen.")
    checkpoint_id: str | None = Field(description="The checkpoint from which the fork continued.")
    reconstruction_id: str | None = Field(description="The reconstruction whose weights the fork began with.")


class Run(ResponseModel):
    """One training run. Its clock is `num_images`, the images seen."""

    id: str
    name: str
    state: RunState
    origin: str = Field(
        description="`trained` by phema, written by an `external` training loop, or `imported` from files."
    )
    preset: str | None = Field(description="Null for a run without a preset.")
    num_images: int = Field(description="Images seen so far.")
    total_images: int = Field(
        description="Length of the training. For a run of unknown length: the images seen, at least 1."
    )
    config: dict[str, Any] = Field(
        description="The complete, frozen configuration. For a run that phema does not train: its user's description."
    )
    config_hash: str = Field(description="SHA-256 of the configuration's canonical JSON.")
    created_at: Timestamp
    parent: Parent | None = Field(description="What a fork began from; null for a run that began with random weights.")
    delete_at: Timestamp | None = Field(description="When the run will be deleted; null when nobody asked for that.")
    silent_since: Timestamp | None = Field(
        description="Of an open `external` run whose writer has fallen silent: when it wrote for the last time."
    )
    job: Job
    error: str | None
    cause: FailureCause | None = Field(description="Kind of the failure that `error` describes; null if unknown.")


class HistoryRow(ResponseModel):
    """Measurements of a run at one time."""

    num_images: int
    values: dict[str, float | None] = Field(
        description="By name: loss, denoising_loss, loss_by_noise/…, learning_rate, grad_norm, grad_nonfinite, "
        "images_per_second, data_wait_share, step_seconds/…, activation/…, weight/…, training_activation/…, "
        "training_weight/…; null where the figure was not finite."
    )


class CurvePoint(ResponseModel):
    """The best EMA length of a run at one time."""

    num_images: int
    sigma_rel: float = Field(description="EMA length with the best figure at this time.")
    figure: str = Field(description="Name of the figure that ranks.")
    value: float | None
    standard_error: float | None
    evaluation_id: str
    edge: bool = Field(
        description="Whether the best is at the end of its bracket: the optimum may lie outside, and the next bracket "
        "moves there."
    )


class ProgressCurve(ResponseModel):
    """What the continuous evaluation of a run has found so far."""

    run_id: str
    state: JobState | None = Field(description="Of the continuous evaluation; null for a run without one.")
    points: list[CurvePoint] = Field(description="In order of time.")
    failures: list[str] = Field(description="Errors of points without figures, one sentence each.")
    stopped: str | None = Field(description="Why the stop rule ended the run; null if it did not.")
    job: Job | None
