"""Presets as JSON."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from phema.services.api.http.schema_base import ResponseModel


class Preset(ResponseModel):
    """A run configuration by name, with its cost and the figures that the paper reports."""

    name: str
    summary: str = Field(description="Configuration, width and data in one line.")
    num_parameters: int
    num_parameters_without_uncertainty: int = Field(
        description="Without the uncertainty head, which only training uses."
    )
    gflops: float = Field(
        description="Estimated cost of one evaluation of the network; a multiply-accumulate is one flop."
    )
    training_zettaflops: float = Field(description="Estimated cost of the whole training, in 10^21 flops.")
    fid: float | None = Field(description="Published FID without guidance; null if none is published.")
    fid_sigma_rel: float | None = Field(description="EMA length (σ_rel) of the published FID.")
    fd_dinov2: float | None = Field(description="Published Fréchet distance of DINOv2 features without guidance.")
    fd_dinov2_sigma_rel: float | None = Field(description="EMA length (σ_rel) of the published distance.")
    config: dict[str, Any] = Field(description="The complete configuration of a run of this preset without overrides.")
