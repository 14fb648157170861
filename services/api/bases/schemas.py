"""Bases and their plans as JSON."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from phema.services.api.http.schema_base import MAX_COUNT, RequestModel, ResponseModel, Timestamp
from phema.services.api.jobs.schemas import Job
from phema.shared.catalog import JobState
from phema.shared.recipes.run_config import SIGMA_REL_LIMIT
from phema.shared.snapshots.profile import MIN_SIGMA_REL, Profile

SigmaRel = Annotated[float, Field(ge=MIN_SIGMA_REL, lt=SIGMA_REL_LIMIT)]


class BasisCreate(RequestModel):
    """The time and the range of EMA lengths that a basis covers, and its tolerance."""

    num_images: Annotated[int, Field(ge=1, le=MAX_COUNT)] | None = Field(
        default=None,
        description="A time with a snapshot. By default the latest time at which every tracked EMA is stored.",
    )
    sigma_rel_min: SigmaRel = Field(default=0.02, description="Shortest EMA that the basis covers.")
    sigma_rel_max: SigmaRel = Field(default=0.25, description="Longest EMA that the basis covers.")
    tolerance: float = Field(
        default=1e-4, ge=1e-7, le=0.1, description="Largest relative error of the weights that the basis may add."
    )
    profiles: tuple[Profile, ...] = Field(
        default=(),
        max_length=64,
        description="Other averages that the basis covers, such as learning-rate decays (`lr_decay`).",
    )
    plan_only: bool = Field(default=False, description="Return what would be read and stored; do nothing.")

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if not self.sigma_rel_min < self.sigma_rel_max:
            raise ValueError(f"sigma_rel_min {self.sigma_rel_min:g} must be below sigma_rel_max {self.sigma_rel_max:g}")
        return self

    @field_validator("profiles")
    @classmethod
    def _plain(cls, profiles: tuple[Profile, ...]) -> tuple[Profile, ...]:
        for index, profile in enumerate(profiles):
            if profile.kind in ("basis", "per_tensor") or profile.last_times is not None:
                raise ValueError(f"names {profile.label} at place {index}; give profiles of a single, definite average")
        return profiles


class BasisSnapshot(ResponseModel):
    num_images: int
    profile: dict[str, Any]


class BasisPlan(ResponseModel):
    """What making a basis would read and store. Computed without reading any weights."""

    num_images: int
    sigma_rel_min: float
    sigma_rel_max: float
    tolerance: float
    profiles: list[dict[str, Any]] = Field(description="Other averages that the basis covers.")
    vectors: int = Field(description="Number of vectors of the basis. Any EMA length costs one pass over them.")
    snapshots: list[BasisSnapshot] = Field(description="Snapshots from which the vectors are made.")
    bytes_to_read: int
    bytes_to_store: int = Field(description="Bytes of the vectors in float32, to about 1 %.")
    error_added: float = Field(
        description="Largest relative error that the basis adds to a reconstruction in its range."
    )
    basis_id: str | None = Field(
        description="A finished basis that covers the request, so nothing needs to be read or stored; otherwise null."
    )


class Basis(ResponseModel):
    """A few vectors that replace all snapshots of a run up to one time."""

    id: str
    run_id: str
    state: JobState
    num_images: int
    sigma_rel_min: float
    sigma_rel_max: float
    tolerance: float
    profiles: list[dict[str, Any]] = Field(description="Other averages that the basis covers.")
    vectors: int
    error_added: float
    size: int | None = Field(description="Bytes of all vectors; null until they are stored.")
    job_id: str | None
    error: str | None
    created_at: Timestamp


class BasisAccepted(ResponseModel):
    """The basis, and the job that makes it."""

    job: Job | None = Field(description="Null when no new job was needed; the basis names the job that makes it.")
    basis: Basis
