"""Reconstructions and their plans as JSON."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from services.api.jobs.schemas import Job
from services.api.schema import MAX_COUNT, Answer, Body, Timestamp
from shared.catalog import JobState
from shared.recipes.config import SIGMA_REL_LIMIT

MAX_OUTPUTS = 256

Dtype = Literal["float32", "float16", "bfloat16"]


def _profiles(given: Any) -> tuple[float, ...]:
    """One number or a list of them, as distinct possible widths. Raises ValueError."""
    values = given if isinstance(given, list | tuple) else [given]
    if not 1 <= len(values) <= MAX_OUTPUTS:
        raise ValueError(f"must name 1 to {MAX_OUTPUTS} profiles, got {len(values)}")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            raise ValueError(f"must be a number or a list of numbers, got {value!r}")
        if not 0 < value < SIGMA_REL_LIMIT:
            raise ValueError(
                f"{value:g} is impossible: a power-function EMA has 0 < sigma_rel < 1/sqrt(12) = {SIGMA_REL_LIMIT:.4f}"
            )
    if len(set(values)) != len(values):
        raise ValueError(f"{list(values)} names a profile twice")
    return tuple(map(float, values))


_NUMBER = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": SIGMA_REL_LIMIT}
Profiles = Annotated[
    tuple[float, ...],
    BeforeValidator(_profiles),
    WithJsonSchema(
        {"anyOf": [_NUMBER, {"type": "array", "items": _NUMBER, "minItems": 1, "maxItems": MAX_OUTPUTS}]},
        mode="validation",
    ),
]


class ReconstructionCreate(Body):
    """Which EMA lengths are wanted, and of what time."""

    sigma_rel: Profiles = Field(description="Relative width of the wanted EMA, or a list of them; exact values.")
    num_images: Annotated[int, Field(ge=1, le=MAX_COUNT)] | None = Field(
        default=None, description="A time with a snapshot; absent for the latest that has every tracked EMA."
    )
    dtype: Dtype = Field(default="float32", description="Type of the weights in the file.")
    plan_only: bool = Field(
        default=False, description="Answer what would be read and how exact it would be; do nothing."
    )


class PlannedSnapshot(Answer):
    num_images: int
    sigma_rel: float | None


class PlannedOutput(Answer):
    sigma_rel: float | None
    coefficients: list[float] = Field(description="One per snapshot of the plan, in its order.")
    predicted_error: float = Field(description="Relative L2 distance of the reconstructed from the wanted profile.")
    noise_gain: float = Field(description="Euclidean norm of the coefficients: amplification of storage rounding.")


class Plan(Answer):
    """What a reconstruction would read and give, known without reading any weights."""

    num_images: int
    snapshots: list[PlannedSnapshot]
    outputs: list[PlannedOutput]
    bytes_to_read: int


class Reconstruction(Answer):
    """Weights of one EMA length, chosen after training."""

    id: str
    run_id: str
    state: JobState
    num_images: int
    sigma_rel: float | None
    dtype: Dtype
    predicted_error: float
    noise_gain: float
    job_id: str | None
    error: str | None
    size: int | None = Field(description="Bytes of the file; null until it is done.")
    sha256: str | None
    created_at: Timestamp


class UsedSnapshot(PlannedSnapshot):
    id: str
    sha256: str


class ReconstructionDetail(Reconstruction):
    """A reconstruction with its lineage."""

    snapshots: list[UsedSnapshot]
    coefficients: list[float]


class ReconstructionsAccepted(Answer):
    """The wanted outputs, in the order of `sigma_rel`, and the job that makes those nobody had asked for before."""

    job: Job | None = Field(description="Null when no new work was needed; each output names the job that makes it.")
    reconstructions: list[Reconstruction]
