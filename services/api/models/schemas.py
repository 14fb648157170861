"""Promoted models as JSON."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path, Query
from pydantic import Field, field_validator

from phema.services.api.http.schema_base import BodyId, RequestModel, ResponseModel, Timestamp

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
RESERVED = ("mdl-", "rec-")
"""Beginnings of ids; a name that begins so could be taken for one."""

ModelRef = Annotated[
    str,
    Path(
        max_length=120,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(:[0-9]{1,9})?$",
        description="Name of a model (its latest version), `name:version`, or id.",
    ),
]
NameQuery = Annotated[
    str | None, Query(max_length=100, pattern=_NAME, description="Only versions of the model with this name.")
]


class ModelCreate(RequestModel):
    """A finished reconstruction, and the name under which it is kept."""

    name: str = Field(
        max_length=100,
        pattern=_NAME,
        description="Name of the model. Each promotion under a name is its next version, from 1.",
    )
    reconstruction_id: BodyId = Field(description="A finished reconstruction.")
    description: str | None = Field(default=None, min_length=1, max_length=10_000, description="Markdown for the card.")

    @field_validator("name")
    @classmethod
    def _is_no_id(cls, name: str) -> str:
        if name.startswith(RESERVED):
            raise ValueError(f"{name!r} looks like an id; names must not begin with {' or '.join(RESERVED)}")
        return name


class ModelFigures(ResponseModel):
    """One evaluation of the weights, as it was at the promotion."""

    recipe: dict[str, Any]
    guide: dict[str, Any] | None = Field(description="Run, time, profile and SHA-256 of the guide; null without one.")
    figures: dict[str, float | None]
    errors: dict[str, float | None] | None = Field(
        description="Standard errors of the figures that have one; null if the evaluation estimated none."
    )
    provenance: dict[str, Any] | None = Field(description="What the figures were computed with; null if unknown.")


class Model(ResponseModel):
    """One version of a model."""

    id: str
    name: str
    version: int
    reference: str = Field(description="`name:version`.")
    description: str | None
    run_id: str
    run: str = Field(description="Name of the run.")
    reconstruction_id: str
    num_images: int
    profile: dict[str, Any] = Field(description="How the weights average the training history: `kind` and its fields.")
    label: str = Field(description="Short name of the profile, for people; not unique.")
    sigma_rel: float | None = Field(description="Relative width of a power-function EMA; null for other kinds.")
    dtype: str
    size: int = Field(description="Bytes of the weights.")
    sha256: str
    evaluations: list[ModelFigures]
    created_at: Timestamp


class ModelDetail(Model):
    """A version of a model with its lineage."""

    config_hash: str = Field(description="SHA-256 of the run's configuration.")
    weights_code_version: str | None = Field(description="Version of phema that wrote the weights.")
    code_version: str = Field(description="Version of phema that promoted them.")
    lineage: dict[str, Any] = Field(
        description="The snapshots with their SHA-256, their coefficients and the predicted errors."
    )
    network: dict[str, Any] | None = Field(description="Configuration of the network; null if it is not phema's.")
