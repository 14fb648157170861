"""Requests for runs that phema does not train, and for their snapshots."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, field_validator

from phema.services.api.http.schema_base import MAX_COUNT, RequestModel
from phema.services.api.run_plans.schemas import RunName
from phema.shared.snapshots.files.header import StoredDtype
from phema.shared.snapshots.files.weight_probe import PROBE_WEIGHTS, probed_weights
from phema.shared.snapshots.profile import Profile

Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]
_PROBE_BYTES = 4 * PROBE_WEIGHTS


class ExternalRunOpen(RequestModel):
    """A run whose snapshots another program writes."""

    name: RunName = Field(description="Unique; letters, digits and `._-`.")
    origin: Literal["external", "imported"] = Field(
        default="external", description="`external`: your own training loop; `imported`: read from files."
    )
    config: dict[str, Any] = Field(
        default={},
        description="A description of the training: any JSON object. With a complete configuration, like that of a run "
        "of phema, reconstructions can be sampled and evaluated.",
    )
    total_images: Count | None = Field(
        default=None, description="Length of the training, if known; otherwise it grows with the snapshots."
    )

    @field_validator("config")
    @classmethod
    def _is_json(cls, config: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(config, allow_nan=False)
        except ValueError as error:
            raise ValueError("config holds NaN or an infinity, which JSON has not; send it as text") from error
        return config


class SnapshotRegister(RequestModel):
    """A snapshot file that is already in the store. `profile` is of any kind except basis and per_tensor."""

    num_images: Count = Field(description="Images seen.")
    # Without a description: pydantic would now and then show it in other schemas that hold profiles.
    profile: Profile
    dtype: StoredDtype = Field(description="Dtype of its averaged tensors.")
    key: Annotated[str, Field(min_length=1, max_length=1000)] = Field(
        description="`runs/RUN_ID/snapshots/TIME-LABEL-SHA256.safetensors`: the time in 12 digits, the profile's label."
    )
    size: Count = Field(description="Bytes of the file.")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    probe: Annotated[str, Field(max_length=4 * ((_PROBE_BYTES + 2) // 3))] | None = Field(
        default=None,
        description="Base64 of the file's sample of weights; phema predicts the errors of reconstructions from it.",
    )

    @field_validator("profile")
    @classmethod
    def _is_an_average(cls, profile: Profile) -> Profile:
        if profile.kind in ("basis", "per_tensor"):
            raise ValueError(f"of kind {profile.kind!r} is no average that a training loop keeps")
        return profile

    @field_validator("probe")
    @classmethod
    def _is_a_probe(cls, probe: str | None) -> str | None:
        if probe is not None:
            try:
                data = base64.b64decode(probe, validate=True)
            except binascii.Error as error:
                raise ValueError("must be base64") from error
            if len(data) % 4 or len(data) > _PROBE_BYTES:
                raise ValueError(f"holds {len(data)} bytes; it must hold at most {PROBE_WEIGHTS} float32 of 4 bytes")
            if not np.isfinite(probed_weights(data)).all():
                raise ValueError("holds values that are not finite numbers; send none")
        return probe

    @property
    def probe_bytes(self) -> bytes | None:
        return None if self.probe is None else base64.b64decode(self.probe)
