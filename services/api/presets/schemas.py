"""Presets as JSON."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from phema.services.api.http.schema_base import ResponseModel


class Preset(ResponseModel):
    """A recipe by name, what it costs, and what the paper says came of it."""

    name: str
    summary: str = Field(description="Configuration, width and data in one line.")
    num_parameters: int
    num_parameters_without_uncertainty: int = Field(description="Without the uncertainty head, used in training only.")
    gflops: float = Field(description="Estimated cost of one evaluation; a multiply-accumulate is one flop.")
    training_zettaflops: float = Field(description="Estimated cost of the whole training, in 10^21 flops.")
    fid: float | None = Field(description="Published FID without guidance; null where there is none.")
    fid_sigma_rel: float | None = Field(description="EMA length at which it was reached.")
    fd_dinov2: float | None = Field(description="Published Fréchet distance of DINOv2 features without guidance.")
    fd_dinov2_sigma_rel: float | None = Field(description="EMA length at which it was reached.")
    config: dict[str, Any] = Field(description="The complete configuration a run of this preset has without overrides.")
