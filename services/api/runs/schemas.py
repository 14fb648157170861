"""Runs and their history as JSON."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from phema.services.api.http.schema_base import EXTERNAL, RequestModel, ResponseModel, Timestamp
from phema.services.api.jobs.schemas import Job
from phema.shared.catalog import JobState


def _is_free(name: str) -> str:
    if name == EXTERNAL:
        raise ValueError(f"{name!r} is the path at which runs are opened; choose another name")
    # A run is found by id or by name; a name that looks like an id could hide another run.
    if name.startswith("run-"):
        raise ValueError(f"{name!r} must not start with run-, as the ids of runs do")
    return name


RunName = Annotated[
    str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$"), AfterValidator(_is_free)
]


class RunCreate(RequestModel):
    """A new training run: a preset and the fields that differ from it."""

    name: RunName = Field(description="Unique; letters, digits and `._-`.")
    preset: Annotated[str, Field(max_length=100)] = Field(description="Name of a preset; GET /v1/presets lists them.")
    config: dict[str, Any] = Field(
        default={}, description="Fields that replace those of the preset's configuration, nested in the same way."
    )


class Run(ResponseModel):
    """One training run. Its clock is `num_images`, the images seen."""

    id: str
    name: str
    state: JobState
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
    job: Job
    error: str | None


class HistoryRow(ResponseModel):
    """Measurements of a run at one time."""

    num_images: int
    values: dict[str, float | None] = Field(
        description="By name: loss, denoising_loss, loss_by_noise/…, learning_rate, grad_norm, grad_nonfinite, "
        "images_per_second, data_wait_share, step_seconds/…, activation/…, weight/…, training_activation/…, "
        "training_weight/…; null where the figure was not finite."
    )
